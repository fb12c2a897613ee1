"""Exit codes, one clear line for a mistake, signals; and ``python -m shards info``."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import pytest

from shards.commands import FiniteRange, describe_os_error, run, signals_held, stop_on_signals
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
        (
            OSError(errno.ENOSPC, "No space left", "/x"),
            1,
            "error: No space left: /x; free some room and run the same command again\n",
        ),
        (
            OSError(errno.EACCES, "Permission denied", "/x"),
            1,
            "error: Permission denied: /x; check its permissions\n",
        ),
        (OSError(errno.EIO, "Input/output error", "/x"), 1, "error: Input/output error: /x\n"),
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


def test_nested_jobs_answer_with_the_nearest_message_and_ignore_what_follows() -> None:
    with pytest.raises(Interrupted, match="inner"), stop_on_signals("outer"):  # noqa: PT012
        try:
            with stop_on_signals("inner"):
                os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # between the two
    with pytest.raises(Interrupted, match="outer"), stop_on_signals("outer"):  # noqa: PT012
        with stop_on_signals("inner"):
            pass
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_stop_is_not_swallowed_by_those_who_catch_every_exception() -> None:
    with pytest.raises(Interrupted), stop_on_signals("saved"):  # noqa: PT012
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("swallowed")


def test_held_signals_are_answered_afterwards() -> None:
    done = False
    with pytest.raises(Interrupted) as caught, stop_on_signals("saved"):  # noqa: PT012
        with signals_held():
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Thread(target=signal.raise_signal, args=[signal.SIGTERM]).start()
            time.sleep(0.05)
            done = True
        pytest.fail("not answered")
    assert (done, caught.value.exit_code) == (True, 143)


def test_a_stop_that_a_destructor_swallows_is_asked_for_again(
    command_environment: dict[str, str],
) -> None:
    code = """
import os, signal, sys, time, click
from shards.commands import run, stop_on_signals

class Trap:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)

@click.command()
def main():
    with stop_on_signals("saved"):
        trap = Trap()
        del trap
        time.sleep(30)

run(main, "x")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=command_environment, capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (143, "saved\n")


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


def test_info_describes_the_originals_in_words(run_command: Any, tiny_shards: Path) -> None:
    done = run_command("shards", "info", tiny_shards)
    originals = (
        r"^originals \d+ x \d+ px on average, 97\.2% JPEGs of quality \d+ \(estimated mean\)$"
    )
    assert re.search(originals, done.stdout, re.MULTILINE), done.stdout
    assert "None" not in done.stdout


def test_info_of_a_manifest_nested_beyond_reason_is_one_line(
    run_command: Any, shards_copy: Path
) -> None:
    nested = '{"format_version": 1, "a": ' + "[" * 100_000 + "]" * 100_000 + "}"
    (shards_copy / "manifest.json").write_text(nested)
    done = run_command("shards", "info", shards_copy)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {shards_copy}/manifest.json is damaged: not a manifest; remove {shards_copy} and "
        "pack again\n"
    )


def test_info_counts_rejected_photographs_by_reason(run_command: Any, gappy_shards: Path) -> None:
    done = run_command("shards", "info", gappy_shards)
    assert re.search(r"^train +36 +24 +1\.50 +22 +2 ", done.stdout, re.MULTILINE)
    assert re.search(
        r"^rejected .*1 not an image.*\(see rejected\.csv\)$", done.stdout, re.MULTILINE
    )


def test_info_of_no_shard_set_is_one_line_and_code_2(run_command: Any, tmp_path: Path) -> None:
    done = run_command("shards", "info", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path} is not a shard set: it has no manifest.json\n"


def test_info_takes_its_folder_from_the_environment(run_command: Any, tiny_shards: Path) -> None:
    done = run_command("shards", "info", env={"HYPHAE_SHARDS_DIR": str(tiny_shards)})
    assert done.returncode == 0
    assert done.stdout.startswith(f"{tiny_shards}: 3 classes")


def test_an_image_is_not_written_on_a_terminal(
    tiny_shards: Path, command_environment: dict[str, str]
) -> None:
    terminal, program_side = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "shards", "cat", str(tiny_shards), "0"],
            env=command_environment, stdout=program_side, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
        os.set_blocking(terminal, False)
        with pytest.raises(BlockingIOError):
            os.read(terminal, 1)
    finally:
        os.close(terminal)
        os.close(program_side)
    assert done.returncode == 2
    assert done.stderr == (
        "error: an image is no text for a terminal: > 000000000.jpg writes it to a file\n"
    )


def test_an_image_that_a_full_disk_does_not_take_is_one_line(
    tiny_shards: Path, command_environment: dict[str, str]
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "shards", "cat", str(tiny_shards), "0"],
            env=command_environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        1,
        "error: No space left on device: standard output; free some room and run the same command "
        "again\n",
    )


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


@pytest.mark.parametrize("text", ["nan", "-nan", "inf", "1e999"])
def test_a_number_is_finite(text: str) -> None:
    with pytest.raises(click.UsageError, match=f"{text} is no finite number"):
        FiniteRange().convert(text, None, None)
    assert FiniteRange(0, 1).convert("0.5", None, None) == 0.5


def test_a_missing_choice_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    @click.option("--format", type=click.Choice(["a", "b"]), required=True)
    def command(format: str) -> None:
        raise AssertionError(format)

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as ended:
        run(command, "python -m command")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: Missing option '--format'. Choose from: a, b (see python -m command --help)\n"
    )
