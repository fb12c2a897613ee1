"""Threads make calls in order, hand over what comes of them, and go with whoever holds them."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from loaders.threads import CancelledError, Threads

NAME = "hyphae-test"


@pytest.fixture
def threads() -> Iterator[Threads]:
    with closing(Threads(2, NAME)) as opened:
        yield opened


def alive() -> int:
    return sum(each.name.startswith(NAME) for each in threading.enumerate())


def has_ended(seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive()


def test_results_are_those_of_the_calls_whatever_the_order_of_asking(threads: Threads) -> None:
    calls = [threads.submit(pow, each, exp=2) for each in range(100)]
    assert [call.result() for call in reversed(calls)] == [each**2 for each in range(99, -1, -1)]


def test_one_thread_makes_calls_in_the_order_in_which_they_came() -> None:
    made: list[int] = []
    with closing(Threads(1, NAME)) as one:
        calls = [one.submit(made.append, each) for each in range(100)]
        calls[-1].result()
    assert made == list(range(100))


def test_what_a_call_raises_is_raised_as_often_as_it_is_asked_for(threads: Threads) -> None:
    call = threads.submit(divmod, 1, 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            call.result()
    assert threads.submit(divmod, 7, 2).result() == (3, 1)  # the thread lives on


def test_a_cancelled_call_is_not_made() -> None:
    made: list[int] = []
    go_on = threading.Event()
    with closing(Threads(1, NAME)) as one:
        one.submit(go_on.wait)
        cancelled, kept = one.submit(made.append, 1), one.submit(made.append, 2)
        cancelled.cancel()
        go_on.set()
        with pytest.raises(CancelledError):
            cancelled.result()
        kept.result()
    assert made == [2]


def test_closing_waits_for_what_is_under_way_and_cancels_what_is_not() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        go_on.wait()
        return "done"

    one = Threads(1, NAME)
    under_way, waiting = one.submit(work), one.submit(work)
    begun.wait()
    threading.Timer(0.1, go_on.set).start()
    one.close()
    one.close()  # again
    assert not alive()
    assert under_way.result() == "done"
    with pytest.raises(CancelledError):
        waiting.result()
    with pytest.raises(RuntimeError, match="these threads were closed"):
        one.submit(work)


def test_threads_that_nobody_holds_end() -> None:
    few = Threads(3, NAME)
    few.submit(time.sleep, 0.05)
    assert alive() == 3
    del few
    gc.collect()
    assert has_ended()


def test_results_are_not_held_by_idle_threads(threads: Threads) -> None:
    class Large:
        pass

    def count() -> int:
        return sum(isinstance(each, Large) for each in gc.get_objects())

    calls = [threads.submit(Large) for _ in range(4)]
    assert all(isinstance(call.result(), Large) for call in calls)
    del calls
    gc.collect()
    assert count() == 0


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", "del threads"])
def test_a_process_ends_while_its_threads_are_at_work(ending: str) -> None:
    program = (
        "import time\n"
        "from loaders.threads import Threads\n"
        "threads = Threads(2, 'busy')\n"
        "for _ in range(8):\n"
        "    threads.submit(time.sleep, 0.2)\n"
        "time.sleep(0.05)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program + ending], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stderr) == (0, "")
