"""``--profile``: torch's profiler over a few steps, a trace to look at, and what took the time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from loaders.batch import Batch

SKIPPED_STEPS, PROFILED_STEPS = 5, 5
"""Warm-up (caches, cuDNN's choice, compilation), then what is recorded; fewer in a short epoch."""
TOP = 10
TRACE = "profile.json"
WAIT = "wait for the loader"


def profiled(
    batches: Iterator[Batch], steps: int, folder: Path, say: Callable[[str], None]
) -> Generator[Batch]:
    """Pass batches on while the profiler watches what the loop does with them.

    Args:
        batches: Of one epoch; the time to the next one is taken for a step.
        steps: How many there are.
        folder: Where the trace goes, as :data:`TRACE`.
        say: Prints the summary, once the last profiled step is done.
    """
    skipped = max(0, min(SKIPPED_STEPS, steps - PROFILED_STEPS))
    active = min(PROFILED_STEPS, steps - skipped)
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)

    def report(finished: profile) -> None:
        finished.export_chrome_trace(str(folder / TRACE))
        for line in summary_lines(finished, active, folder / TRACE):
            say(line)

    warm_up = min(1, skipped)
    with warnings.catch_warnings():  # of an epoch too short for a step of warm-up
        warnings.filterwarnings("ignore", "Profiler won't be using warmup", UserWarning)
        plan = schedule(wait=skipped - warm_up, warmup=warm_up, active=active, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=report) as profiler:
        while True:
            with record_function(WAIT):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch
            profiler.step()


def summary_lines(finished: profile, steps: int, trace: Path) -> list[str]:
    """The operations that took most time, their own and not that of what they call."""
    events: list[Any] = [
        each for each in finished.key_averages() if not each.key.startswith("ProfilerStep")
    ]
    on_device = any(each.self_device_time_total > 0 for each in events)
    where = "device" if on_device else "cpu"
    times = {each.key: getattr(each, f"self_{where}_time_total") for each in events}
    calls = {each.key: each.count for each in events}
    total = sum(times.values()) or 1.0
    largest = sorted(times, key=lambda name: -times[name])[:TOP]
    return [
        f"profile of {steps} step{'s' * (steps > 1)}, {total / 1e3 / steps:.1f} ms of {where} time "
        "each; the most of it:",
        *(
            f"  {times[name] / total:5.1%}  {times[name] / 1e3 / steps:9.2f} ms a step  "
            f"{calls[name] / steps:7.0f} calls  {name}"
            for name in largest
        ),
        f"look at {trace} with https://ui.perfetto.dev",
    ]
