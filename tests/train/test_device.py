"""Choices of device, precision and compiler, each with its reason, on machines made up here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shards.errors import UserError
from train.config import device as subject
from train.config.device import (
    c_compiler,
    choose_compile,
    choose_device,
    choose_memory_format,
    choose_precision,
    cpu_supports_bf16,
    hidden_gpu,
)
from train.config.recipes import create_recipe
from train.config.resolve import resolve

READ_TEXT = Path.read_text
CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@dataclass
class Machine:
    """What the functions under test are told about the machine."""

    cuda_devices: int = 0
    gpu_bf16: bool = True
    mps: bool = False
    programs: tuple[str, ...] = ()
    smi: tuple[int, str] = (0, "")
    smi_error: Exception | None = None
    cpuinfo: str | None = ""

    def which(self, name: str) -> str | None:
        return f"/usr/bin/{name}" if name in self.programs else None

    def run(self, command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        assert command[0] == "/usr/bin/nvidia-smi"
        if self.smi_error:
            raise self.smi_error
        return subprocess.CompletedProcess(command, self.smi[0], stdout=self.smi[1])

    def read(self, path: Path, *args: Any, **options: Any) -> str:
        if str(path) != "/proc/cpuinfo":
            return READ_TEXT(path, *args, **options)
        if self.cpuinfo is None:
            raise FileNotFoundError(path)
        return self.cpuinfo


def forget() -> None:
    hidden_gpu.cache_clear()
    cpu_supports_bf16.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made_up = Machine()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: made_up.cuda_devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: made_up.cuda_devices)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA L40S")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: made_up.gpu_bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: made_up.mps)
    monkeypatch.setattr(subject.shutil, "which", made_up.which)
    monkeypatch.setattr(subject.subprocess, "run", made_up.run)
    monkeypatch.setattr("train.config.tuned.cpu_model", lambda: "a made-up CPU")
    monkeypatch.setattr(Path, "read_text", lambda *args, **options: made_up.read(*args, **options))
    forget()
    yield made_up
    forget()


def test_auto_takes_cuda_then_mps_then_cpu(machine: Machine) -> None:
    assert choose_device("auto") == (CPU, "no GPU here")
    machine.mps = True
    assert choose_device("auto") == (MPS, "found an Apple GPU")
    machine.cuda_devices = 1
    assert choose_device("auto") == (CUDA, "found NVIDIA L40S")


def test_a_gpu_that_torch_cannot_use_is_said_loudly(machine: Machine) -> None:
    machine.programs, machine.smi = ("nvidia-smi",), (0, "NVIDIA L40S, 535.54\n")
    device, reason = choose_device("auto")
    assert device == CPU
    assert reason.startswith(
        "THIS MACHINE HAS A GPU THAT TORCH CANNOT USE (NVIDIA L40S, 535.54): torch "
    )
    assert "make setup TORCH_INDEX=URL" in reason
    with pytest.raises(UserError, match=r"^no CUDA device for torch: THIS MACHINE HAS A GPU"):
        choose_device("cuda")


@pytest.mark.parametrize(
    "fact",
    [
        {"programs": ()},
        {"smi": (9, "NVIDIA-SMI has failed")},
        {"smi": (0, "\n")},
        {"smi_error": OSError("no")},
        {"smi_error": subprocess.TimeoutExpired("nvidia-smi", 10)},
        {"cuda_devices": 1},
    ],
)
def test_no_hidden_gpu_is_claimed_without_evidence(machine: Machine, fact: dict[str, Any]) -> None:
    machine.programs, machine.smi = ("nvidia-smi",), (0, "NVIDIA L40S, 535.54\n")
    for name, value in fact.items():
        setattr(machine, name, value)
    assert hidden_gpu() is None


def test_a_device_that_is_there_can_be_asked_for(machine: Machine) -> None:
    machine.cuda_devices, machine.mps = 2, True
    for name in ("cpu", "cuda", "cuda:0", "cuda:1", "mps"):
        assert choose_device(name) == (torch.device(name), "asked for")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("cuda", "no CUDA device for torch: no NVIDIA GPU here"),
        ("cuda:1", "no CUDA device for torch: no NVIDIA GPU here"),
        ("mps", r"no Apple GPU \(mps\) here"),
        ("gpu", "unknown device 'gpu'; known: auto, cpu, cuda, cuda:N, mps"),
        ("", "unknown device ''; known: auto, cpu, cuda, cuda:N, mps"),
        ("meta", "unknown device 'meta'; known: auto, cpu, cuda, cuda:N, mps"),
    ],
)
def test_a_device_that_is_not_there_is_refused(machine: Machine, wanted: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        choose_device(wanted)


def test_a_cuda_number_beyond_the_last_is_refused(machine: Machine) -> None:
    machine.cuda_devices = 2
    with pytest.raises(UserError, match=r"^device cuda:2: there are 2 CUDA devices$"):
        choose_device("cuda:2")


def test_auto_precision_on_a_gpu_is_the_recipes_unless_it_lacks_bf16(machine: Machine) -> None:
    assert choose_precision("auto", "bf16", CUDA) == ("bf16", "the recipe's")
    assert choose_precision("auto", "fp16", CUDA) == ("fp16", "the recipe's")
    machine.gpu_bf16 = False
    assert choose_precision("auto", "bf16", CUDA) == ("fp16", "this GPU has no bf16")


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_bf16 sse\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("model name : bf16\nflags\t\t: fpu\n", False),
        ("", False),
        (None, False),
    ],
)
def test_auto_precision_on_a_cpu_is_bf16_only_where_the_cpu_computes_it(
    machine: Machine, cpuinfo: str | None, expected: bool
) -> None:
    machine.cpuinfo = cpuinfo
    assert choose_precision("auto", "fp16", CPU) == (
        ("bf16", "this CPU computes bf16") if expected else ("fp32", "cpu without fast bf16")
    )


def test_auto_precision_on_an_apple_gpu_is_fp32(machine: Machine) -> None:
    assert choose_precision("auto", "fp16", MPS) == ("fp32", "mps without fast bf16")


def test_a_precision_that_is_asked_for_is_kept(machine: Machine) -> None:
    for device in (CPU, CUDA, MPS):
        assert choose_precision("fp32", "fp16", device) == ("fp32", "asked for")
        assert choose_precision("bf16", "fp16", device) == ("bf16", "asked for")
    assert choose_precision("fp16", "bf16", CUDA) == ("fp16", "asked for")
    with pytest.raises(UserError, match=r"^fp16 is not for CPUs: use --precision bf16 or fp32$"):
        choose_precision("fp16", "bf16", CPU)


def test_auto_compiles_on_cuda_with_a_c_compiler_alone(machine: Machine) -> None:
    assert choose_compile("auto", CUDA) == (False, "no C compiler; install gcc for a faster step")
    machine.programs = ("gcc",)
    assert choose_compile("auto", CUDA) == (
        True,
        "CUDA, and the run is long enough to repay its warm-up",
    )
    for device in (CPU, MPS):
        assert choose_compile("auto", device)[0] is False


def test_compile_can_be_asked_for_where_a_compiler_is(machine: Machine) -> None:
    assert choose_compile("off", CUDA) == (False, "asked for")
    with pytest.raises(UserError, match="needs a C compiler"):
        choose_compile("on", CPU)
    machine.programs = ("clang",)
    assert choose_compile("on", CPU) == (True, "asked for")


@pytest.mark.parametrize("name", ["gcc", "cc", "clang"])
def test_any_of_the_usual_compilers_is_found(machine: Machine, name: str) -> None:
    machine.programs = (name,)
    assert c_compiler() == f"/usr/bin/{name}"


def test_the_memory_format_is_the_loaders_unless_another_is_asked_for() -> None:
    assert choose_memory_format("auto", CPU) == (True, "as the loader's batches")
    assert choose_memory_format("auto", MPS) == (False, "mps keeps torch's own order")
    assert choose_memory_format("contiguous", CPU) == (False, "asked for")
    assert choose_memory_format("channels_last", MPS) == (True, "asked for")


def test_every_choice_is_printed_with_its_value_and_reason(machine: Machine) -> None:
    machine.cpuinfo = "flags : avx512_bf16\n"
    resolved = resolve(create_recipe("baseline"))
    assert str(resolved).startswith(
        "device cpu (no GPU here); precision bf16 (this CPU computes bf16); channels_last on (as the "
        "loader's batches); compile off (on a CPU"
    )
    assert "loader opencv (fastest decoder on a CPU)" in str(resolved)
    assert set(resolved.to_dict()) <= set(resolved.reasons)


def test_on_a_gpu_float32_products_may_use_tf32_and_convolutions_are_tried(
    machine: Machine,
) -> None:
    machine.cuda_devices = 1
    switches = (
        (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cudnn, "benchmark"),
    )
    before = [getattr(where, name) for where, name in switches]
    try:
        for where, name in switches:
            setattr(where, name, False)
        resolve(replace(create_recipe("baseline"), loader="opencv"))
        assert [getattr(where, name) for where, name in switches] == [True, True, True]
    finally:
        for (where, name), value in zip(switches, before, strict=True):
            setattr(where, name, value)


def test_threads_that_are_asked_for_hold_for_the_model_on_a_cpu(machine: Machine) -> None:
    before = torch.get_num_threads()
    try:
        resolved = resolve(replace(create_recipe("baseline"), threads=1))
        assert torch.get_num_threads() == 1
        assert resolved.reasons["threads"] == "asked for"
    finally:
        torch.set_num_threads(before)


def test_autocast_follows_the_precision(machine: Machine) -> None:
    for precision, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        resolved = resolve(replace(create_recipe("baseline"), precision=precision))
        with resolved.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
