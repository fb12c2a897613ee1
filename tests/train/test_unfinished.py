"""``--resume`` without a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import train.engine.run
from shards.errors import Interrupted
from train.checkpoints.checkpoint import LAST
from train.runs.interrupt import StopRequest
from train.runs.log import CONFIG, SUMMARY

RUNS = Path("runs")


@pytest.fixture
def stopped(train_tiny: Any, stop_after: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``stopped("name", age_s=0, ...)``: a run below ``runs`` that was stopped so long ago."""

    def make(name: str, age_s: float = 0, **fields: Any) -> Path:
        folder = RUNS / name
        stop_after(3)
        with pytest.raises(Interrupted):
            train_tiny(folder, **fields)
        monkeypatch.setattr(train.engine.run, "StopRequest", StopRequest)
        saved = (folder / LAST).stat().st_mtime - age_s
        os.utime(folder / LAST, (saved, saved))
        return folder

    return make


def test_the_newest_unfinished_run_of_the_same_configuration_goes_on(
    stopped: Any, train_command: Any, tmp_path: Path
) -> None:
    older, newest = stopped("b", 60, epochs=2), stopped("a", epochs=2)
    other = stopped("c", epochs=3)
    ended = train_command("--epochs", 2, "--resume")
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"going on with {newest}\n")
    assert [(each / SUMMARY).exists() for each in (older, newest, other)] == [False, True, False]
    ended = train_command("--epochs", 2, "--resume", "--time-limit", "9h")
    assert ended.out.startswith(f"going on with {older}\n")


def test_without_one_the_newest_is_named_with_what_differs(
    stopped: Any, train_command: Any
) -> None:
    newest = stopped("a", epochs=2, lr=0.5)
    ended = train_command("--epochs", 3, "--resume")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        f"error: no unfinished run of this configuration in runs (the newest, {newest}, has epochs "
        "2, not 3, lr 0.5, not 0.001); name the run with --resume FOLDER, or drop --resume to start "
        "one\n"
    )


def test_without_any_run_there_is_one_line(train_command: Any) -> None:
    ended = train_command("--resume")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "error: no unfinished run of this configuration in runs; name the run with --resume FOLDER, "
        "or drop --resume to start one\n"
    )
    assert not RUNS.exists()


def test_a_run_on_another_shard_set_is_not_the_same(
    stopped: Any, train_command: Any, tiny_dataset: Path, tmp_path: Path, pack_set: Any
) -> None:
    stopped("a", epochs=2)
    pack_set(tiny_dataset, tmp_path / "other", quality=70)
    ended = train_command("--epochs", 2, "--resume", shards=tmp_path / "other")
    assert ended.code == 2
    assert "(the newest, runs/a, has another shard set)" in ended.err


def test_a_run_whose_record_is_lost_is_passed_over(stopped: Any, train_command: Any) -> None:
    good, lost = stopped("a", 60), stopped("b")
    (lost / CONFIG).write_text("{")
    ended = train_command("--epochs", 3, "--resume")
    assert ended.out.startswith(f"going on with {good}\n")


def test_a_folder_for_a_new_run_makes_no_sense_beside_it(train_command: Any) -> None:
    ended = train_command("--resume", "--out", "x")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == ("error: --out is for a new run; to go on with that one: --resume x\n")
