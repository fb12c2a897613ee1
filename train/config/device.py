"""What this machine offers a model: device, precision, compiler, each with the reason."""

from __future__ import annotations

import math
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch

from shards.errors import UserError
from train.config.config import MemoryFormat, Precision, Switch
from train.config.distributed import local_rank, local_size, rank, size

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NVIDIA_SMI_TIMEOUT_S = 10
REPAID_STEPS, REPAID_S = 1000, 900.0
"""Length of a run that repays the graph of one image size. Making it takes about a minute, which a
compiled step has to save some hundredths of a second at a time."""


def choose_device(wanted: str) -> tuple[torch.device, str]:
    """The device for ``auto``, ``cuda``, ``cuda:N``, ``mps`` or ``cpu``, and why.

    Raises:
        UserError: The device was asked for by name and is not there.
    """
    if size() > 1:
        return _device_of_rank(wanted)
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"found {torch.cuda.get_device_name()}"
        if torch.backends.mps.is_available():
            return torch.device("mps"), "found an Apple GPU"
        return torch.device("cpu"), hidden_gpu() or "no GPU here"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UserError(f"unknown device {wanted!r}; known: auto, cpu, cuda, cuda:N, mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"no CUDA device for torch: {hidden_gpu() or 'no NVIDIA GPU here'}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {wanted}: there are {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("no Apple GPU (mps) here")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"unknown device {wanted!r}; known: auto, cpu, cuda, cuda:N, mps")
    return device, "asked for"


def _device_of_rank(wanted: str) -> tuple[torch.device, str]:
    """A GPU for each process of a node, or the CPU for all."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"--device {wanted} is for one process, and torchrun started {size()}; use auto, cuda or "
            "cpu"
        )
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu":
        return torch.device("cpu"), "asked for"
    if wanted == "auto" and not gpus:
        return torch.device("cpu"), hidden_gpu() or "no GPU here"
    if local_rank() >= gpus:
        raise UserError(
            f"{local_size()} processes on this node, but {gpus} CUDA devices; start torchrun with "
            f"--nproc-per-node {max(gpus, 1)}"
        )
    return torch.device("cuda", local_rank()), f"GPU {local_rank()} for rank {rank()}"


def choose_precision(wanted: Precision, recipe: str, device: torch.device) -> tuple[str, str]:
    """``fp32``, ``bf16`` or ``fp16``, and why.

    Args:
        wanted: What the user asked for.
        recipe: The recipe's own 16-bit type, used on CUDA.
        device: Where the model runs.
    """
    if wanted != "auto":
        if wanted == "fp16" and device.type == "cpu":
            raise UserError("fp16 is not for CPUs: use --precision bf16 or fp32")
        return wanted, "asked for"
    if device.type == "cuda":
        if recipe == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return "fp16", "this GPU has no bf16"
        return recipe, "the recipe's"
    if device.type == "cpu" and cpu_supports_bf16():
        return "bf16", "this CPU computes bf16"
    return "fp32", f"{device.type} without fast bf16"


def choose_memory_format(wanted: MemoryFormat, device: torch.device) -> tuple[bool, str]:
    """Whether weights and activations lie in channels_last memory, and why."""
    if wanted != "auto":
        return wanted == "channels_last", "asked for"
    if device.type == "mps":
        return False, "mps keeps torch's own order"
    return True, "as the loader's batches"


def choose_compile(
    wanted: Switch,
    device: torch.device,
    *,
    steps: float = math.inf,
    budget_s: float = math.inf,
    graphs: int = 1,
) -> tuple[bool, str]:
    """Whether to use ``torch.compile``, and why.

    Args:
        wanted: What the user asked for.
        device: Where the model runs.
        steps: Of the run, in which the graphs have to repay the time that making them takes.
        budget_s: Time of a run that has no number of steps [s].
        graphs: Image sizes of training: each needs one.
    """
    if wanted != "auto":
        if wanted == "on" and not c_compiler():
            raise UserError("torch.compile needs a C compiler (gcc or clang); install one")
        return wanted == "on", "asked for"
    if device.type != "cuda":
        return False, "on a CPU it repays its warm-up only in long runs of deep nets"
    if not c_compiler():
        return False, "no C compiler; install gcc for a faster step"
    if steps < graphs * REPAID_STEPS:
        return False, f"from {graphs * REPAID_STEPS:,} steps on it repays its warm-up"
    if budget_s < graphs * REPAID_S:
        return False, f"from {graphs * REPAID_S / 60:g} minutes on it repays its warm-up"
    return True, "CUDA, and the run is long enough to repay its warm-up"


@cache
def cpu_supports_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices in hardware (AVX512-BF16, AMX, or Arm BF16)."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False  # macOS: oneDNN has no bf16 path there
    flags = next(
        (line for line in info.splitlines() if line.lower().startswith(("flags", "features"))), ""
    ).split()
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def c_compiler() -> str | None:
    """The C compiler that ``torch.compile`` would call, None where there is none."""
    return next((found for name in ("gcc", "cc", "clang") if (found := shutil.which(name))), None)


@cache
def hidden_gpu() -> str | None:
    """What is wrong where the machine has an NVIDIA GPU that torch cannot use; None if nothing."""
    if torch.cuda.is_available() or not (smi := shutil.which("nvidia-smi")):
        return None
    try:
        query = [smi, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    gpus = done.stdout.strip().splitlines()
    if done.returncode or not gpus:
        return None
    return (
        f"THIS MACHINE HAS A GPU THAT TORCH CANNOT USE ({gpus[0]}): torch {torch.__version__} is "
        f"built for CUDA {torch.version.cuda or 'none'}; update the driver, or install a build that "
        "fits it with `make setup TORCH_INDEX=URL`"
    )
