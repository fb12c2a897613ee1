"""SIGINT and SIGTERM as a wish that the loop grants between two steps."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

import click


class StopRequest:
    """Remembers the first signal; a second SIGINT ends the program at once, without saving."""

    def __init__(self) -> None:
        self._signum: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def requested(self) -> bool:
        """Whether somebody wants the run to stop."""
        return self._signum is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM."""
        return 128 + (self._signum or signal.SIGINT)

    def __enter__(self) -> StopRequest:
        """Take over the two signals."""
        for each in (signal.SIGINT, signal.SIGTERM):
            self._before[each] = signal.signal(each, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self._signum = signum
        signal.signal(signal.SIGINT, signal.default_int_handler)
        click.echo("\nstopping after this step, then saving (Ctrl-C again: at once)", err=True)
