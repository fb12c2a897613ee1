"""A run that ends at a time, its schedule at its end: by a clock of the test, and by the wall's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import train.engine.budget
import train.engine.run
from shards.errors import Interrupted, UserError
from train.checkpoints.checkpoint import LAST, load_content
from train.config.length import StepCount
from train.engine.budget import CLOSING_S, TimeBudget
from train.runs.log import LOG, STEPS, SUMMARY

NEVER = 10**9


def budget_of(seconds: float, *, image_s: float, val: int = 100, test: int = 100) -> TimeBudget:
    points = StepCount(total=NEVER, steps_per_epoch=50, batch_size=1, eval_every=1.0)
    return TimeBudget(
        seconds=seconds, began=0.0, points=points, val_images=val, test_images=test,
        image_s=image_s,
    )  # fmt: skip


class Clock:
    """Time as the test has it pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, now: float) -> None:
        self.now = now
        monkeypatch.setattr(train.engine.budget.time, "monotonic", lambda: self.now)


def simulate(
    clock: Clock, budget: TimeBudget, *, step_s: float, image_s: float, first_s: float = 0.0
) -> tuple[list[float], list[float]]:
    """Progress of each step, and when each evaluation began; the clock is at the end of the run."""
    progress, evaluations, steps, last_step = [], [], 0, -1
    while True:
        outlook = budget.outlook(steps, len(evaluations))
        if not outlook.ends_stretch:
            progress.append(outlook.progress)
            clock.now += step_s + (first_s if steps == 0 else 0)
            steps += 1
            continue
        if steps != last_step:
            last_step = steps
            evaluations.append(clock.now)
            clock.now += image_s * budget.val_images
            budget.left_s(steps, 1, 1.0, image_s * budget.val_images)
        if outlook.is_over:
            clock.now += image_s * budget.test_images
            return progress, evaluations


