"""Blocks take turns, the warm-up is dropped, and a rate is images over time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import bench.timing as module
from bench.timing import WARM_UP, Stopwatch, Subject, in_turns, rate
from shards.errors import JobError

CPU = torch.device("cpu")


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", clock)
    return clock


def test_subjects_take_turns_and_the_warm_up_is_dropped() -> None:
    order: list[tuple[str, int]] = []

    def subject(name: str) -> Subject:
        def block(repeat: int) -> float:
            order.append((name, repeat))
            return 10.0 * repeat

        return Subject(name, block)

    values = in_turns([subject("a"), subject("b")], repeats=2)
    assert order == [("a", WARM_UP), ("b", WARM_UP), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert values == {"a": (0.0, 10.0), "b": (0.0, 10.0)}


def test_a_spent_budget_ends_the_turns_but_leaves_two_repeats(clock: Clock) -> None:
    def block(repeat: int) -> float:
        clock.now += 10
        return float(repeat)

    assert in_turns([Subject("a", block)], 9, budget_s=1) == {"a": (0.0, 1.0)}
    assert in_turns([Subject("a", block)], 9, budget_s=45) == {"a": (0.0, 1.0, 2.0, 3.0)}


def test_rate_is_images_over_seconds_of_a_block_that_is_long_enough(clock: Clock) -> None:
    def work() -> Iterator[int]:
        while True:
            clock.now += 0.2
            yield 8

    assert rate(work(), min_s=1.0, device=CPU) == pytest.approx(40)
    assert clock.now == pytest.approx(1.0)


def test_a_block_ends_only_after_whole_rounds_of_parallel_workers(clock: Clock) -> None:
    done = []

    def work() -> Iterator[int]:
        while True:
            clock.now += 1
            done.append(1)
            yield 1

    rate(work(), min_s=0.5, device=CPU, round_to=4)
    assert len(done) == 4


def test_work_that_ends_early_counts_what_it_did(clock: Clock) -> None:
    def work() -> Iterator[int]:
        for count in (8, 8, 2):
            clock.now += 1
            yield count

    assert rate(work(), min_s=100, device=CPU) == pytest.approx(6)


def test_no_work_at_all_is_an_error_rather_than_a_rate() -> None:
    with pytest.raises(JobError, match="nothing to time"):
        rate(iter(()), min_s=1, device=CPU)


class FakeCuda:
    """A device whose events tell when its work was done, by a clock of its own."""

    def __init__(self) -> None:
        self.now_ms = 1000.0
        self.calls: list[str] = []

    def synchronize(self, _device: torch.device) -> None:
        self.calls.append("synchronize")

    def current_stream(self, device: torch.device) -> str:
        return f"stream of {device}"

    def Event(self, *, enable_timing: bool) -> FakeEvent:
        assert enable_timing
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.at_ms = cuda, 0.0

    def record(self, stream: str) -> None:
        self.cuda.calls.append(f"record in {stream}")
        self.at_ms = self.cuda.now_ms

    def synchronize(self) -> None:
        self.cuda.calls.append("wait for event")

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.at_ms - self.at_ms


def test_a_gpu_is_timed_by_events_in_its_own_stream(clock: Clock) -> None:
    cuda = FakeCuda()
    stopwatch = Stopwatch(torch.device("cuda:1"), cuda)
    clock.now += 100  # what the host's clock says does not count
    cuda.now_ms += 250
    assert stopwatch.seconds() == pytest.approx(0.25)
    assert cuda.calls == [
        "synchronize", "record in stream of cuda:1", "record in stream of cuda:1", "wait for event",
    ]  # fmt: skip


def test_a_cpu_is_timed_by_the_hosts_clock(clock: Clock) -> None:
    stopwatch = Stopwatch(CPU)
    clock.now += 3
    assert stopwatch.seconds() == 3
