"""Progress of long work: a bar on a terminal, a plain line now and then in a log file."""

from __future__ import annotations

import time
from types import TracebackType

import click
from tqdm import tqdm

from shards.machine import human_time

LINE_EVERY_S = 15.0
_silent = False


def silence() -> None:
    """Show no progress from now on: of several processes that share a terminal, one does."""
    global _silent
    _silent = True


class Progress:
    """Counts work done, with rate and time left; writes to stderr, so stdout stays clean.

    Work that an earlier run already did (``initial``) counts as done but not towards the rate.
    """

    def __init__(self, label: str, total: int, unit: str, initial: int = 0) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = self._initial = initial
        self._start = self._last_line = time.perf_counter()
        self._bar = tqdm(
            total=total, initial=initial, desc=label, unit=f" {unit}",
            disable=True if _silent else None, leave=False,
            smoothing=0.1, dynamic_ncols=True,
        )  # fmt: skip

    def update(self, count: int, note: str = "") -> None:
        """Add ``count`` units; ``note`` stands behind the rate."""
        self._done += count
        if not self._bar.disable:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif not _silent and (now := time.perf_counter()) - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            rate = (self._done - self._initial) / (now - self._start)
            left = human_time((self._total - self._done) / rate) if rate else "unknown time"
            click.echo(
                f"{self._label}: {self._done:,}/{self._total:,} {self._unit}, {_rate(rate)}/s, "
                f"{left} left{', ' + note if note else ''}",
                err=True,
            )

    def skip(self, count: int) -> None:
        """Count units that an earlier run did: they are done, and say nothing about the rate."""
        self._initial += count
        self._done += count
        if not self._bar.disable:
            self._bar.initial += count
            self._bar.update(count)

    def __enter__(self) -> Progress:
        """Use as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        self._bar.close()


def _rate(rate: float) -> str:
    """Never 0 for what does move."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
