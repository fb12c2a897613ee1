"""The doctor finds what is missing, says how to mend it, and fails only when hyphae cannot work."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import bench.doctor as module
from bench.doctor import Finding, doctor, run_doctor


def replace_module(monkeypatch: pytest.MonkeyPatch, name: str, fake: Any) -> None:
    original = module._import
    monkeypatch.setattr(
        module, "_import", lambda wanted: fake if wanted == name else original(wanted)
    )


@pytest.fixture
def linux_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.platform, "system", lambda: "Linux")
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    return run_doctor()


def test_doctor_reports_everything_that_a_bug_report_needs(findings: list[Finding]) -> None:
    names = {finding.name for finding in findings}
    assert names >= {"Python", "torch", "GPU", "DALI", "PIL", "OpenCV", "simplejpeg"}
    assert names >= {"bf16 on CPU", "C compiler", "CPU cores", "memory", "disk here"}


def test_every_warning_and_problem_comes_with_a_remedy(findings: list[Finding]) -> None:
    assert all(each.remedy for each in findings if each.level in ("warning", "problem"))


@pytest.mark.usefixtures("linux_x86")
def test_missing_dali_is_a_warning_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    finding = module._dali()
    assert finding.level == "warning"
    assert "opencv loader" in finding.value
    assert "make -B setup" in finding.remedy


def test_missing_dali_is_only_a_note_where_no_dali_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.platform, "system", lambda: "Darwin")
    finding = module._dali()
    assert (finding.level, finding.remedy) == ("note", "")


@pytest.mark.usefixtures("linux_x86")
@pytest.mark.parametrize(("version", "level"), [("12.1.1.post0", "ok"), ("13.0.0", "note")])
def test_pillow_simd_is_told_from_pillow_by_its_version(
    monkeypatch: pytest.MonkeyPatch, version: str, level: str
) -> None:
    replace_module(monkeypatch, "PIL.Image", SimpleNamespace(__version__=version))
    finding = module._pillow()
    assert (finding.level, bool(finding.remedy)) == (level, level == "note")


def test_a_gpu_that_torch_cannot_use_is_a_loud_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    device = SimpleNamespace(hidden_gpu=lambda: "NVIDIA L40S, driver too old")
    fakes = {"torch": torch, "train.config.device": device}
    monkeypatch.setattr(module, "_import", fakes.__getitem__)
    finding = module._gpu()
    assert (finding.level, finding.value) == ("warning", "NVIDIA L40S, driver too old")
    assert "TORCH_INDEX=" in finding.remedy
    assert "WARNING" in module._line(finding, width=3)


def test_missing_compiler_is_a_note_about_torch_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda _name: None)
    finding = module._compiler()
    assert finding.level == "note"
    assert "torch.compile" in finding.value
    assert "install" in finding.remedy


def test_low_memory_keeps_hyphae_from_working(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 10**8)
    assert module._memory().level == "problem"


def test_a_full_disk_is_a_problem_for_runs_and_a_note_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HYPHAE_LOG_DIR", str(tmp_path / "runs to be"))
    monkeypatch.setattr(module, "free_disk", lambda _path: 10**6)
    assert module._disk_for_runs().level == "problem"
    assert module._disk_here().level == "note"


def test_an_unreadable_local_toml_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HYPHAE_LOG_DIR", raising=False)
    (tmp_path / "local.toml").write_text("log_dir = ")
    monkeypatch.chdir(tmp_path)
    finding = module._disk_for_runs()
    assert finding.level == "problem"
    assert "local.toml" in finding.value


def test_command_exits_1_on_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Finding(name="torch", value="cannot be imported", level="problem", remedy="make -B setup")
    ]
    monkeypatch.setattr(module, "run_doctor", lambda: found)
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 1
    assert "PROBLEM" in result.output
    assert "mend: make -B setup" in result.output


def test_command_exits_0_with_notes_and_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Finding(name="CPU cores", value="2 allowed of 64", level="note"),
        Finding(name="GPU", value="one that torch cannot use", level="warning", remedy="update"),
    ]
    monkeypatch.setattr(module, "run_doctor", lambda: found)
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 0
    assert "WARNING" in result.output
