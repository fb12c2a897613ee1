"""Exit codes, one clear line for a mistake, signals; and ``python -m shards info``."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from shards.commands import describe_os_error, run, stop_on_signals
from shards.errors import Interrupted, JobError, ShardError, UserError, unknown_name


def run_raising(error: BaseException | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The exit code of a command that raises ``error``."""

    @click.command()
    def command() -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as exit_:
        run(command, "python -m command")
    return exit_.value.code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (UserError("no such folder: x"), 2, "error: no such folder: x\n"),
        (ShardError("damaged"), 2, "error: damaged\n"),
        (JobError("disk full"), 1, "error: disk full\n"),
        (Interrupted("saved"), 130, "saved\n"),
        (Interrupted("saved", exit_code=143), 143, "saved\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.Abort(), 130, "interrupted\n"),
        (OSError(errno.ENOSPC, "No space left", "/x"), 1, "error: No space left: /x\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_each_kind_of_end_has_its_exit_code_and_line(
    error: BaseException | None,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_raising(error, monkeypatch) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.lstrip() == line


def test_a_programming_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def command() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(ZeroDivisionError):
        run(command, "command")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_becomes_an_interruption_that_says_how_to_go_on(
    signum: signal.Signals, code: int
) -> None:
    with (
        pytest.raises(Interrupted, match="run it again") as caught,
        stop_on_signals("run it again"),
    ):
        os.kill(os.getpid(), signum)
    assert caught.value.exit_code == code


def test_a_second_signal_does_not_tear_the_clean_up_apart() -> None:
    cleaned = False
    with pytest.raises(Interrupted), stop_on_signals("saved"):  # noqa: PT012
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned = True
    assert cleaned


def test_signal_handlers_are_put_back() -> None:
    before = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    with pytest.raises(Interrupted), stop_on_signals("saved"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_unknown_name_gets_the_nearest_one() -> None:
    message = unknown_name("arch", "resnet5", ["resnet50", "vgg11"])
    assert message == "unknown arch 'resnet5'; did you mean 'resnet50'?"


def test_an_unknown_name_near_nothing_gets_the_first_known_ones() -> None:
    message = unknown_name("arch", "qqq", [f"name{at:02d}" for at in range(20)], "see --help")
    assert message.startswith("unknown arch 'qqq'; known: name00, name01")
    assert message.endswith("name11, ... see --help")


def test_a_system_error_is_told_with_its_file() -> None:
    assert describe_os_error(OSError(errno.EACCES, "Permission denied", "a b")) == (
        "Permission denied: a b"
    )


def test_info_shows_rows_files_and_repetition(run_command: Any, tiny_shards: Path) -> None:
    done = run_command("shards", "info", tiny_shards)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 classes, format 1" in done.stdout
    assert re.search(r"^train +36 +24 +1\.50 +24 +0 +1 ", done.stdout, re.MULTILINE)
    assert re.search(r"^val +6 +6 +1\.00 ", done.stdout, re.MULTILINE)


def test_info_counts_rejected_photographs_by_reason(run_command: Any, gappy_shards: Path) -> None:
    done = run_command("shards", "info", gappy_shards)
    assert re.search(r"^train +36 +24 +1\.50 +22 +2 ", done.stdout, re.MULTILINE)
    assert re.search(
        r"^rejected .*not an image 1.*\(see rejected\.csv\)", done.stdout, re.MULTILINE
    )


def test_info_of_no_shard_set_is_one_line_and_code_2(run_command: Any, tmp_path: Path) -> None:
    done = run_command("shards", "info", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path} is not a shard set: it has no manifest.json\n"


def test_info_takes_its_folder_from_the_environment(run_command: Any, tiny_shards: Path) -> None:
    done = run_command("shards", "info", env={"HYPHAE_SHARDS_DIR": str(tiny_shards)})
    assert done.returncode == 0
    assert done.stdout.startswith(f"{tiny_shards}: 3 classes")


def test_a_wrong_option_is_one_line_that_names_the_help(run_command: Any) -> None:
    done = run_command("shards", "info", "--colour")
    assert done.returncode == 2
    assert re.fullmatch(r"error: No such option.*--colour.*--help\)\n", done.stderr)


def test_a_reader_that_goes_away_is_no_error(
    tiny_shards: Path, command_environment: dict[str, str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "shards", "info", str(tiny_shards)],
            env=command_environment, stdout=write, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
