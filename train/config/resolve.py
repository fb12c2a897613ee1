"""``auto`` becomes a choice with a reason: device, precision, compile, loader, threads and the like."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from loaders.config import HW_DECODER_LOAD, PREFETCH, Backend
from loaders.factory import choose_backend
from shards.machine import allowed_cores
from train.config.config import TrainConfig
from train.config.deterministic import set_deterministic
from train.config.device import (
    DTYPES,
    choose_compile,
    choose_device,
    choose_memory_format,
    choose_precision,
)
from train.config.distributed import local_size
from train.config.tuned import CompileMode, Tuned, read_profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """How a run uses the machine."""

    device: torch.device
    precision: str
    """``fp32``, ``bf16`` or ``fp16``."""
    channels_last: bool
    """Whether weights and activations lie in NHWC order, as the batches do."""
    compile: bool
    loader: Backend
    threads: int
    """Of the loader; on a CPU also of the model."""
    reasons: dict[str, str]
    prefetch: int = PREFETCH
    """Batches that the loader makes ahead."""
    micro_batch: int | None = None
    """Images that pass through the network at once; None: the batch."""
    compile_mode: CompileMode = "default"
    hw_decoder_load: float = HW_DECODER_LOAD
    """Share of the JPEGs for the decoder engines of a GPU."""
    url: str | None = None
    """Where shards are streamed from; never saved, as it may hold a key."""

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return DTYPES[self.precision]

    def autocast(self) -> torch.autocast:
        """The context in which the model runs."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.precision != "fp32")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and checkpoints; without what has no effect here."""
        content = {
            "device": str(self.device),
            "precision": self.precision,
            "channels_last": self.channels_last,
            "compile": self.compile,
            "compile_mode": self.compile_mode,
            "loader": self.loader,
            "hw_decoder_load": f"{self.hw_decoder_load:g}",
            "threads": self.threads,
            "prefetch": self.prefetch,
            "micro_batch": self.micro_batch or "batch",
        }
        without = {
            "compile_mode": not self.compile,
            "hw_decoder_load": self.loader != "dali",
        }
        return {name: value for name, value in content.items() if not without.get(name)}

    def __str__(self) -> str:
        words = {True: "on", False: "off"}
        return "; ".join(
            f"{name} {words[value] if isinstance(value, bool) else value} ({self.reasons[name]})"
            for name, value in self.to_dict().items()
        )


def resolve(config: TrainConfig, url: str | None = None, *, steps: float = math.inf) -> Resolved:
    """Decide what the configuration leaves open, and set torch up accordingly.

    Args:
        config: What is asked for.
        url: Where shards are streamed from, if they are.
        steps: Of a run; 0 for a single pass over some images.

    Raises:
        UserError: Something was asked for that this machine does not have.
    """
    device, device_reason = choose_device(config.device)
    precision, precision_reason = choose_precision(config.precision, config.amp, device)
    channels_last, format_reason = choose_memory_format(config.memory_format, device)
    compiled, compile_reason = choose_compile(config.compile, device, steps=steps)
    loader, loader_reason = config.loader, "asked for"
    if loader == "auto" and url is not None:
        loader, loader_reason = "webdataset", "the shards are streamed"
    elif loader == "auto":
        loader, loader_reason = choose_backend(device.type)
    cores = max(1, allowed_cores() // local_size())
    # What bench tune finds is for a process that has the machine to itself.
    tuned, problem = read_profile(device) if local_size() == 1 else (None, None)
    found = _Found(config, tuned)
    threads, threads_reason = found.choose("threads", cores, _cores_reason(cores))
    prefetch, prefetch_reason = found.choose("prefetch", PREFETCH, "default")
    micro_batch, micro_reason = found.choose("micro_batch", None, "the batch")
    compile_mode, mode_reason = found.choose("compile_mode", "default", "torch's own")
    load, load_reason = found.choose("hw_decoder_load", HW_DECODER_LOAD, "DALI's own")
    if problem is not None:
        threads_reason += f"; {problem}"
    if device.type == "cpu":
        torch.set_num_threads(threads)
    elif device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True  # few shapes, thousands of steps
    set_deterministic(config.deterministic)
    return Resolved(
        device=device,
        precision=precision,
        channels_last=channels_last,
        compile=compiled,
        loader=loader,
        threads=threads,
        prefetch=prefetch,
        micro_batch=micro_batch,
        compile_mode=compile_mode,
        hw_decoder_load=load,
        url=url,
        reasons={
            "device": device_reason,
            "precision": precision_reason,
            "channels_last": format_reason,
            "compile": compile_reason,
            "compile_mode": mode_reason,
            "loader": loader_reason,
            "hw_decoder_load": load_reason,
            "threads": threads_reason,
            "prefetch": prefetch_reason,
            "micro_batch": micro_reason,
        },
    )


def with_choice(resolved: Resolved, name: str, value: Any, reason: str) -> Resolved:
    """The same with one more choice, made where it can be."""
    reasons = resolved.reasons | {name: reason}
    return replace(resolved, **{name: value, "reasons": reasons})


def _cores_reason(cores: int) -> str:
    shared = f" for each of {local_size()} processes" if local_size() > 1 else ""
    return f"{cores} cores allowed{shared}"


@dataclass(frozen=True, slots=True)
class _Found:
    """What was asked for and what ``bench tune`` found, in this order."""

    config: TrainConfig
    tuned: Tuned | None

    def choose(self, name: str, default: Any, why: str) -> tuple[Any, str]:
        """A field's value and the reason for it."""
        asked, tuned = getattr(self.config, name), self.tuned
        if asked not in (None, "auto"):
            return asked, "asked for"
        if tuned is None or (found := getattr(tuned, name)) is None:
            return default, why
        if name == "threads" and local_size() > 1:  # it was found for one process
            return default, why
        if name == "micro_batch":
            measured = (tuned.arch, tuned.image_size, tuned.batch_size)
            if measured != (self.config.arch, self.config.image_size, self.config.batch_size):
                return default, why
        return found, f"tuned on {tuned.date}"
