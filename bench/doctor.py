"""What this machine has for hyphae, and the command that mends what it lacks."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import click

from shards.errors import UserError
from shards.machine import allowed_cores, available_memory, free_disk, human_bytes
from shards.settings import path_setting

Level = Literal["ok", "note", "warning", "problem"]
GB = 10**9
REPAIR = "make -B setup; where that does not help: rm -rf .venv && make setup"
DALI_MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    name: str
    value: str
    level: Level = "ok"
    """``note``: slower or less than it could be; ``warning``: a large loss, shown loudly;
    ``problem``: hyphae does not work."""
    remedy: str = ""
    """The command, or the few words, that mend it."""


def run_doctor() -> list[Finding]:
    """Look at everything hyphae uses; takes a few seconds, most of them importing torch."""
    checks: list[Callable[[], Finding]] = [
        _python,
        _torch,
        _torchvision,
        _gpu,
        _dali,
        _pillow,
        _opencv,
        _simplejpeg,
        _bf16,
        _compiler,
        _cores,
        _profile,
        _memory,
        _shared_memory,
        _disk_here,
        _disk_for_runs,
    ]
    return [check() for check in checks]


@click.command()
@click.pass_context
def doctor(context: click.Context) -> None:
    """Show what was found on this machine, and how to mend what is missing.

    Exit code 1 if something keeps hyphae from working, else 0.
    """
    findings = run_doctor()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        click.echo(_line(finding, width))
    problems = sum(finding.level == "problem" for finding in findings)
    if problems:
        click.echo(f"\n{problems} of these keep hyphae from working: see 'mend' above")
        context.exit(1)
    click.echo("\nhyphae can work here")


def _line(finding: Finding, width: int) -> str:
    label = {"ok": "ok", "note": "note", "warning": "WARNING", "problem": "PROBLEM"}[finding.level]
    line = f"{label:<8} {finding.name:<{width}}  {finding.value}"
    if finding.remedy:
        line += f"\n{'':<8} {'':<{width}}  mend: {finding.remedy}"
    colour = {"ok": None, "note": None, "warning": "yellow", "problem": "red"}[finding.level]
    return click.style(line, fg=colour, bold=True) if colour else line


def _import(name: str) -> ModuleType | str:
    """The module, or why it cannot be imported: broken wheels raise all sorts of errors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except Exception as error:
        reason = str(error).splitlines() or [""]
        return f"cannot be imported ({type(error).__name__}: {reason[0]})"


def _package(name: str, module_name: str) -> Finding:
    """A package that hyphae cannot do without."""
    module = _import(module_name)
    if isinstance(module, str):
        return Finding(name=name, value=module, level="problem", remedy=REPAIR)
    return Finding(name=name, value=str(getattr(module, "__version__", "version unknown")))


def _python() -> Finding:
    value = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding(name="Python", value=value)


def _torch() -> Finding:
    torch = _import("torch")
    if isinstance(torch, str):
        return Finding(name="torch", value=torch, level="problem", remedy=REPAIR)
    build = f"CUDA {torch.version.cuda} build" if torch.version.cuda else "build without CUDA"
    return Finding(name="torch", value=f"{torch.__version__}, {build}")


def _torchvision() -> Finding:
    return _package("torchvision", "torchvision")


def _gpu() -> Finding:
    torch = _import("torch")
    device = _import("train.config.device")
    if isinstance(torch, str) or isinstance(device, str):
        return Finding(name="GPU", value="not looked for: torch does not work", level="note")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about an old driver; told below
        has_cuda = torch.cuda.is_available()
        hidden = None if has_cuda else device.hidden_gpu()
    if has_cuda:
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        value = "; ".join(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus)
        return Finding(name="GPU", value=value)
    if hidden:
        remedy = (
            "`nvidia-smi` shows the CUDA version of the driver: update the driver, or "
            "make setup TORCH_INDEX=<index of torch builds for that CUDA version>"
        )
        return Finding(name="GPU", value=hidden, level="warning", remedy=remedy)
    if torch.backends.mps.is_available():
        return Finding(name="GPU", value="Apple (mps)")
    return Finding(name="GPU", value="none: training runs on the CPU", level="note")


def _dali() -> Finding:
    if platform.system() != "Linux" or platform.machine() not in DALI_MACHINES:
        value = "none for this platform: the opencv loader is used"
        return Finding(name="DALI", value=value, level="note")
    module = _import("nvidia.dali")
    if isinstance(module, str):
        value = f"{module}: the opencv loader is used"
        return Finding(name="DALI", value=value, level="warning", remedy=REPAIR)
    return Finding(name="DALI", value=str(module.__version__))


