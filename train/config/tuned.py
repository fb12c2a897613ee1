"""What ``bench tune`` found best on this machine: its profile, which ``auto`` follows.

A file of its own for each machine and device, in ``$XDG_CONFIG_HOME/hyphae`` (``~/.config/hyphae``), so
that machines which share a home folder do not share a profile.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from shards.machine import allowed_cores, cpu_model
from shards.plain import from_plain
from shards.writer import atomic_file
from train.config.limits import check_limits

CompileMode = Literal["default", "max-autotune-no-cudagraphs"]
COMMAND = "`bench tune`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A profile; None where the search left a choice alone."""

    machine: dict[str, Any]
    """As of :func:`machine_of`."""
    date: str
    arch: str
    """Which was trained for the search, like the two that follow."""
    image_size: int
    batch_size: int
    threads: int | None = None
    prefetch: int | None = None
    micro_batch: int | None = None
    """For this architecture, image size and batch alone: larger ones may not fit the memory."""
    compile_mode: CompileMode | None = None
    hw_decoder_load: float | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "batch_size", *CHOICES):
            if name != "compile_mode":
                check_limits(name, getattr(self, name))

    def choices(self) -> dict[str, Any]:
        """What was chosen, by field of the configuration."""
        return {name: value for name in CHOICES if (value := getattr(self, name)) is not None}

    def __str__(self) -> str:
        chosen = ", ".join(f"{name} {value}" for name, value in self.choices().items())
        return f"{chosen or 'nothing'}, on {self.date} with {self.arch} at {self.image_size} px"


CHOICES = ("threads", "prefetch", "micro_batch", "compile_mode", "hw_decoder_load")


def machine_of(device: torch.device) -> dict[str, Any]:
    """What a profile is for: processor, cores, and the device that trains."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"cpu": cpu_model(), "cores": allowed_cores(), "device": name}


def profile_file(machine: Mapping[str, Any]) -> Path:
    """Where the profile of a machine lies."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    digest = hashlib.sha256(json.dumps(dict(machine), sort_keys=True).encode()).hexdigest()
    return Path(base).expanduser() / "hyphae" / f"tuned-{digest[:12]}.json"


def read_profile(device: torch.device) -> tuple[Tuned | None, str | None]:
    """The profile of this machine, if there is one, and what is wrong with it, if anything is."""
    machine = machine_of(device)
    file = profile_file(machine)
    try:
        tuned = from_plain(Tuned, json.loads(file.read_text(encoding="utf-8")), "profile")
        if tuned.machine != machine:
            raise ValueError(f"it is of another machine, {tuned.machine}")
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"the profile {file} cannot be read: {error.strerror}"
    except (ValueError, OverflowError, RecursionError) as error:
        return None, f"the profile {file} is damaged ({error}); {COMMAND} writes it anew"
    return tuned, None


def write_profile(tuned: Tuned) -> Path:
    """Keep a profile in place of the one before."""
    file = profile_file(tuned.machine)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as out:
        out.write((json.dumps(asdict(tuned), indent=1) + "\n").encode())
    return file


def forget_profile(device: torch.device) -> Path | None:
    """Remove the profile of this machine; the file, or None where there was none."""
    file = profile_file(machine_of(device))
    if not file.exists():
        return None
    file.unlink()
    return file
