"""How long a run is, in epochs or images, and how often it is evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import Interrupted, UserError
from train.checkpoints.checkpoint import BEST, LAST, load_content
from train.config.length import StepCount, as_epoch, step_count
from train.config.settings import Layer, settle
from train.engine.budget import TimeBudget
from train.engine.loop import images_due
from train.runs.log import LOG

ROWS, STEPS = 36, 8  # an epoch of the tiny shards: seven batches of five, one of one


def stretches(length: StepCount) -> list[int]:
    """After which steps val is evaluated, as the loop would."""
    steps, found = 0, []
    while True:
        outlook = length.outlook(steps, len(found))
        if outlook.ends_stretch:
            found.append(steps)
            if outlook.is_over:
                return found
        else:
            steps += 1


@given(total=st.integers(1, 200), per_epoch=st.integers(1, 60), every=st.floats(0.02, 5))
def test_val_is_evaluated_at_even_distances_and_once_at_the_end(
    total: int, per_epoch: int, every: float
) -> None:
    if every * per_epoch < 1:
        return
    length = StepCount(total=total, steps_per_epoch=per_epoch, batch_size=1, eval_every=every)
    found = stretches(length)
    assert found == sorted(set(found))
    assert found[-1] == total
    assert found[:-1] == [round(k * every * per_epoch) for k in range(1, len(found))]


def test_progress_rises_evenly_from_the_middle_of_the_first_step_to_that_of_the_last() -> None:
    length = StepCount(total=4, steps_per_epoch=2, batch_size=1, eval_every=1.0)
    progress = [length.outlook(step, 0).progress for step in range(5)]
    assert progress == [0.125, 0.375, 0.625, 0.875, 1.0]
    assert [length.outlook(step, 0).is_over for step in range(5)] == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"epochs": 3}, 24),
        ({"samples": 36}, 8),
        ({"samples": 1}, 1),
        ({"samples": 37}, 9),
        ({"samples": 72 + 11, "epochs": 1}, 19),
    ],
)
def test_a_run_of_images_ends_with_the_batch_that_reaches_them(
    make_config: Any, fields: dict[str, int], steps: int
) -> None:
    loader: Any = SimpleNamespace(steps_per_epoch=STEPS, samples_per_epoch=ROWS)
    assert step_count(make_config(**fields), loader).total == steps


def test_an_evaluation_before_each_step_is_refused(make_config: Any) -> None:
    loader: Any = SimpleNamespace(steps_per_epoch=STEPS, samples_per_epoch=ROWS)
    with pytest.raises(UserError) as refused:
        step_count(make_config(eval_every=0.1), loader)
    assert refused.value.format_message() == (
        "--eval-every 0.1 is less than a step: an epoch has 8 of them; choose 0.13 or more"
    )
    assert step_count(make_config(eval_every=0.13), loader).total == 24


def test_whole_epochs_are_whole_numbers() -> None:
    assert [as_epoch(steps, 8) for steps in (0, 4, 8, 24)] == [0, 0.5, 1, 3]
    assert isinstance(as_epoch(24, 8), int)
    assert as_epoch(1, 3) == 0.333333


def test_a_run_ends_after_so_many_images(tmp_path: Path, train_tiny: Any, metrics_of: Any) -> None:
    summary = train_tiny(tmp_path / "run", samples=50, schedule="linear", min_lr=0.0, lr=1.0e-3)
    assert summary["samples_seen"] == ROWS + 15  # the batch that reaches fifty
    assert summary["epochs"] == 1.375
    metrics = metrics_of(tmp_path / "run")
    assert [each["epoch"] for each in metrics] == [1, 1.375]
    assert [each["samples_seen"] for each in metrics] == [36, 51]
    total = 11  # steps: the rate of the last is that of its middle
    assert metrics[-1]["train/lr"] == pytest.approx(1e-3 * 0.5 / total)
    assert "epoch   1/1.375  train loss" in (tmp_path / "run" / LOG).read_text()


@pytest.mark.parametrize(
    ("every", "epochs"), [(0.5, [0.5, 1, 1.5, 2]), (0.75, [0.75, 1.5, 2]), (3.0, [2])]
)
def test_val_is_evaluated_as_often_as_asked_for(
    tmp_path: Path, train_tiny: Any, metrics_of: Any, every: float, epochs: list[float]
) -> None:
    train_tiny(tmp_path / "run", epochs=2, eval_every=every)
    assert [each["epoch"] for each in metrics_of(tmp_path / "run")] == epochs


@pytest.mark.slow
def test_evaluating_more_often_changes_nothing_in_training(
    tmp_path: Path, train_tiny: Any, metrics_of: Any, outcome_of: Any
) -> None:
    train_tiny(tmp_path / "once", epochs=2)
    train_tiny(tmp_path / "often", epochs=2, eval_every=0.25)
    train_tiny(tmp_path / "seldom", epochs=2, eval_every=2)
    outcomes = [outcome_of(tmp_path / each) for each in ("once", "often", "seldom")]
    for name in ("weights", "optimizer", "random numbers"):
        assert outcomes[0][name] == outcomes[1][name] == outcomes[2][name]
    once, often, seldom = (metrics_of(tmp_path / each) for each in ("once", "often", "seldom"))
    images = [10, 10, 10, 6]  # two batches each, the last of them of one image
    mean = (
        sum(each["train/loss"] * count for each, count in zip(often[:4], images, strict=True))
        / ROWS
    )
    assert once[0]["train/loss"] == pytest.approx(mean, rel=1e-6)
    both = (once[0]["train/loss"] + once[1]["train/loss"]) / 2
    assert seldom[0]["train/loss"] == pytest.approx(both, rel=1e-6)


@pytest.mark.parametrize(
    ("every", "asked"),
    [
        (0.4, 12),
        *(
            pytest.param(every, asked, marks=pytest.mark.slow)
            for every, asked in [(0.4, 2), (0.4, 5), (0.4, 6), (0.4, 18), (2.0, 5), (2.0, 12)]
        ),
    ],
)
def test_a_resumed_run_equals_the_unbroken_one_whenever_val_is_evaluated(
    tmp_path: Path, train_tiny: Any, stop_after: Any, resume: Any, outcome_of: Any,
    every: float, asked: int,
) -> None:  # fmt: skip
    fields = {"samples": 80, "eval_every": every, "schedule": "cosine"}
    train_tiny(tmp_path / "unbroken", **fields)
    stop_after(asked)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run", **fields)
    resume(tmp_path / "run")
    assert outcome_of(tmp_path / "run") == outcome_of(tmp_path / "unbroken")


def test_the_best_epoch_may_be_a_fraction_and_patience_counts_evaluations(
    tmp_path: Path, train_tiny: Any, val_hits: Any
) -> None:
    val_hits(5, 4, 3, 2, 9)
    summary = train_tiny(tmp_path / "run", epochs=3, eval_every=0.5, patience=2)
    assert (summary["best_epoch"], summary["epochs"]) == (0.5, 1.5)
    assert load_content(tmp_path / "run" / BEST)["progress"]["samples_seen"] == 20
    assert load_content(tmp_path / "run" / LAST)["progress"]["samples_seen"] == 56
    said = (tmp_path / "run" / LOG).read_text()
    assert "patience 2: so many evaluations brought no better val mIoU, so the run ends " in said


def test_patience_outlasts_evaluations_that_are_epochs_apart(
    tmp_path: Path, train_tiny: Any, val_hits: Any
) -> None:
    val_hits(5, 4, 6)
    summary = train_tiny(tmp_path / "run", epochs=6, eval_every=2, patience=2)
    assert (summary["best_epoch"], summary["epochs"]) == (6, 6)
    assert "patience 2: " not in (tmp_path / "run" / LOG).read_text()


def test_patience_ends_a_run_of_so_many_images_too(
    tmp_path: Path, train_tiny: Any, val_hits: Any
) -> None:
    val_hits(5, 4, 3, 9)
    summary = train_tiny(tmp_path / "run", samples=4 * ROWS, patience=2)
    assert summary["samples_seen"] == 3 * ROWS


def test_a_stop_does_not_make_patience_longer(
    tmp_path: Path, train_tiny: Any, val_hits: Any, stop_after: Any, resume: Any
) -> None:
    val_hits(5, 4, 3, 9)
    stop_after(2 * STEPS + 3)  # val is scripted and does not ask: in the third epoch
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run", epochs=4, patience=2)
    assert resume(tmp_path / "run")["epochs"] == 3


def patience_of(**given: Any) -> tuple[int | None, str]:
    settings = settle([Layer("command line", given)])
    return settings.config.patience, settings.sources["patience"]


def test_the_recipes_patience_cuts_no_run_short_that_says_itself_when_it_ends() -> None:
    assert patience_of() == patience_of(epochs=300) == (100, "recipe fast")
    assert patience_of(samples=10**6) == (None, "samples ends the run")
    assert patience_of(budget="45m") == (None, "budget ends the run")
    assert patience_of(budget="45m", patience=7) == (7, "command line")
    assert patience_of(patience="none") == (None, "command line")


LENGTHS = {"epochs": "3", "samples": "100", "budget": "5m"}


@pytest.mark.parametrize(
    "given",
    [("epochs", "samples"), ("epochs", "budget"), ("samples", "budget"), tuple(LENGTHS)],
    ids=" and ".join,
)
def test_two_lengths_in_one_place_are_refused(command_line: Any, given: tuple[str, ...]) -> None:
    from train.__main__ import main

    options = [part for name in given for part in (f"--{name}", LENGTHS[name])]
    ended = command_line(main, *options, "--show-config")
    assert ended.code == 2
    assert (
        f"command line: {' and '.join(given)} each say how long the run is; give one of them"
        in ended.err
    )


@pytest.mark.parametrize("strong", list(LENGTHS))
@pytest.mark.parametrize("weak", list(LENGTHS))
def test_the_strongest_place_that_names_a_length_decides(
    command_line: Any, tmp_path: Path, strong: str, weak: str
) -> None:
    from train.__main__ import main

    file = tmp_path / "weak.toml"
    file.write_text(f'{weak} = "{LENGTHS[weak]}"\n'.replace("3", "9"))
    ended = command_line(main, "--config", file, f"--{strong}", LENGTHS[strong], "--show-config")
    assert ended.code == 0
    said = [line for line in ended.out.splitlines() if line.split(" = ")[0] in LENGTHS]
    assert len(said) == 1
    assert said[0].startswith(f"{strong} = ")
    assert LENGTHS[strong] in said[0]
    assert "# command line" in said[0]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("45m", 2700.0), ("2h30m", 9000.0), ("1.5h", 5400.0)]
)
def test_a_budget_is_a_time(text: str, seconds: float) -> None:
    from train.config.settings import as_text, parse

    assert parse("budget", text) == seconds
    assert parse("budget", as_text("budget", seconds)) == seconds


@pytest.mark.parametrize("text", ["45", "soon", "0m", "-3m"])
def test_what_is_no_time_is_refused(command_line: Any, text: str) -> None:
    from train.__main__ import main

    ended = command_line(main, f"--budget={text}", "--show-config")
    assert ended.code == 2
    assert f"'{text}' is not a time such as 90s, 45m or 3h55m" in ended.err


def test_metrics_are_json_numbers_that_plot(tmp_path: Path, train_tiny: Any) -> None:
    train_tiny(tmp_path / "run", epochs=1, eval_every=0.5)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0.5, 1]


@pytest.mark.parametrize(
    ("eval_every", "epoch", "due"),
    [(1000.0, 0, 3 * ROWS), (2.0, 0, 2 * ROWS), (2.0, 2, ROWS)],
    ids=["never before the end", "twice", "the last stretch"],
)
def test_the_progress_bar_ends_where_the_run_does(eval_every: float, epoch: int, due: int) -> None:
    length = StepCount(total=3 * STEPS, steps_per_epoch=STEPS, batch_size=5, eval_every=eval_every)
    assert images_due(session_after(epoch, length, eval_every)) == due


def test_where_a_time_ends_the_run_the_bar_counts_to_the_next_evaluation() -> None:
    length = object.__new__(TimeBudget)  # as in any state: what is left is not known in epochs
    assert images_due(session_after(1, length, eval_every=2.0)) == 2 * ROWS


def session_after(epoch: int, length: StepCount | TimeBudget, eval_every: float) -> Any:
    """What the bar looks at in a session that has just evaluated, after so many epochs."""
    return SimpleNamespace(
        config=SimpleNamespace(eval_every=eval_every),
        train=SimpleNamespace(samples_per_epoch=ROWS),
        done=SimpleNamespace(images=0),
        steps_done=epoch * STEPS,
        length=length,
    )
