"""What a worker process does first: it leaves Ctrl-C to its parent, and never outlives it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Freshly spawned processes: no thread, lock or map of the parent is in them."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)


def start_worker() -> None:
    """Initialise a worker.

    A terminal sends SIGINT to every process; the parent answers, and decides what becomes of the
    work under way. A parent that was killed cannot, so a worker watches for its end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
