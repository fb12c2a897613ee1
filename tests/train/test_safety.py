"""A session that ends by itself, and what a kill costs at most."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import train.config.safety
import train.method.objective
import train.runs.saving
from train.__main__ import main
from train.checkpoints.checkpoint import LAST, load_checkpoint, load_content, previous
from train.config.safety import Safety, parse_duration
from train.engine.run import resume_run, start_run
from train.runs.log import LOG, SUMMARY

STEPS, VAL_BATCHES = 8, 2  # of an epoch of the tiny shards


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90), ("45m", 2700), ("2h", 7200), ("3h55m", 14_100), ("1d12h", 129_600),
        ("1.5h", 5400), ("1h 30m", 5400),
    ],
)  # fmt: skip
def test_a_duration_is_numbers_with_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "m", "-5m", "0s", "5 minutes", "55m3h", "1h1h", "nanh", "1e3s", "٣m0"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time such as 90s, 45m or 3h55m$"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--time-limit", "soon", "'soon' is not a time such as 90s, 45m or 3h55m"),
        ("--time-limit", "0h", "'0h' is not a time such as 90s, 45m or 3h55m"),
        *(
            (
                "--checkpoint-every",
                value,
                f"{value!r} is not a time such as 10m, a number of steps such as 500, or both as in "
                "10m,500",
            )
            for value in ("0", "-3", "often", "10m,20m", "5,6", "10m,", "1.5")
        ),
    ],
)
def test_a_wrong_time_is_refused_in_one_line(
    train_command: Any, tmp_path: Path, option: str, value: str, message: str
) -> None:
    ended = train_command(option, value, "--out", tmp_path / "run")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert message in ended.err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """``clock(s)``: from now on every look at the clock finds it ``s`` seconds later."""
    seconds = 0.0

    def start(per_look_s: float) -> None:
        def look() -> float:
            nonlocal seconds
            seconds += per_look_s
            return seconds

        monkeypatch.setattr(train.config.safety, "time", SimpleNamespace(monotonic=look))

    return start


@pytest.mark.parametrize("limit_s", [5.0, 19.0])
def test_a_run_that_comes_to_its_limit_again_and_again_equals_the_unbroken_one(
    tmp_path: Path, train_command: Any, command_line: Any, clock: Any, finished_run: Path,
    outcome_of: Any, limit_s: float, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder, sessions = tmp_path / "run", 1
    clock(1.0)
    monkeypatch.setattr("train.__main__.STARTED", 0.0)
    ended = train_command("--epochs", 3, "--out", folder, "--time-limit", f"{limit_s}s")
    while ended.code:
        assert ended.code == 124
        assert ended.err.startswith("time limit: stopped ")
        assert ended.err.endswith(f'go on with: python -m train --resume "{folder}"\n')
        assert (folder / LOG).read_text().endswith(ended.err)
        clock(1.0)
        monkeypatch.setattr("train.__main__.STARTED", train.config.safety.time.monotonic())
        ended = command_line(main, "--resume", folder, "--time-limit", f"{limit_s}s")
        sessions += 1
    assert sessions >= 2
    assert outcome_of(folder) == outcome_of(finished_run)


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("call", "every"), [(1, 1), (7, 3), (STEPS + 4, 10), (2 * STEPS + 5, 3)])
def test_a_kill_costs_at_most_so_many_steps_and_changes_nothing(
    tmp_path: Path, make_config: Any, tiny_shards: Path, finished_run: Path, outcome_of: Any,
    monkeypatch: pytest.MonkeyPatch, call: int, every: int,
) -> None:  # fmt: skip
    original, calls = train.method.objective.cross_entropy, 0

    def fatal(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return original(*args, **options)

    safety = Safety(checkpoint_every_s=None, checkpoint_every_steps=every)
    with monkeypatch.context() as patch:
        patch.setattr(train.method.objective, "cross_entropy", fatal)
        with pytest.raises(Killed):
            start_run(make_config(), tiny_shards, tmp_path / "run", safety)
    done = load_checkpoint(tmp_path / "run" / LAST).progress
    assert call - 1 - every < done.epoch * STEPS + done.step <= call - 1
    resume_run(tmp_path / "run", None, safety)
    assert outcome_of(tmp_path / "run") == outcome_of(finished_run)


def test_checkpoints_are_written_in_time_during_evaluation_too(
    tmp_path: Path, make_config: Any, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, saved = train.runs.saving.save_checkpoint, []

    def record(path: Path, content: dict[str, Any]) -> None:
        saved.append((path.name, content["progress"]["epoch"], content["progress"]["step"]))
        original(path, content)

    monkeypatch.setattr(train.runs.saving, "save_checkpoint", record)
    always = Safety(checkpoint_every_s=0.0)
    start_run(make_config(epochs=1), tiny_shards, tmp_path / "run", always)
    in_steps = [(LAST, 0, step) for step in range(1, STEPS + 1)]
    in_evaluation = [(LAST, 0, STEPS)] * VAL_BATCHES
    assert saved[1:-2] == in_steps + in_evaluation
    assert [name for name, *_ in saved[-2:]] == [LAST, "best.pt"]


def test_both_a_time_and_steps_may_be_due() -> None:
    both = Safety(checkpoint_every_s=60.0, checkpoint_every_steps=100)
    assert [both.is_save_due(*each) for each in ((59, 99), (60, 0), (0, 100))] == [0, 1, 1]
    assert not Safety(checkpoint_every_s=None).is_save_due(1e9, 10**9)


def test_a_run_can_be_resumed_from_its_first_moment_on(
    tmp_path: Path, make_config: Any, tiny_shards: Path, finished_run: Path, outcome_of: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def killed(_session: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("train.engine.run.fit", killed)
        with pytest.raises(Killed):
            start_run(make_config(), tiny_shards, tmp_path / "run")
    resume_run(tmp_path / "run")
    assert outcome_of(tmp_path / "run") == outcome_of(finished_run)


@pytest.fixture
def killed_run(
    tmp_path: Path, make_config: Any, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Killed in the third epoch, with a checkpoint after each step."""
    original, calls = train.method.objective.cross_entropy, 0

    def fatal(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 * STEPS + 3:
            raise Killed
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(train.method.objective, "cross_entropy", fatal)
        with pytest.raises(Killed):
            start_run(
                make_config(), tiny_shards, tmp_path / "run", Safety(checkpoint_every_steps=1)
            )
    return tmp_path / "run"


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (truncate, "is no checkpoint: not an archive that torch.save wrote"),
        (flip_a_bit, "is damaged: check sums do not match"),
        (lambda file: file.write_bytes(b""), "is no checkpoint: it is empty"),
        (Path.unlink, "no checkpoint "),
    ],
    ids=["cut short", "a flipped bit", "empty", "gone"],
)
def test_a_damaged_last_checkpoint_is_reported_and_the_one_before_it_used(
    killed_run: Path, command_line: Any, finished_run: Path, outcome_of: Any, damage: Any, what: str
) -> None:
    damage(killed_run / LAST)
    ended = command_line(main, "--resume", killed_run)
    assert ended.code == 0, ended.err
    (warning,) = (line for line in ended.out.splitlines() if line.startswith("warning: "))
    assert what in warning
    assert warning.endswith("; going on from the checkpoint before it (last.previous.pt)")
    assert "resuming in epoch 3 after step 1" in ended.out
    assert outcome_of(killed_run) == outcome_of(finished_run)


