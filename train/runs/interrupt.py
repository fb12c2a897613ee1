"""Signals and the time limit: while torch is imported, and as a wish that the loop grants."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

import click

from train.config.safety import Safety

STDERR = 2
"""Its number for the system: Python's own file may be in use when the signal comes."""
GO_ON, SAVE = 0, 1
"""What may be asked for after a batch; anything else is the exit code with which to save and end."""
TIME_LIMIT_CODE = 124
"""Exit code of a session that came to its time limit, as of ``timeout(1)``."""


class Stopped(Exception):
    """A session was asked to end; the argument is its exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


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
    """Remembers the first signal; a second SIGINT ends the program at once, without saving.

    Args:
        safety: Whose time limit stops as a signal does.
    """

    def __init__(self, safety: Safety | None = None) -> None:
        self._safety = safety or Safety()
        self._signum: int | None = None
        self._writing = False
        self._before: dict[signal.Signals, Any] = {}

    def requested(self) -> bool:
        """Whether somebody wants the run to stop, or its time is over."""
        return self._signum is not None or self._safety.over

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, 124 at the time limit."""
        return TIME_LIMIT_CODE if self._signum is None else 128 + self._signum

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
