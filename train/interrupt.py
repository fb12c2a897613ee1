"""SIGINT and SIGTERM: while torch is imported, and as a wish that the loop grants between steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

import click

STDERR = 2
"""Its number for the system: Python's own file may be in use when the signal comes."""


@contextmanager
def importing() -> Iterator[None]:
    """Ctrl-C while torch is imported, which takes seconds, ends the process there and then.

    An exception will not do: torch and NumPy catch it amid their imports and go on half loaded.
    """
    before = {each: signal.signal(each, _leave) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _leave(signum: int, _frame: FrameType | None) -> None:
    os.write(STDERR, b"interrupted\n")
    os._exit(128 + signum)


class StopRequest:
    """Remembers the first signal; a second SIGINT ends the program at once, without saving."""

    def __init__(self) -> None:
        self._signum: int | None = None
        self._writing = False
        self._before: dict[signal.Signals, Any] = {}

    def requested(self) -> bool:
        """Whether somebody wants the run to stop."""
        return self._signum is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM."""
        return 128 + (self._signum or signal.SIGINT)

    @contextmanager
    def held_off(self) -> Iterator[None]:
        """Nothing interrupts what runs within; meant for the seconds in which files are written."""
        self._writing = True
        try:
            yield
        finally:
            self._writing = False

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
        if self._signum is None:
            self._signum = signum
            with suppress(RuntimeError):  # the signal came while this very stream was written
                click.echo(
                    "\nstopping after this step, then saving (Ctrl-C again: at once)", err=True
                )
        elif signum == signal.SIGINT and not self._writing:
            for each in self._before:  # a third must not tear apart what the second one ends
                signal.signal(each, signal.SIG_IGN)
            raise KeyboardInterrupt
