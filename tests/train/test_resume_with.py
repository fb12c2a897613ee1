"""What a run goes on with, and what it refuses to go on with, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import train.engine.loop
import train.engine.run
from shards.errors import Interrupted
from train.__main__ import main
from train.checkpoints.checkpoint import LAST, load_content
from train.runs.interrupt import StopRequest
from train.runs.log import LOG, SUMMARY

OutcomeOf = Callable[[Path], dict[str, Any]]


def test_what_differs_from_the_saved_run_is_named(
    tmp_path: Path,
    train_tiny: Any,
    stop_after: Any,
    resume: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop_after(3)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run", epochs=1)
    now = train.engine.run.versions() | {"torch": "9.9"}
    monkeypatch.setattr(train.engine.run, "versions", lambda: now)
    resume(tmp_path / "run")
    assert "note: torch is 9.9 now, was " in (tmp_path / "run" / LOG).read_text()


@pytest.fixture
def stopped_run(tmp_path: Path, train_tiny: Any, stop_after: Any) -> Path:
    stop_after(3)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run")
    return tmp_path / "run"


def test_another_order_of_samples_is_refused_in_one_line_with_both_hashes(
    stopped_run: Path, command_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, hashes = train.engine.run.train_loader, []

    def reordered(config: Any, *args: Any) -> Any:
        loader = original(replace(config, seed=config.seed + 1), *args)
        hashes.append(loader.order_hash)
        return loader

    content, before = load_content(stopped_run / LAST), (stopped_run / LAST).read_bytes()
    monkeypatch.setattr(train.engine.run, "train_loader", reordered)
    ended = command_line(main, "--resume", stopped_run)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        f"error: the order of samples is not that of the run (hash {hashes[0]}, was "
        f"{content['order_hash']}): the versions of hyphae or NumPy differ; start a new run\n"
    )
    assert (stopped_run / LAST).read_bytes() == before


def test_another_shard_set_is_refused_in_one_line(
    stopped_run: Path, tiny_dataset: Path, tmp_path: Path, pack_set: Any, command_line: Any
) -> None:
    other, before = tmp_path / "other set", (stopped_run / LAST).read_bytes()
    pack_set(tiny_dataset, other, quality=70)
    ended = command_line(main, "--resume", stopped_run, "--shards", other)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        f"error: {other} is not the shard set that this run was trained on (its photographs or how "
        "they were packed); pass that one with --shards, or start a new run\n"
    )
    assert (stopped_run / LAST).read_bytes() == before


def test_a_shard_set_of_other_classes_is_refused_in_one_line_that_names_one(
    stopped_run: Path, dataset_copy: Path, tmp_path: Path, pack_set: Any, command_line: Any
) -> None:
    renamed = dataset_copy / "merged_dataset" / "Boletus aereus"
    (dataset_copy / "merged_dataset" / "Boletus edulis").rename(renamed)
    for table in dataset_copy.glob("*.csv"):
        table.write_text(table.read_text().replace("Boletus edulis", "Boletus aereus"))
    other, before = tmp_path / "other set", (stopped_run / LAST).read_bytes()
    pack_set(dataset_copy, other)
    ended = command_line(main, "--resume", stopped_run, "--shards", other)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        f"error: {other} is not the shard set that this run was trained on (3 classes, not 3; "
        "'Boletus aereus' is in this one alone); pass that one with --shards, or start a new run\n"
    )
    assert (stopped_run / LAST).read_bytes() == before


def test_the_same_shard_set_elsewhere_is_accepted(
    stopped_run: Path, shards_copy: Path, resume: Any, finished_run: Path, outcome_of: OutcomeOf
) -> None:
    resume(stopped_run, shards_copy)
    ours, theirs = outcome_of(stopped_run), outcome_of(finished_run)
    for each in (ours, theirs):
        each["summary"].pop("shards")
    assert ours == theirs


def test_a_finished_run_is_refused(finished_run: Path, command_line: Any) -> None:
    ended = command_line(main, "--resume", finished_run)
    assert (ended.code, ended.out) == (2, "")
    result = finished_run / SUMMARY
    assert ended.err == f"error: {finished_run} is finished; its result is in {result}\n"


@pytest.mark.parametrize("what", ["nothing", "an empty folder", "a file"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, command_line: Any, what: str) -> None:
    folder = tmp_path / "run"
    if what == "an empty folder":
        folder.mkdir()
    elif what == "a file":
        folder.touch()
    ended = command_line(main, "--resume", folder)
    assert ended.code == 2
    assert ended.err == f"error: {folder} holds no run to resume (no {LAST} in it)\n"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--epochs", "9"], "--epochs"),
        (["--arch", "resnet101"], "--arch"),  # the default, but asked for
        (["--lr", "0.1", "--out", "x"], "--out, --lr"),
        (["--batch-size", "5"], "--batch-size"),
    ],
)
def test_options_beside_resume_are_refused_by_name(
    stopped_run: Path, command_line: Any, options: list[str], named: str
) -> None:
    before = (stopped_run / LAST).read_bytes()
    ended = command_line(main, "--resume", stopped_run, *options)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: --resume goes on with the run's own configuration; drop ")
    listed = re.search(r"drop (.*), or start a new run\n$", ended.err)
    assert listed is not None
    assert sorted(listed[1].split(", ")) == sorted(named.split(", "))
    assert (stopped_run / LAST).read_bytes() == before


def test_the_command_goes_on_with_a_run(
    stopped_run: Path, command_line: Any, finished_run: Path, outcome_of: OutcomeOf
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.engine.run, "StopRequest", StopRequest)
        ended = command_line(main, "--resume", stopped_run)
    assert (ended.code, ended.err) == (0, "")
    assert outcome_of(stopped_run) == outcome_of(finished_run)
