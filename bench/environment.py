"""What a figure depends on beside the code that is measured: machine, versions, commit, load."""

from __future__ import annotations

import importlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from typing import Any

import torch

from shards.machine import allowed_cores, available_memory, cpu_model, human_bytes
from shards.settings import CODE_ROOT
from train.config.device import hidden_gpu
from train.engine.run import versions

PACKAGES = {
    "opencv": "cv2",
    "pillow": "PIL",
    "simplejpeg": "simplejpeg",
    "dali": "nvidia.dali",
}
BUSY = 0.5
"""Load average over cores above which other work must have been running before the start."""
COMMAND_TIMEOUT_S = 10


def environment() -> dict[str, Any]:
    """Plain data about here and now; to be taken before measuring, which loads the machine."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(["bench", *sys.argv[1:]]),
        "commit": git_commit(),
        "machine": {
            "cpu": cpu_model(),
            "cores_allowed": allowed_cores(),
            "cores_present": os.cpu_count() or 1,
            "memory_available": available_memory(),
            "gpus": gpus(),
            "gpu_driver": gpu_driver(),
            "system": platform.platform(),
        },
        "versions": versions() | {name: _version(module) for name, module in PACKAGES.items()},
        "load_before": load_average(),
    }


def describe(content: dict[str, Any]) -> str:
    """One or two lines about the machine, for above the figures."""
    machine, packages = content["machine"], content["versions"]
    cores = f"{machine['cores_allowed']} of {machine['cores_present']} cores"
    gpu = ", ".join(machine["gpus"]) or hidden_gpu() or "no GPU"
    line = (
        f"{machine['cpu']}, {cores}, {human_bytes(machine['memory_available'])} free memory, {gpu}; "
        f"torch {packages['torch']}, commit {content['commit'] or 'unknown'}"
    )
    load = content["load_before"]
    if load is not None and load > BUSY * machine["cores_allowed"]:
        line += f"\nnote: the machine was busy before the start (load average {load:.1f}): "
        line += "the figures are lower than they could be, and their spread is wider"
    return line


def load_average() -> float | None:
    """Processes that ran or waited for a core, over the last minute; None where not told."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def gpus() -> list[str]:
    """Name and memory of each CUDA device that torch can use."""
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(at) for at in range(torch.cuda.device_count())]
    return [f"{each.name} {each.total_memory / 2**30:.0f} GiB" for each in found]


def gpu_driver() -> str | None:
    """Version of the NVIDIA driver, None without one."""
    smi = shutil.which("nvidia-smi")
    text = _output(smi, "--query-gpu=driver_version", "--format=csv,noheader") if smi else None
    return text.splitlines()[0] if text else None


def git_commit() -> str | None:
    """Short hash of the code's commit, with ``+changes`` where files differ; None outside git."""
    git = shutil.which("git")
    if git is None or not (CODE_ROOT / ".git").exists():  # installed, perhaps in another repository
        return None
    commit = _output(git, "-C", str(CODE_ROOT), "rev-parse", "--short=12", "HEAD")
    if not commit:
        return None
    status = _output(
        git, "-C", str(CODE_ROOT), "--no-optional-locks", "status", "--porcelain", "-uno"
    )
    return f"{commit}+changes" if status else commit


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(module: str) -> str:
    try:
        return str(importlib.import_module(module).__version__)
    except (ImportError, OSError, AttributeError):
        return "none"
