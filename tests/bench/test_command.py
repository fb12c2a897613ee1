"""The commands: options, bad input, JSON."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench.__main__ import cli
from bench.loaders import CONTESTANTS
from bench.result import Report

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


def invoke(*args: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [*map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_loaders_prints_and_writes_every_repeat(tiny_shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "loaders.json"
    code, output = invoke(
        "loaders", "--shards", tiny_shards, "--image-size", 32, "--repeats", 2, "--json", file
    )  # fmt: skip
    assert code == 0, output
    report = Report.from_json(file.read_text())
    opencv = report.sections[0].find("opencv linear")
    assert opencv is not None
    assert len(opencv.repeats) == 2
    assert report.environment["machine"]["cores_allowed"] >= 1
    assert "torchvision DataLoader" in output


def test_loaders_measures_every_combination_of_what_is_given(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.loaders.CONTESTANTS", CONTESTANTS[:1])
    file = tmp_path / "loaders.json"
    code, output = invoke(
        "loaders", "--shards", tiny_shards, "--shards", tiny_shards, "--image-size", "32,48",
        "--threads", "1,2", "--repeats", 2, "--json", file,
    )  # fmt: skip
    assert code == 0, output
    sections = Report.from_json(file.read_text()).sections
    found = [(each.settings["image_size"], each.settings["threads"]) for each in sections]
    assert found == 2 * [(32, 1), (32, 2), (48, 1), (48, 2)]
    assert sections[0].settings["stored"] == "JPEG 90, short side 96"


def test_a_second_shard_set_that_is_not_there_shows_before_the_first_is_measured(
    tiny_shards: Path, tmp_path: Path
) -> None:
    code, output = invoke("loaders", "--shards", tiny_shards, "--shards", tmp_path / "none")
    assert code == 2
    assert output.splitlines() == [output.strip()]
    assert output.startswith("error: no shard folder")


@pytest.mark.parametrize("command", ["all", "loaders", "table"])
def test_a_shard_folder_that_is_not_there_is_one_line(command: str, tmp_path: Path) -> None:
    code, output = invoke(command, "--shards", tmp_path / "none")
    assert code == 2
    assert output.splitlines()[-1].startswith("error: no shard folder")


@NO_CUDA
def test_gpu_check_without_a_gpu_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = invoke("gpu-check")
    assert code == 2
    assert len(output.splitlines()) == 1
    assert output.startswith("error: gpu-check needs a CUDA GPU")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("step", "--arch", "resnet5"), "did you mean 'resnet50'?"),
        (("table", "--arch", "resnet18,resnet5"), "did you mean 'resnet50'?"),
        (("step", "--image-size", "0"), "0 is not in the range"),
        (("loaders", "--image-size", "224,8"), "'224,8' is not a number of pixels of at least 16"),
        (("loaders", "--threads", "1,two"), "'1,two' is not a number of threads"),
        (("loaders", "--repeats", "1"), "1 is not in the range"),
        (("step", "--json", "no/such/folder/a.json"), "a folder that does not exist"),
        (("step", "--precision", "fp64"), "'fp64' is not one of fp32, bf16, fp16"),
        (("step", "--batch-size", "8,0"), "'8,0' is not a number of images"),
        (("roofline", "--arch", "resnet18,resnet5"), "did you mean 'resnet50'?"),
        (("train", "--epoch-size", "0"), "0 is not in the range"),
        (("--no-such-option",), "No such option"),
        (("laoders",), "No such command"),
        pytest.param(("step", "--device", "cuda"), "no CUDA device", marks=NO_CUDA),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(
    args: tuple[str, ...], message: str
) -> None:
    code, output = invoke(*args)
    assert code == 2
    assert message in output


def test_bare_bench_with_options_means_all(tiny_shards: Path) -> None:
    code, output = invoke("--image-size", "0")
    assert code == 2
    assert "bench all" in output or "cli all" in output
