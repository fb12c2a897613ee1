"""Where the time of a run goes: waiting for the loader, copies, steps, evaluation, logging."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from loaders.batch import Batch
from loaders.span import Span
from train.checkpoints.checkpoint import Progressed


class StepTimes:
    """Spans of steps and copies that are still to be read: on a GPU, at the next wait for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._steps: list[Span] = []
        self._copies: list[Span] = []

    def step(self) -> Span:
        """Around a step: forward, backward, optimizer."""
        self._steps.append(Span(self._device))
        return self._steps[-1]

    def copied(self, batch: Batch) -> None:
        """Take note of a batch's way to the device, where it had one."""
        if batch.copy is not None:
            self._copies.append(batch.copy)

    def add_to(self, done: Progressed) -> None:
        """Add up all spans so far, once the device was waited for."""
        done.step_s += sum(each.seconds() for each in self._steps)
        done.copy_s += sum(each.seconds() for each in self._copies)
        self._steps.clear()
        self._copies.clear()


def timed(batches: Iterator[Batch], done: Progressed) -> Iterator[Batch]:
    """Pass batches on; the time spent waiting for each adds up in ``done.wait_s``."""
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        done.wait_s += time.perf_counter() - start
        if batch is None:
            return
        yield batch


def add_up(done: Progressed, val_s: float, log_s: float) -> dict[str, float]:
    """Seconds since the last evaluation, by what they went to; added to those of the whole run.

    ``step`` and ``copy`` are the device's: on a GPU they run beside each other and beside ``wait``.

    Args:
        done: Its clocks, not yet set back; ``done.spent`` receives the sums.
        val_s: Of the evaluation.
        log_s: Of printing and writing what was recorded.
    """
    seconds = {
        "wait": done.wait_s,
        "copy": done.copy_s,
        "step": done.step_s,
        "evaluation": val_s,
        "logging": log_s,
    }
    for name, value in seconds.items():
        done.spent[name] = done.spent.get(name, 0.0) + value
    return seconds