def test_where_both_are_damaged_the_run_is_refused_in_one_line(
    killed_run: Path, command_line: Any
) -> None:
    truncate(killed_run / LAST)
    truncate(previous(killed_run / LAST))
    ended = command_line(main, "--resume", killed_run)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.count("is no checkpoint: not an archive that torch.save wrote") == 2
    assert ended.err.endswith(
        f"; start a new run, from its best weights: --finetune-from {killed_run / 'best.pt'}\n"
    )


def test_a_checkpoint_given_for_its_run_folder_is_sent_there(
    killed_run: Path, command_line: Any
) -> None:
    ended = command_line(main, "--resume", killed_run / LAST)
    assert ended.code == 2
    assert ended.err == (
        f"error: {killed_run / LAST} is a file; give its run folder: --resume {killed_run}\n"
    )


def test_a_disk_that_fills_up_ends_the_run_and_the_checkpoint_before_goes_on(
    tmp_path: Path, train_command: Any, command_line: Any, finished_run: Path, outcome_of: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import torch

    original, saves = torch.save, 0

    def full(content: Any, file: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == 12:
            file.write(b"PK")
            raise OSError(28, "No space left on device")
        original(content, file)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        ended = train_command("--epochs", 3, "--out", folder, "--checkpoint-every", 1)
    assert ended.code == 1
    assert ended.err == (
        f"error: cannot write {folder / LAST}: the disk is full; the checkpoint before it is kept; "
        f'free some room, then go on with: python -m train --resume "{folder}"\n'
    )
    assert load_content(folder / LAST)["progress"]["samples_seen"] > 0
    assert not list(folder.glob("*.tmp"))
    assert command_line(main, "--resume", folder).code == 0
    assert outcome_of(folder) == outcome_of(finished_run)
    assert (folder / SUMMARY).exists()
