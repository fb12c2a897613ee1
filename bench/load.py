"""What other processes do meanwhile: a figure that was measured beside them is marked."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from shards.machine import allowed_cores

STAT = Path("/proc/stat")
IDLE_COLUMNS = (3, 4)
"""idle and iowait; what follows softirq is steal, then guests, which user counts already."""
COLUMNS = 8
NOTICEABLE = 0.15
"""Share of the allowed cores that others may take before a figure is marked."""


class LoadMeter:
    """Counts the cores that other processes, or other guests of the host, keep busy."""

    def __init__(self) -> None:
        self._before = self._now()

    def others(self) -> float | None:
        """Cores that others kept busy on average since the last call; None where not told.

        Child processes count as ours once they have ended.
        """
        before, self._before = self._before, self._now()
        if before is None or self._before is None:
            return None
        seconds, busy, own = (new - old for new, old in zip(self._before, before, strict=True))
        return max(0.0, (busy - own) / seconds) if seconds > 0 else None

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Time, processor time of the machine, and of this process and its children [s]."""
        try:
            counts = [int(each) for each in STAT.read_text().splitlines()[0].split()[1:]][:COLUMNS]
        except (OSError, ValueError, IndexError):
            return None
        ticks = sum(count for at, count in enumerate(counts) if at not in IDLE_COLUMNS)
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return (
            time.monotonic(),
            ticks / os.sysconf("SC_CLK_TCK"),
            sum(each.ru_utime + each.ru_stime for each in own),
        )


def was_busy(others: float | None) -> bool:
    """Whether others took so many cores that fewer than the allowed ones were left."""
    if others is None:
        return False
    allowed = allowed_cores()
    spare = (os.cpu_count() or allowed) - allowed
    return others > spare + NOTICEABLE * allowed
