"""A run folder is refused before anything is made, and held by one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import train.checkpoints.folder
from shards.errors import Interrupted, UserError
from train.__main__ import main
from train.checkpoints.folder import LOCK, check_new_folder, held, new_folder
from train.runs.log import SUMMARY

HOLD = """
import sys
from pathlib import Path
from train.checkpoints.folder import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold(command_environment: dict[str, str]) -> Generator[Callable[[Path], subprocess.Popen[str]]]:
    """``hold(folder)``: another process that holds a run, until it is killed."""
    started = []

    def start(folder: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)], env=command_environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def stopped_run(tmp_path: Path, train_tiny: Any, stop_after: Any) -> Path:
    stop_after(3)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_a_run_that_is_at_work_is_not_resumed_and_one_whose_process_died_is(
    stopped_run: Path, hold: Any, command_line: Any, resume: Any
) -> None:
    holder = hold(stopped_run)
    before = contents(stopped_run)
    ended = command_line(main, "--resume", stopped_run)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        f"error: run folder {stopped_run} is in use by another process; wait for it, or stop it\n"
    )
    assert contents(stopped_run) == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    resume(stopped_run)
    assert (stopped_run / SUMMARY).is_file()


def test_of_two_runs_that_start_in_one_folder_the_second_is_refused(
    tmp_path: Path, train_command: Any, hold: Any
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    holder = hold(folder)
    ended = train_command("--out", folder)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: run folder {folder} is in use by another process; ")
    assert ended.err.count("\n") == 1
    assert [each.name for each in folder.iterdir()] == [LOCK]
    holder.kill()
    holder.wait()
    assert train_command("--out", folder).code == 0  # a lock of the dead is no content


def test_a_folder_that_another_run_filled_in_the_meantime_is_refused(
    tmp_path: Path, make_config: Any
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with (
        pytest.raises(UserError, match="holds something already"),
        new_folder(tmp_path, make_config()),
    ):
        pass


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.checkpoints.folder, "default_folder", lambda _config: next(names))
    Path("runs/taken").mkdir(parents=True)
    names = iter([Path("runs/taken"), Path("runs/taken-2")])
    with new_folder(None, make_config()) as made:
        assert made == Path("runs/taken-2")


def test_a_lock_that_the_file_system_does_not_know_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(train.checkpoints.folder.fcntl, "lockf", fail)
    with held(tmp_path):
        pass
    assert capsys.readouterr().err == f"note: no locks where {tmp_path} lies: start it only once\n"


@pytest.mark.parametrize("below", [".", "run", "a/b/run"])
def test_a_folder_below_a_file_is_refused(tmp_path: Path, below: str) -> None:
    file = tmp_path / "notes.txt"
    file.touch()
    with pytest.raises(UserError) as refused:
        check_new_folder(file / below)
    assert "\n" not in refused.value.format_message()
    assert f"{file} is a file" in refused.value.format_message()


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, train_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by its mode: whoever runs the tests as root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path)
    ended = train_command("--out", tmp_path / "a" / "run")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        f"error: output folder {tmp_path / 'a' / 'run'}: {tmp_path} cannot be written; "
        "choose another\n"
    )


def test_a_folder_that_cannot_be_made_after_all_is_one_line(train_command: Any) -> None:
    ended = train_command("--out", "/proc/run")  # looks writable to root, and is not
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1


@pytest.mark.slow
def test_a_program_that_resumes_a_run_at_work_ends_and_leaves_it_alone(
    tmp_path: Path, tiny_shards: Path, command_environment: dict[str, str], run_command: Any
) -> None:
    folder = tmp_path / "run"
    command = [
        sys.executable, "-m", "train", "--arch", "shufflenet_v2_x0_5", "--image-size", "32",
        "--batch-size", "6", "--epochs", "20", "--device", "cpu", "--precision", "fp32",
        "--shards", str(tiny_shards), "--out", str(folder),
    ]  # fmt: skip
    with subprocess.Popen(
        command, env=command_environment, cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as first:  # fmt: skip
        assert first.stdout is not None
        assert any(line.startswith("epoch   2/20") for line in first.stdout)
        first.send_signal(signal.SIGSTOP)
        second = run_command("train", "--resume", folder)
        first.send_signal(signal.SIGCONT)
        _, err = first.communicate(timeout=60)
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr.startswith(f"error: run folder {folder} is in use by another process; ")
    assert second.stderr.count("\n") == 1
    assert first.returncode == 0, err
