"""Flags that look for faults: a few batches, a trial run, a profile, reproducible arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import torch

from shards.errors import Interrupted, JobError
from train.checkpoints.checkpoint import BEST, LAST
from train.config.deterministic import refusals_as_job_errors, set_deterministic
from train.config.resolve import resolve
from train.engine.profiling import TRACE
from train.method.batches import train_loader, val_loader
from train.runs.log import LOG, METRICS, SUMMARY

ROWS = 36  # of the tiny shards; eight batches of five, the last of one


@pytest.fixture
def batches_of(tiny_shards: Path, make_config: Any) -> Callable[..., list[list[Any]]]:
    """``batches_of(train_loader, epoch, overfit_batches=2)``: the batches of an epoch."""

    def collect(opened: Any, epoch: int, first_step: int = 0, **fields: Any) -> list[Any]:
        config = make_config(**fields)
        with (
            closing(opened(config, resolve(config), tiny_shards)) as loader,
            closing(loader.epoch(epoch, first_step)) as batches,
        ):
            found = [(each.ids.tolist(), each.images.clone()) for each in batches]
            assert len(found) == loader.steps_per_epoch - first_step
            if not first_step:
                assert sum(len(ids) for ids, _ in found) == loader.samples_per_epoch
            return found

    return collect


def same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        ids == other_ids and torch.equal(images, other_images)
        for (ids, images), (other_ids, other_images) in zip(first, second, strict=True)
    )


def test_overfitting_shows_the_same_pixels_each_epoch_and_to_val(
    batches_of: Callable[..., Any],
) -> None:
    first = batches_of(train_loader, 0, overfit_batches=2)
    assert [len(ids) for ids, _ in first] == [5, 5]
    assert same(first, batches_of(train_loader, 7, overfit_batches=2))
    assert same(first, batches_of(val_loader, 0, overfit_batches=2))
    assert same(first, batches_of(train_loader, 0)[:2])
    assert same(first[1:], batches_of(train_loader, 3, first_step=1, overfit_batches=2))


def test_more_batches_than_an_epoch_has_are_one_epoch(batches_of: Callable[..., Any]) -> None:
    assert same(batches_of(train_loader, 1, overfit_batches=1000), batches_of(train_loader, 0))


def test_a_network_learns_two_batches_by_heart(
    train_command: Any, tmp_path: Path, metrics_of: Any
) -> None:
    ended = train_command(
        "--overfit-batches", 2, "--epochs", 20, "--lr", "2e-2", "--out", tmp_path / "run"
    )
    assert ended.code == 0, ended.err
    assert "note: training on 10 images alone, and they are val, too: " in ended.out
    losses = [each["val/loss"] for each in metrics_of(tmp_path / "run")]
    assert losses[-1] < losses[0] / 3
    summary = json.loads((tmp_path / "run" / SUMMARY).read_text())
    assert summary["trial"] is True
    assert summary["val_images"] == 10
    assert "test" not in summary  # a test score of a trial would mean nothing
    assert "evaluate it again" not in ended.out


def test_a_run_on_few_batches_resumes(
    tmp_path: Path, train_tiny: Any, stop_after: Any, resume: Any, outcome_of: Any
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_tiny(whole, overfit_batches=2)
    stop_after(6)
    with pytest.raises(Interrupted):
        train_tiny(broken, overfit_batches=2)
    resume(broken)
    assert outcome_of(broken) == outcome_of(whole)


def test_a_fast_dev_run_goes_through_all_of_it_and_leaves_nothing(
    train_command: Any, tmp_path: Path
) -> None:
    before = set(tmp_path.rglob("*")), set(Path(gettempdir()).glob("hyphae-*"))
    ended = train_command("--fast-dev-run", "--epochs", 9)
    assert ended.code == 0, ended.err
    assert "note: fast dev run: one step, one batch of val; the scores mean nothing" in ended.out
    assert "epoch   1/1  train loss " in ended.out
    assert "\nval: mIoU " in ended.out
    assert "5 samples seen" in ended.out
    assert (set(tmp_path.rglob("*")), set(Path(gettempdir()).glob("hyphae-*"))) == before


def test_a_fast_dev_run_with_a_folder_keeps_it(train_command: Any, tmp_path: Path) -> None:
    assert train_command("--fast-dev-run", "--out", tmp_path / "run").code == 0
    assert {BEST, LAST, LOG, METRICS, SUMMARY} <= {
        each.name for each in (tmp_path / "run").iterdir()
    }


def test_a_stopped_fast_dev_run_promises_no_way_on(train_command: Any, stop_after: Any) -> None:
    stop_after(1)
    ended = train_command("--fast-dev-run")
    assert ended.code == 130
    assert ended.err.endswith("\nfast dev run: stopped, nothing was kept\n")
    assert "--resume" not in ended.err


def test_a_fast_dev_run_whose_loss_is_no_number_names_no_checkpoint(train_command: Any) -> None:
    ended = train_command("--fast-dev-run", "--lr", "1e30", "--optimizer", "sgd")
    assert ended.code == 1
    assert ended.err.endswith("; try a lower --lr\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--overfit-batches", "2", "--fast-dev-run"],
         "overfit_batches and fast_dev_run exclude each other; give one of them"),
        (["--overfit-batches", "0"], "--overfit-batches"),
        (["--overfit-batches", "some"], "--overfit-batches"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(train_command: Any, options: list[str], message: str) -> None:
    ended = train_command(*options)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_a_profile_leaves_a_trace_of_the_steps_and_a_summary(
    train_command: Any, tmp_path: Path
) -> None:
    ended = train_command("--profile", "--epochs", 2, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    trace = tmp_path / "run" / TRACE
    names = [each.get("name", "") for each in json.loads(trace.read_text())["traceEvents"]]
    assert sum(name.startswith("ProfilerStep") for name in names) == 5
    assert "aten::conv2d" in names
    assert names.count("wait for the loader") == 5
    lines = ended.out.splitlines()
    (start,) = (row for row, line in enumerate(lines) if line.startswith("profile of 5 steps, "))
    shares = [float(line.split("%")[0]) for line in lines[start + 1 : start + 11]]
    assert shares == sorted(shares, reverse=True)
    assert 50 < sum(shares) <= 100.1
    assert lines[start + 11] == f"look at {trace} with https://ui.perfetto.dev"


def test_the_profile_of_an_epoch_of_one_step_is_that_step(
    train_command: Any, tmp_path: Path
) -> None:
    ended = train_command("--profile", "--batch-size", ROWS, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert "\nprofile of 1 step, " in ended.out


def test_a_profiled_run_learns_the_same(tmp_path: Path, train_tiny: Any, outcome_of: Any) -> None:
    train_tiny(tmp_path / "plain", epochs=1)
    train_tiny(tmp_path / "profiled", epochs=1, profile=True)
    plain, profiled = (outcome_of(tmp_path / name) for name in ("plain", "profiled"))
    assert plain["weights"] == profiled["weights"]


@pytest.fixture
def afterwards_as_before() -> Iterator[None]:
    yield
    set_deterministic(False)


@pytest.mark.usefixtures("afterwards_as_before")
def test_deterministic_runs_are_equal_and_the_flag_ends_with_the_run(
    tmp_path: Path, train_tiny: Any, outcome_of: Any
) -> None:
    for name in ("first", "second"):
        train_tiny(tmp_path / name, epochs=1, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    assert outcome_of(tmp_path / "first") == outcome_of(tmp_path / "second")
    train_tiny(tmp_path / "third", epochs=1)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("afterwards_as_before")
def test_a_refused_operation_is_named_in_one_line() -> None:
    set_deterministic(True)
    with (
        pytest.raises(
            JobError,
            match=r"^--deterministic: put_ has no reproducible implementation here; train another "
            r"--arch, or start again without --deterministic$",
        ) as failed,
        refusals_as_job_errors(),
    ):
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))  # refused on a CPU, too
    assert failed.value.exit_code == 1


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), refusals_as_job_errors():
        raise RuntimeError("shapes differ")
