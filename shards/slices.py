"""``--task I/N``: which slices of a job lack shards. Slice ``I`` makes every N-th shard."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shards.format import WORK_NAME
from shards.job import Job
from shards.writer import write_file

SLICES_NAME = "slices"
SHOWN = 5


def note_slices(directory: Path, count: int) -> None:
    """Note in the work folder into how many slices the job is cut."""
    write_file(directory / WORK_NAME / SLICES_NAME, b"%d\n" % count)


def missing_tasks(directory: Path, job: Job, missing: Iterable[tuple[str, int]]) -> str:
    """``--task 1/4, 3/4``: the slices that make what is missing; empty where there are none.

    Args:
        directory: Of the set.
        job: Its job.
        missing: ``(split, shard)`` of every shard that is not there.
    """
    try:
        count = int((directory / WORK_NAME / SLICES_NAME).read_bytes())
    except (OSError, ValueError):
        return ""
    shards = [(name, shard) for name, number in job.shards.items() for shard in range(number)]
    wanted = set(missing)
    parts = sorted({at % count for at, each in enumerate(shards) if each in wanted})
    more = ", ..." if len(parts) > SHOWN else ""
    return "--task " + ", ".join(f"{part}/{count}" for part in parts[:SHOWN]) + more
