"""Where the time went: each part is found where it was spent, and a GPU is never waited for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train.engine.loop
import train.engine.run
import train.scores.evaluation
from loaders.batch import Batch
from loaders.span import Span
from train.checkpoints.checkpoint import Progressed
from train.runs.log import SUMMARY, RunLog
from train.runs.timing import StepTimes, add_up

PARTS = ("wait", "copy", "step", "evaluation", "logging")
STEPS, VAL_BATCHES = 8, 2
NAP_S, TICK_S = 10.0, 1e-6


class Clock:
    """Time passes in naps, and by almost nothing when it is looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", self.read)

    def read(self) -> float:
        self.now += TICK_S
        return self.now

    def slowly(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*args: Any, **options: Any) -> Any:
            self.now += NAP_S
            return plain(*args, **options)

        return slow


def slow_loader(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    plain = train.engine.run.train_loader

    def slow(*args: Any) -> Any:
        loader = plain(*args)
        epoch = loader.epoch

        def batches(*where: Any) -> Any:
            for batch in epoch(*where):
                clock.now += NAP_S
                yield batch

        monkeypatch.setattr(loader, "epoch", batches)
        return loader

    monkeypatch.setattr(train.engine.run, "train_loader", slow)


def slow_step(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(
        train.engine.loop, "add_gradients", clock.slowly(train.engine.loop.add_gradients)
    )


def slow_evaluation(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(
        train.scores.evaluation, "padded", clock.slowly(train.scores.evaluation.padded)
    )


def slow_logging(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(RunLog, "_append", clock.slowly(RunLog._append))


@pytest.mark.parametrize(
    ("part", "make_slow", "naps"),
    [
        ("wait", slow_loader, STEPS),
        ("step", slow_step, STEPS),
        ("evaluation", slow_evaluation, VAL_BATCHES),
        ("logging", slow_logging, 1),  # the loss of the last step
    ],
)
def test_time_is_counted_where_it_is_spent(
    tmp_path: Path,
    train_tiny: Any,
    metrics_of: Any,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    make_slow: Callable[[pytest.MonkeyPatch, Clock], None],
    naps: int,
) -> None:
    make_slow(monkeypatch, Clock(monkeypatch))
    train_tiny(tmp_path / "run", epochs=1)
    found = {each: metrics_of(tmp_path / "run")[0][f"time/{each}_s"] for each in PARTS}
    expected = dict.fromkeys(PARTS, 0.0) | {part: naps * NAP_S}
    assert found == pytest.approx(expected, abs=0.01)


def test_the_summary_adds_up_all_evaluations_and_the_test(
    finished_run: Path, metrics_of: Any
) -> None:
    spent = json.loads((finished_run / SUMMARY).read_text())["seconds_of"]
    of_epochs = {
        part: sum(each[f"time/{part}_s"] for each in metrics_of(finished_run)) for part in PARTS
    }
    assert set(spent) == set(PARTS)
    assert spent["step"] == pytest.approx(of_epochs["step"])
    assert spent["wait"] == pytest.approx(of_epochs["wait"])
    assert spent["evaluation"] > of_epochs["evaluation"]  # the test row, too


def test_sums_go_on_in_a_resumed_run(
    tmp_path: Path, train_tiny: Any, stop_after: Any, resume: Any, metrics_of: Any
) -> None:
    stop_after(STEPS + VAL_BATCHES + 4)
    with pytest.raises(BaseException, match="stopped in epoch 2"):
        train_tiny(tmp_path / "run", epochs=2)
    spent = resume(tmp_path / "run")["seconds_of"]
    steps = sum(each["time/step_s"] for each in metrics_of(tmp_path / "run"))
    assert spent["step"] == pytest.approx(steps)


def test_parts_are_added_to_those_of_the_run_so_far() -> None:
    done = Progressed(wait_s=1.0, step_s=2.0, copy_s=0.5, spent={"wait": 10.0})
    assert add_up(done, 3.0, 0.25) == {
        "wait": 1.0, "copy": 0.5, "step": 2.0, "evaluation": 3.0, "logging": 0.25,
    }  # fmt: skip
    assert done.spent["wait"] == 11.0
    assert done.spent["step"] == 2.0


class Event:
    """A CUDA event of a GPU that is a second further at each one, and that nobody may wait for."""

    recorded: list[Event] = []  # noqa: RUF012

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at: float | None = None

    def record(self, _stream: None) -> None:
        self.recorded.append(self)
        self.at = float(len(self.recorded))

    def elapsed_time(self, end: Event) -> float:
        assert self.at is not None
        assert end.at is not None
        return 1e3 * (end.at - self.at)

    def synchronize(self) -> None:
        raise AssertionError("waited")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    Event.recorded.clear()
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    return torch.device("cuda")


def test_a_gpus_spans_are_the_distances_of_its_events(gpu: torch.device) -> None:
    outer = Span(gpu)
    with outer, Span(gpu) as inner:
        pass
    assert (outer.seconds(), inner.seconds()) == (3.0, 1.0)


def test_steps_and_copies_are_read_together_and_counted_once(gpu: torch.device) -> None:
    times, done = StepTimes(gpu), Progressed()
    for _ in range(3):
        with Span(gpu) as copy:
            pass
        empty = torch.empty(0)
        times.copied(Batch(empty, empty, empty, copy))
        times.copied(Batch(empty, empty, empty))
        with times.step():
            pass
    times.add_to(done)
    assert (done.step_s, done.copy_s) == (3.0, 3.0)
    times.add_to(done)
    assert (done.step_s, done.copy_s) == (3.0, 3.0)


def test_a_batch_that_moves_says_how_long_it_took_and_one_that_stays_does_not() -> None:
    images = torch.zeros(2, 8, 8, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    batch = Batch(images, torch.zeros(2), torch.zeros(2))
    assert batch.on(torch.device("cpu")) is batch
    moved = batch.on(torch.device("meta"))
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    assert moved.copy is not None
    assert moved.copy.seconds() > 0
