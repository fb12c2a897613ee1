"""Threads that work ahead of a consumer whom a signal may interrupt anywhere.

``concurrent.futures`` is not made for that. Who submits a call or waits for its result takes locks
in Python code, and where Ctrl-C is raised between such a lock and the block that gives it back, the
threads that need it wait for ever, and the process never ends. Consumers touch nothing here but a
:class:`queue.SimpleQueue`, which takes and gives back its lock within one step.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, ParamSpec, TypeVar, cast

__all__ = ["Call", "CancelledError", "Threads"]

P = ParamSpec("P")
T = TypeVar("T")


class Call(Generic[T]):
    """A call that a thread makes, and what came of it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function: Callable[[], T] | None = function
        self._outcome: tuple[T | None, BaseException | None] | None = None
        self._made: SimpleQueue[None] = SimpleQueue()

    def result(self) -> T:
        """What the function returned, as soon as it has; for one thread to ask, as often as it likes.

        Raises:
            CancelledError: The call was cancelled, or its threads ended, before its turn.
            BaseException: What the function raised.
        """
        if self._outcome is None:
            self._made.get()
        assert self._outcome is not None
        returned, raised = self._outcome
        if raised is not None:
            try:
                raise raised
            finally:
                del raised  # the exception holds this frame
        return cast(T, returned)

    def cancel(self) -> None:
        """Leave it out, unless its turn has come."""
        self._function = None

    def make(self) -> None:
        """Have the outcome."""
        function, self._function = self._function, None
        try:
            if function is None:
                raise CancelledError
            self._outcome = function(), None
        except BaseException as error:
            self._outcome = None, error
        self._made.put(None)


_Calls = SimpleQueue[object]
"""What threads take their work from; anything but a call ends them all."""


class Threads:
    """So many threads, which make calls in the order in which they were submitted."""

    def __init__(
        self, count: int, name: str, *, initializer: Callable[[], None] | None = None
    ) -> None:
        """Start them; each calls ``initializer`` at first."""
        self._calls: _Calls = SimpleQueue()
        self._closed = False
        # As nobody holds these threads any more, the reference itself is put among the calls. Not by
        # weakref.finalize: Ctrl-C raised in its Python code would be dropped.
        gone = weakref.ref(self, self._calls.put)
        self._threads = [
            _Thread(f"{name}-{at}", self._calls, initializer, gone) for at in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """How many threads there are."""
        return len(self._threads)

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Have a function called by one of the threads.

        Raises:
            RuntimeError: They were closed.
        """
        call = Call(partial(function, *args, **kwargs))
        self._calls.put(call)
        if self._closed:  # looked up after that, so who closes finds every other call
            raise RuntimeError("these threads were closed")
        return call

    def close(self) -> None:
        """Cancel the calls that have not had their turn, and wait for those that have."""
        self._closed = True
        _end(self._calls)
        for thread in self._threads:
            thread.join()


class _Thread(threading.Thread):
    def __init__(
        self, name: str, calls: _Calls, initializer: Callable[[], None] | None, holds: object
    ) -> None:
        # The interpreter waits for other threads before it comes to its exit handlers.
        super().__init__(name=name, daemon=True)
        self.calls = calls
        self._initializer = initializer
        self._holds = holds

    def run(self) -> None:
        if self._initializer is not None:
            self._initializer()
        while isinstance(call := self.calls.get(), Call):
            call.make()
            del call  # its result is not held while waiting for the next one
        self.calls.put(call)


def _end(calls: _Calls) -> None:
    """Cancel what waits for its turn, and let its threads end when they are done."""
    with suppress(Empty):
        while isinstance(call := calls.get_nowait(), Call):
            call.cancel()
            call.make()
    calls.put(None)


@atexit.register
def _end_all() -> None:
    """A thread that comes back from OpenCV to an interpreter that has gone would abort."""
    threads = [each for each in threading.enumerate() if isinstance(each, _Thread)]
    for thread in threads:
        _end(thread.calls)
    for thread in threads:
        if thread.is_alive():  # one whose start was interrupted never is
            thread.join()
