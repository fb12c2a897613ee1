"""Processes that work for this one: signals are its own affair, and they never outlive it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from types import TracebackType
from typing import ParamSpec, TypeVar

from shards.commands import signals_held

P = ParamSpec("P")
T = TypeVar("T")


class _Worker(SpawnProcess):
    """A process that SIGTERM does not reach."""

    def terminate(self) -> None:
        """As the pool does to all once one of them was killed."""
        self.kill()


class _Context(SpawnContext):
    Process = _Worker


class _Pool(ProcessPoolExecutor):
    """Stops when asked to: work under way is finished, work that waits is not begun.

    A terminal, and most schedulers, send signals to every process of a group. The parent answers;
    workers are born with both signals blocked, so that not even their first moments are disturbed.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Hand out work, which starts workers as needed: never half of one."""
        with signals_held():
            return super().submit(fn, *args, **kwargs)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the work, all of it only where nothing failed."""
        self.shutdown(wait=True, cancel_futures=kind is not None)


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Freshly spawned processes: no thread, lock or map of the parent is in them."""
    return _Pool(workers, _Context(), _watch_parent)


def _watch_parent() -> None:
    """Initialise a worker: a parent that was killed cannot end it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