def _pillow() -> Finding:
    module = _import("PIL.Image")
    if isinstance(module, str):
        return Finding(name="PIL", value=module, level="problem", remedy=REPAIR)
    version = str(module.__version__)
    if ".post" in version:  # how Pillow-SIMD numbers its releases
        return Finding(name="PIL", value=f"{version}, Pillow-SIMD")
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return Finding(name="PIL", value=f"{version}, Pillow (Pillow-SIMD is for Linux on x86-64)")
    return Finding(
        name="PIL",
        value=f"{version}, Pillow, not Pillow-SIMD: packing takes about twice as long",
        level="note",
        remedy="apt install build-essential libjpeg-dev zlib1g-dev && make -B setup",
    )


def _opencv() -> Finding:
    return _package("OpenCV", "cv2")


def _simplejpeg() -> Finding:
    return _package("simplejpeg", "simplejpeg")


def _bf16() -> Finding:
    device = _import("train.config.device")
    if isinstance(device, str):
        return Finding(
            name="bf16 on CPU", value=f"unknown: train.config.device {device}", level="note"
        )
    if device.cpu_supports_bf16():
        return Finding(name="bf16 on CPU", value="yes")
    return Finding(name="bf16 on CPU", value="no: training on the CPU uses fp32", level="note")


def _compiler() -> Finding:
    """What ``torch.compile`` needs: a C++ compiler, and Python's headers for what it builds."""
    name = "C compiler"
    candidates = filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++"))
    compiler = next((path for path in map(shutil.which, candidates) if path), None)
    mac = platform.system() == "Darwin"
    if compiler is None:
        remedy = "xcode-select --install" if mac else "apt install build-essential"
        value = "none: no torch.compile, training is slower"
        return Finding(name=name, value=value, level="note", remedy=remedy)
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        value = f"{compiler}, but no Python.h: torch.compile may fail"
        remedy = f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-dev"
        return Finding(name=name, value=value, level="note", remedy=remedy)
    return Finding(name=name, value=compiler)


def _cores() -> Finding:
    cores, present = allowed_cores(), os.cpu_count() or 1
    return Finding(
        name="CPU cores",
        value=f"{cores} allowed of {present}",
        level="note" if cores < present else "ok",
    )


def _profile() -> Finding:
    """What ``bench tune`` found; a damaged profile is passed over by all commands."""
    tuned, device = _import("train.config.tuned"), _import("train.config.device")
    if isinstance(tuned, str) or isinstance(device, str):
        return Finding(name="tuned", value="unknown: torch does not work", level="note")
    profile, problem = tuned.read_profile(device.choose_device("auto")[0])
    if problem is not None:
        return Finding(name="tuned", value=problem, level="note", remedy="bench tune")
    if profile is None:
        value = "not yet: threads, prefetch and the like are defaults"
        return Finding(name="tuned", value=value, level="note", remedy="bench tune")
    return Finding(name="tuned", value=str(profile))


def _memory() -> Finding:
    free = available_memory()
    value = f"{human_bytes(free)} available"
    if free < 1 * GB:
        remedy = "close other programs or raise the container's limit"
        return Finding(name="memory", value=value, level="problem", remedy=remedy)
    if free < 4 * GB:
        remedy = "a smaller --batch-size if training is killed"
        return Finding(name="memory", value=value, level="note", remedy=remedy)
    return Finding(name="memory", value=value)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding(name="shared memory", value="no /dev/shm")
    size = shutil.disk_usage(folder).total
    value = f"/dev/shm of {human_bytes(size)}"
    if size >= 1 * GB:
        return Finding(name="shared memory", value=value)
    return Finding(
        name="shared memory",
        value=f"{value}: too small for the torchvision loader's workers",
        level="note",
        remedy="docker run --shm-size=8g, or another loader",
    )


def _disk_here() -> Finding:
    return _disk("disk here", Path.cwd(), full="note")


def _disk_for_runs() -> Finding:
    name = "disk for runs"
    try:
        folder = path_setting("log_dir") or Path("runs")
    except UserError as error:  # a local.toml that cannot be read
        remedy = "correct it after local.toml.example"
        return Finding(name=name, value=error.message, level="problem", remedy=remedy)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        value = f"{folder}: {existing} cannot be written"
        remedy = 'log_dir = "/another/folder" in local.toml, or HYPHAE_LOG_DIR'
        return Finding(name=name, value=value, level="problem", remedy=remedy)
    return _disk(name, folder, full="problem")


def _disk(name: str, folder: Path, *, full: Level) -> Finding:
    free = free_disk(folder)
    value = f"{human_bytes(free)} free in {folder}"
    if free < 1 * GB:
        remedy = "free some space, or set log_dir and shards_dir in local.toml to another disk"
        return Finding(name=name, value=value, level=full, remedy=remedy)
    if free < 20 * GB:
        value += "; the mushroom photographs alone are 12 GB"
        return Finding(name=name, value=value, level="note")
    return Finding(name=name, value=value)