@settings(deadline=None)
@given(
    seconds=st.floats(60, 10_000),
    steps=st.integers(20, 400),
    share=st.floats(0.0, 0.2),
    wrong=st.floats(0.7, 1.3),
    setup=st.floats(0, 0.2),
)
def test_a_run_ends_just_inside_its_budget_with_the_schedule_at_its_end(
    seconds: float, steps: int, share: float, wrong: float, setup: float
) -> None:
    """Whatever steps and evaluations take, and where the first guess of the latter is 30 % wrong."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch, setup * seconds)
        step_s = seconds * (1 - 2 * share - setup) / steps
        image_s = share * seconds / 200  # an evaluation after each 50 steps, and both at the end
        budget = budget_of(seconds, image_s=wrong * image_s)
        progress, evaluations = simulate(clock, budget, step_s=step_s, image_s=image_s)
    assert progress == sorted(progress)
    assert all(0 <= each < 1 for each in progress)
    first_guess_counts = len(evaluations) == 1
    slack = 200 * image_s * (0.7 if first_guess_counts else 0.2)
    assert clock.now <= seconds - CLOSING_S + (slack if first_guess_counts else 0)
    assert clock.now >= 0.98 * seconds - CLOSING_S - 2 * step_s - slack
    assert progress[-1] >= 1 - 2.5 * step_s / (seconds - CLOSING_S) - 2 * slack / seconds


def test_the_clock_of_the_first_process_decides_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, 99.0)  # of a later one, whose evaluations take far longer, too
    said = iter([[0.25, 0.0], [0.5, 1.0], [1.0, 0.0]])
    monkeypatch.setattr(train.engine.budget, "first_says", lambda *_: next(said))
    budget = budget_of(100.0, image_s=9.0)
    outlooks = [budget.outlook(steps, 0) for steps in (10, 50, 60)]
    assert [each.progress for each in outlooks] == [0.25, 0.5, 1.0]
    assert [each.is_due for each in outlooks] == [False, True, False]
    assert [each.is_over for each in outlooks] == [False, False, True]


def test_a_slow_first_step_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 5.0)  # it compiles for a third of the budget
    budget = budget_of(180.0, image_s=0.01)
    progress, _ = simulate(clock, budget, step_s=1.0, image_s=0.01, first_s=60.0)
    assert 172 <= clock.now <= 180
    assert progress[-1] > 0.98
    assert len(progress) > 90


def test_an_evaluation_that_would_leave_no_step_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch, 0.0)
    _, evaluations = simulate(clock, budget_of(100.0, image_s=0.1), step_s=1.0, image_s=0.1)
    # Due after 50 steps and at 110 s; the end of training is at 100 - 4 - 22 = 74 s.
    assert evaluations[0] == pytest.approx(50)
    assert len(evaluations) == 2
    assert evaluations[1] > 70


def test_one_step_is_made_however_late_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 1000.0)
    progress, evaluations = simulate(clock, budget_of(60.0, image_s=0.1), step_s=1.0, image_s=0.1)
    assert len(progress) == len(evaluations) == 1


def test_a_budget_below_its_evaluations_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, 10.0)
    with pytest.raises(UserError) as refused:
        budget_of(60.0, image_s=1.0).check()
    assert refused.value.format_message() == (
        "--budget 1m leaves no time for training: 10 s have passed, and what follows the last step "
        "(val and test, 200 images) takes about 3 min 43 s; choose a longer one"
    )
    budget_of(600.0, image_s=1.0).check()


def test_a_resumed_run_has_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 1000.0)
    budget = budget_of(100.0, image_s=0.0)
    budget.began = 1000.0 - 48.0  # of which 48 s were spent in sessions before
    assert budget.outlook(10, 0).progress == pytest.approx(0.5)
    clock.now += 24
    assert budget.outlook(11, 0).progress == pytest.approx(0.75)


@pytest.mark.slow
def test_a_short_budget_is_kept_with_all_that_belongs_to_a_run(
    tmp_path: Path, train_tiny: Any, monkeypatch: pytest.MonkeyPatch, metrics_of: Any
) -> None:
    monkeypatch.setattr("train.engine.loop.READ_STEPS", 1)
    start = time.monotonic()
    summary = train_tiny(
        tmp_path / "run", budget=20.0, schedule="linear", min_lr=0.0, eval_every=20.0,
        image_size=32, start_size=16, ema=0.99, patience=None,
    )  # fmt: skip
    assert 16 <= time.monotonic() - start <= 20
    assert summary["epochs"] > 1
    assert summary["test_images"] == 6
    steps = [json.loads(each) for each in (tmp_path / "run" / STEPS).read_text().splitlines()]
    rates = [each["step/lr"] for each in steps]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.9e-3
    assert rates[-1] < 0.05e-3
    sizes = [each["step/image_size"] for each in steps]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (16, 32)
    assert metrics_of(tmp_path / "run")[-1]["epoch"] == summary["epochs"]


@pytest.mark.slow
def test_a_run_of_a_budget_that_was_stopped_goes_on_with_the_rest_of_it(
    tmp_path: Path, train_tiny: Any, stop_after: Any, resume: Any
) -> None:
    stop_after(60)
    start = time.monotonic()
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run", budget=15.0, schedule="linear", patience=None)
    before = time.monotonic() - start
    spent = load_content(tmp_path / "run" / LAST)["progress"]["seconds"]
    assert spent == pytest.approx(before, abs=1.0)
    time.sleep(3)  # between the sessions no time of the run passes
    start = time.monotonic()
    summary = resume(tmp_path / "run")
    assert 11 <= before + time.monotonic() - start <= 15
    assert summary["seconds"] == pytest.approx(before + time.monotonic() - start, abs=1.0)


def test_a_budget_without_room_is_refused_and_leaves_no_folder(
    tmp_path: Path, train_tiny: Any
) -> None:
    with pytest.raises(UserError, match=r"^--budget 2s leaves no time for training: "):
        train_tiny(tmp_path / "run", budget=2.0)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_three_minutes_end_between_2_7_and_3_05_with_the_schedule_at_its_end(
    tmp_path: Path, command_environment: dict[str, str]
) -> None:
    """A process of its own on drawn photographs, from its start to its end."""
    demo, shards, run = (tmp_path / each for each in ("demo", "shards", "run"))
    for args in (
        ["preprocess", "demo-data", str(demo)],
        ["preprocess", str(demo), "--out", str(shards)],
    ):
        subprocess.run(
            [sys.executable, "-m", *args], env=command_environment, check=True, capture_output=True
        )
    start = time.monotonic()
    done = subprocess.run(
        [
            sys.executable, "-m", "train", "--shards", str(shards), "--out", str(run),
            "--arch", "resnet18", "--image-size", "128", "--start-size", "80", "--budget", "3m",
            "--batch-size", "16", "--schedule", "cosine", "--warmup", "0.1", "--device", "cpu",
        ],
        env=command_environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    minutes = (time.monotonic() - start) / 60
    assert done.returncode == 0, done.stderr
    assert 2.7 <= minutes <= 3.05
    assert "3 min" in (run / LOG).read_text()
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["train/lr"] < 0.01 * 1e-3
    assert last["train/image_size"] == 128
    assert json.loads((run / SUMMARY).read_text())["seconds"] / 60 <= minutes
