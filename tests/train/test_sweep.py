"""``python -m train.sweep``: tiny real runs, stopped, killed, failed and gone on with."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train.sweeps.sweep_run
from train.checkpoints.checkpoint import LAST, previous
from train.runs.log import CONFIG, SUMMARY
from train.sweep import main
from train.sweeps.sweep_report import FAILED, RESULTS

REPO = Path(__file__).resolve().parents[2]
SMALL = {
    "--arch": "tinynet", "--image-size": "32", "--batch-size": "5", "--epochs": "1",
    "--device": "cpu", "--precision": "fp32", "--fast-dev-run": "true",
}  # fmt: skip


@pytest.fixture
def sweep(command_line: Any, tiny_shards: Path, tmp_path: Path) -> Callable[..., Any]:
    """``sweep("--lr", "1e-3,1e-2")`` into the folder "sweep"; what is given replaces a default."""

    def call(*args: object, out: Path | None = tmp_path / "sweep") -> Any:
        given = [str(each) for each in args]
        small = [part for name, value in SMALL.items() if name not in given
                 for part in (name, value)]  # fmt: skip
        place = () if out is None else ("--out", str(out))
        return command_line(main, "--shards", tiny_shards, *small, *place, *given)

    return call


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def runs_of(folder: Path) -> list[Path]:
    return sorted(each.parent for each in folder.glob(f"*/{CONFIG}"))


def test_each_combination_is_run_once_and_the_table_has_the_best_first(
    sweep: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    ended = sweep("--lr", "1e-3,1e-2", "--label-smoothing", "0,0.1")
    assert ended.code == 0, ended.err
    assert ended.out.startswith(
        f"4 runs: lr (2) x label_smoothing (2); 4 to start; {folder}\n\n"
        "run 1 of 4, to start: lr 0.001, label_smoothing 0.0\n"
    )
    found = rows(folder / RESULTS)
    assert {(each["lr"], each["label_smoothing"]) for each in found} == {
        (lr, smoothing) for lr in ("0.001", "0.01") for smoothing in ("0.0", "0.1")
    }
    scores = [float(each["val_miou"]) for each in found]
    assert scores == sorted(scores, reverse=True)
    for each in found:
        config = json.loads((Path(each["run"]) / CONFIG).read_text())["config"]
        assert (str(config["lr"]), str(config["label_smoothing"])) == (
            each["lr"], each["label_smoothing"],
        )  # fmt: skip
        summary = json.loads((Path(each["run"]) / SUMMARY).read_text())
        assert summary["val_miou"] == float(each["val_miou"])
    assert not (folder / FAILED).exists()
    table = ended.out[ended.out.index("\nlr  ") + 1 :].splitlines()
    assert [line.split()[0] for line in table[1:5]] == [each["lr"] for each in found]
    assert table[5] == f"written to {folder / RESULTS}"

    again = sweep("--lr", "1e-3,1e-2", "--label-smoothing", "0,0.1")
    assert again.out.startswith("4 runs: lr (2) x label_smoothing (2); 4 finished; ")
    assert "\nrun " not in again.out
    assert rows(folder / RESULTS) == found
    larger = sweep("--lr", "1e-3,1e-2,1e-4", "--label-smoothing", "0,0.1", "--dry-run")
    assert "; 4 finished, 2 to start; " in larger.out


def test_a_damaged_summary_is_a_failed_run_that_says_what_to_do(sweep: Any, tmp_path: Path) -> None:
    assert sweep("--seed", "1").code == 0
    (run,) = runs_of(tmp_path / "sweep")
    (run / SUMMARY).write_text('{"val_miou":')
    ended = sweep("--seed", "1")
    assert ended.code == 1
    assert f"{run / SUMMARY} is damaged; remove {run} to train it again\n" in ended.out


def test_a_dry_run_lists_the_runs_and_makes_nothing(sweep: Any, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    ended = sweep("--seed", "1,2", "--dry-run")
    assert ended.code == 0, ended.err
    assert ended.out == (
        f"2 runs: seed (2); 2 to start; {tmp_path / 'sweep'}\n"
        "   1  seed 1  (to start)\n   2  seed 2  (to start)\n"
    )
    assert set(tmp_path.rglob("*")) == before


def test_one_failed_run_does_not_stop_the_others(sweep: Any, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    # A batch above the split's 36 rows is refused, a rate far too high spoils the weights.
    ended = sweep("--lr", "1e30,1e-3", "--batch-size", "37,6")
    assert ended.code == 1
    assert ended.err == (
        "error: 3 of 4 runs failed: lr 1e+30, batch_size 37; lr 1e+30, batch_size 6; "
        "lr 0.001, batch_size 37. The same command tries them again\n"
    )
    (good,) = rows(folder / RESULTS)
    assert (good["lr"], good["batch_size"]) == ("0.001", "6")
    failed = {(each["lr"], each["batch_size"]): each["error"] for each in rows(folder / FAILED)}
    assert len(failed) == 3
    assert failed["0.001", "37"].startswith("batch size 37 is larger than the train split")
    assert failed["1e+30", "6"].startswith("the loss became ")
    for (lr, size), error in failed.items():
        assert f"  lr {lr}, batch_size {size}: {error}\n" in ended.out


def test_an_error_nobody_foresaw_is_kept_with_its_traceback_and_tried_again(
    sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sweep"
    real = train.sweeps.sweep_run.start_run

    def broken(config: Any, source: Any, place: Path, safety: Any) -> Any:
        if config.seed == 1:
            place.mkdir(parents=True)
            raise RuntimeError("CUDA out of memory\nand so on")
        return real(config, source, place, safety)

    monkeypatch.setattr(train.sweeps.sweep_run, "start_run", broken)
    ended = sweep("--seed", "1,2")
    assert ended.code == 1
    (failed,) = rows(folder / FAILED)
    assert failed["error"] == "RuntimeError: CUDA out of memory"
    trace = (Path(failed["run"]) / train.sweeps.sweep_run.TRACEBACK).read_text()
    assert trace.startswith("Traceback ")
    assert "and so on" in trace
    monkeypatch.setattr(train.sweeps.sweep_run, "start_run", real)
    again = sweep("--seed", "1,2")
    assert again.code == 0, again.err
    assert not (folder / FAILED).exists()
    assert len(rows(folder / RESULTS)) == 2


def test_a_stopped_sweep_goes_on_where_it_was(
    sweep: Any, tmp_path: Path, stop_after: Any, outcome_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--seed", "1,2")
    assert sweep(*asked, out=tmp_path / "unbroken").code == 0
    stop_after(1)  # in the first run
    ended = sweep(*asked)
    assert ended.code == 130
    last = ended.err.splitlines()[-1]
    assert last.startswith(
        "sweep stopped, 0 of 2 runs finished; go on with: python -m train.sweep --shards "
    )
    assert last.endswith("--seed 1,2")
    (begun,) = runs_of(tmp_path / "sweep")
    assert (begun / LAST).is_file()
    # A kill in the middle of a save: only the checkpoint before is there.
    (begun / LAST).rename(previous(begun / LAST))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    again = sweep(*asked)
    assert again.code == 0, again.err
    assert "; 1 to go on with, 1 to start; " in again.out
    assert "\nrun 1 of 2, to go on with: seed 1\n" in again.out
    pairs = list(zip(runs_of(tmp_path / "sweep"), runs_of(tmp_path / "unbroken"), strict=True))
    assert len(pairs) == 2
    for mine, other in pairs:
        assert mine.name == other.name
        assert outcome_of(mine) == outcome_of(other)


def test_a_time_limit_is_the_limit_of_the_sweep(sweep: Any, tmp_path: Path) -> None:
    ended = sweep("--seed", "1,2", "--time-limit", "0.001s")
    assert ended.code == 124
    assert ended.err.startswith("sweep stopped, 0 of 2 runs finished; go on with: ")
    assert len(runs_of(tmp_path / "sweep")) == 1
    (refused,) = sweep("--seed", "1,2", "--time-limit", "soon").err.splitlines()
    assert "'soon' is not a time such as 90s, 45m or 3h55m" in refused


def test_a_search_runs_its_trials_and_goes_on(sweep: Any, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    folder = tmp_path / "sweep"
    asked = ("--search", "tpe", "--param", "lr=log:1e-4:1e-2")
    ended = sweep(*asked, "--trials", 2)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"2 runs: tpe over lr (0.0001 to 0.01, log); {folder}\n")
    first = rows(folder / RESULTS)
    assert len({each["lr"] for each in first}) == 2
    longer = sweep(*asked, "--trials", 3)
    assert longer.out.count("\nrun ") == 1
    assert "\nrun 3 of 3, to start: lr 0.00" in longer.out
    assert {each["run"] for each in first} < {each["run"] for each in rows(folder / RESULTS)}


def test_values_of_a_search_that_contradict_each_other_are_failed_runs(
    sweep: Any, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    ended = sweep("--search", "random", "--trials", 1, "--param", "eval_resize=16,17")
    assert ended.code == 1
    assert "is below image_size 32\n" in ended.out
    assert rows(tmp_path / "sweep" / RESULTS) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--archh", "a,b"], "No such option '--archh'"),
        (["--lr", "1e-3,,1"], "--lr has an empty value in '1e-3,,1'"),
        (["--arch", "tinynet,resnet5O"], "unknown arch 'resnet5O'; did you mean 'resnet50'?"),
        (["--recipe", "baseline,minni"], "run 2 (recipe minni): unknown recipe 'minni'; did you mean 'mini'?"),
        (["--seed", "1,1"], "--seed has 1 twice; drop one of them"),
        (["--epochs", "1,x"], "--epochs: epochs must be a whole number, got 'x'"),
        (["--image-size", "32,9999999"], "--image-size: image_size must be from 16 to 4096"),
        (["--trials", "3"], "--trials belongs to a search; add --search tpe"),
        (["--param", "lr=1:2"], "--param belongs to a search; add --search tpe"),
        (["--search", "grid"], "Invalid value for '--search'"),
        (["--search", "tpe", "--trials", "3"], "--search needs something to choose: --param"),
        (["--search", "tpe", "--param", "lr=1:2"], "--search needs the number of runs: --trials"),
        (["--search", "tpe", "--param", "lr=1:2", "--trials", "0"], "Invalid value for '--trials'"),
        (["--search", "tpe", "--param", "lr=1:2", "--trials", "2", "--seed", "1,2"],
         "--seed has 2 values; in a search that is --param seed=A,B"),
        (["--search", "tpe", "--param", "epochs=1:2", "--trials", "2"],
         "epochs is both an option and a --param; drop one of them"),
        (["--search", "tpe", "--param", "lr=1:2", "--param", "lr=1:3", "--trials", "2"],
         "--param lr is there twice; drop one of them"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_made(
    sweep: Any, tmp_path: Path, options: list[str], message: str
) -> None:
    before = set(tmp_path.rglob("*"))
    ended = sweep(*options)
    assert ended.code == 2, ended
    assert ended.out == ""
    assert ended.err.startswith(f"error: {message}")
    assert ended.err.count("\n") == 1
    assert set(tmp_path.rglob("*")) == before


def test_without_a_list_there_is_nothing_to_sweep_over(
    command_line: Any, tiny_shards: Path
) -> None:
    ended = command_line(main, "--shards", tiny_shards)
    assert ended.code == 2
    assert ended.err.startswith("error: nothing to sweep over: give a field several values, ")


def test_the_folder_of_a_run_is_no_place_for_a_sweep(sweep: Any, finished_run: Path) -> None:
    ended = sweep("--seed", "1,2", out=finished_run)
    assert ended.code == 2
    assert ended.err == (
        f"error: output folder {finished_run} is a run, not a sweep; choose another\n"
    )


def test_torchrun_is_refused(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = sweep("--seed", "1,2")
    assert (ended.code, ended.err) == (
        2, "error: a sweep is one process, a run after the other; start it without torchrun\n",
    )  # fmt: skip


def test_the_same_request_finds_its_folder_again(sweep: Any, tmp_path: Path) -> None:
    lines = [sweep("--seed", seeds, "--dry-run", out=None).out.splitlines()[0]
             for seeds in ("1,2", "1,2", "1,3")]  # fmt: skip
    folders = [line.rpartition("; ")[2] for line in lines]
    assert folders[0] == folders[1] != folders[2]
    assert folders[0].startswith("runs/sweep-")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grid", "search"])
def test_a_killed_sweep_goes_on_and_ends_as_if_it_had_not_been(
    kind: str, tiny_shards: Path, tmp_path: Path, outcome_of: Any, command_environment: Any
) -> None:
    lists = {
        "grid": ["--seed", "1,2"],
        "search": ["--search", "tpe", "--trials", "2", "--param", "lr=log:1e-4:1e-2"],
    }[kind]
    command = [
        sys.executable, "-m", "train.sweep", "--arch", "resnet18", "--image-size", "32",
        "--batch-size", "6", "--epochs", "3", "--device", "cpu", "--precision", "fp32",
        "--threads", "1", "--shards", str(tiny_shards), *lists,
    ]  # fmt: skip
    place = {"cwd": tmp_path, "env": command_environment}

    def finished(folder: Path) -> bool:
        return len(list(folder.glob(f"*/{SUMMARY}"))) == 2

    broken, whole = tmp_path / "broken", tmp_path / "whole"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True, **place)
    for wait_for in (f"*/{LAST}", f"*/{SUMMARY}"):  # in the first run, then about the second
        process = subprocess.Popen([*command, "--out", str(broken)], **place,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        deadline = time.monotonic() + 120
        while not list(broken.glob(wait_for)) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not finished(broken)
    done = subprocess.run([*command, "--out", str(broken)], capture_output=True, text=True, **place)
    assert done.returncode == 0, done.stderr
    pairs = list(zip(runs_of(broken), runs_of(whole), strict=True))
    assert len(pairs) == 2
    for mine, other in pairs:
        assert mine.name == other.name
        assert outcome_of(mine) == outcome_of(other)
