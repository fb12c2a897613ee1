"""How things are timed: in short blocks, in turns, with the warm-up dropped.

The things compared take turns (A B C, A B C, ...), so that a machine that grows slower or busier
meanwhile does so for all of them. Every block is one repeat, and all repeats are kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shards.errors import JobError
from shards.progress import Progress

LEAST_REPEATS = 2
WARM_UP = -1
"""The number of the block whose value is dropped: it fills caches, builds graphs, compiles."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One of the things compared."""

    name: str
    block: Callable[[int], float]
    """Runs the repeat of that number (:data:`WARM_UP` or from 0 on) and returns its value."""
    note: str = ""


def in_turns(
    subjects: Sequence[Subject],
    repeats: int,
    label: str = "measuring",
    budget_s: float = math.inf,
) -> dict[str, tuple[float, ...]]:
    """Every subject's values, one a repeat, from interleaved blocks after a dropped warm-up.

    Args:
        subjects: What to compare.
        repeats: How many values of each.
        label: Of the progress bar.
        budget_s: Once so much time is spent, no turn begins beyond :data:`LEAST_REPEATS` [s].
    """
    values: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    start = time.perf_counter()
    with Progress(label, len(subjects) * (1 + repeats), "blocks") as progress:
        for repeat in range(WARM_UP, repeats):
            if repeat >= LEAST_REPEATS and time.perf_counter() - start > budget_s:
                break
            for subject in subjects:
                value = subject.block(repeat)
                if repeat != WARM_UP:
                    values[subject.name].append(value)
                progress.update(1, subject.name)
    return {name: tuple(each) for name, each in values.items()}


def rate(work: Iterator[int], *, min_s: float, device: torch.device, round_to: int = 1) -> float:
    """Images a second of ``work``, which yields how many images it has just done.

    Args:
        work: Is asked on until ``min_s`` have passed, or to its end.
        min_s: Length of the block [s].
        device: Waited for before and after, as its work is asynchronous.
        round_to: Stop only after a multiple of so many items: parallel workers finish at a time.
    """
    images = items = 0
    stopwatch = Stopwatch(device)
    start = time.perf_counter()
    for count in work:
        images += count
        items += 1
        if items % round_to == 0 and time.perf_counter() - start >= min_s:
            break
    elapsed = stopwatch.seconds()
    if not images:
        raise JobError("nothing to time: the data end within the warm-up")
    return images / elapsed


class Stopwatch:
    """Times what a device does from now on; on CUDA by events in its own stream of work.

    Args:
        device: Waited for, before the start and before the end.
        cuda: Stands in for ``torch.cuda`` in tests.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda
        if device.type == "cuda":
            cuda.synchronize(device)
            self._begin = self._event()
        else:
            synchronize(device)
            self._start = time.perf_counter()

    def seconds(self) -> float:
        """Since the start, once all work is done that was asked for so far."""
        if self._device.type == "cuda":
            end = self._event()
            end.synchronize()
            return float(self._begin.elapsed_time(end)) / 1000  # it tells milliseconds
        synchronize(self._device)
        return time.perf_counter() - self._start

    def _event(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self._device))
        return event


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything asked of it so far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
