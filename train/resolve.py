"""``auto`` becomes a choice with a reason: device, precision, compile, loader, threads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from loaders.config import Backend
from loaders.factory import choose_backend
from shards.machine import allowed_cores
from train.config import TrainConfig
from train.deterministic import set_deterministic
from train.device import (
    DTYPES,
    choose_compile,
    choose_device,
    choose_memory_format,
    choose_precision,
)
from train.distributed import local_size


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
    micro_batch: int | None = None
    """Images that pass through the network at once in training; None: the batch."""
    reasons: dict[str, str]
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
        """Plain data, for JSON and checkpoints."""
        return {
            "device": str(self.device),
            "precision": self.precision,
            "compile": self.compile,
            "loader": self.loader,
            "threads": self.threads,
            "channels_last": self.channels_last,
            "micro_batch": self.micro_batch or "batch",
        }

    def __str__(self) -> str:
        named = {
            "device": str(self.device),
            "precision": self.precision,
            "channels_last": "on" if self.channels_last else "off",
            "compile": "on" if self.compile else "off",
            "loader": self.loader,
            "threads": str(self.threads),
            "micro_batch": str(self.micro_batch or "the batch"),
        }
        return "; ".join(f"{name} {value} ({self.reasons[name]})" for name, value in named.items())


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
    threads = config.threads or cores
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
        micro_batch=config.micro_batch,
        url=url,
        reasons={
            "device": device_reason,
            "precision": precision_reason,
            "channels_last": format_reason,
            "compile": compile_reason,
            "loader": loader_reason,
            "threads": "asked for" if config.threads else _cores_reason(cores),
            "micro_batch": "asked for" if config.micro_batch else "nothing smaller is asked for",
        },
    )


def with_choice(resolved: Resolved, name: str, value: Any, reason: str) -> Resolved:
    """The same with one more choice, made where it can be."""
    reasons = resolved.reasons | {name: reason}
    return replace(resolved, **{name: value, "reasons": reasons})


def _cores_reason(cores: int) -> str:
    shared = f" for each of {local_size()} processes" if local_size() > 1 else ""
    return f"{cores} cores allowed{shared}"
