"""Ctrl-C, however often and whenever: one line, exit code 130, no damaged file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train.engine.loop
import train.method.objective
from shards.errors import Interrupted
from train.checkpoints.checkpoint import LAST, load_checkpoint
from train.runs.interrupt import StopRequest
from train.runs.log import LOG

REPO = Path(__file__).resolve().parents[2]
SLOW_TORCH = """
import time
print("importing", flush=True)
try:
    time.sleep(60)
except BaseException:  # as torch does with what NumPy raises
    raise RuntimeError("half loaded")
"""


def press(times: int) -> None:
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


def test_a_second_ctrl_c_ends_at_once_and_a_third_does_not_tear_the_end_apart() -> None:
    cleaned = False
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:  # noqa: PT012
        press(1)
        assert stop.requested()
        try:
            press(1)
        finally:
            press(2)
            cleaned = True
    assert cleaned


def test_only_ctrl_c_is_impatient() -> None:
    with StopRequest() as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert stop.exit_code == 143


def test_nothing_interrupts_what_is_held_off() -> None:
    with StopRequest() as stop:
        with stop.held_off():
            press(3)
        assert stop.requested()
        with pytest.raises(KeyboardInterrupt):
            press(1)


def test_a_signal_amid_a_write_to_the_terminal_is_still_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reentrant(*_: Any, **__: Any) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr("click.echo", reentrant)
    with StopRequest() as stop:
        press(1)
        assert stop.requested()


@pytest.fixture
def press_during_saves(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``press_during_saves(3)``: Ctrl-C so many times amid the writing of an epoch's checkpoints."""
    original = torch.save

    def arm(times: int) -> None:
        def interrupted(content: Any, file: Any) -> None:
            file.write(b"PK")
            if content["progress"]["epoch"]:
                press(times)
            file.seek(0)
            original(content, file)

        monkeypatch.setattr(torch, "save", interrupted)

    return arm


@pytest.mark.parametrize("times", [1, 2, 3])
def test_ctrl_c_during_a_save_lets_it_end_and_then_stops(
    tmp_path: Path, train_command: Any, press_during_saves: Any, resume: Any,
    monkeypatch: pytest.MonkeyPatch, finished_run: Path, outcome_of: Any, times: int,
) -> None:  # fmt: skip
    press_during_saves(times)
    ended = train_command("--epochs", 3, "--out", tmp_path / "run")
    assert ended.code == 130
    assert "saved; go on with: python -m train --resume" in ended.err
    assert load_checkpoint(tmp_path / "run" / LAST).progress.epoch == 1
    assert not list((tmp_path / "run").glob("*.tmp"))
    monkeypatch.undo()
    resume(tmp_path / "run")
    assert outcome_of(tmp_path / "run") == outcome_of(finished_run)


def test_a_second_ctrl_c_in_a_step_keeps_the_last_checkpoint(
    tmp_path: Path, train_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = train.method.objective.cross_entropy, 0

    def impatient(*args: Any, **options: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 10:  # the second step of the second epoch
            press(2)
        return original(*args, **options)

    monkeypatch.setattr(train.method.objective, "cross_entropy", impatient)
    ended = train_command("--epochs", 3, "--out", tmp_path / "run")
    assert (ended.code, ended.err.splitlines()[-1]) == (130, "interrupted")
    progress = load_checkpoint(tmp_path / "run" / LAST).progress
    assert (progress.epoch, progress.step) == (1, 0)


def test_how_a_run_was_stopped_stands_in_its_log(
    tmp_path: Path, train_tiny: Any, stop_after: Any
) -> None:
    stop_after(4)
    with pytest.raises(Interrupted) as stopped:
        train_tiny(tmp_path / "run")
    lines = (tmp_path / "run" / LOG).read_text().splitlines()
    assert lines[-1] == stopped.value.format_message()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["train", "--shards", "set"], id="train"),
        pytest.param(["train.evaluate", "best.pt"], id="evaluate"),
    ],
)
def test_ctrl_c_while_torch_is_imported_is_one_line(
    tmp_path: Path, command_environment: dict[str, str], arguments: list[str]
) -> None:
    (tmp_path / "torch.py").write_text(SLOW_TORCH)
    paths = f"{tmp_path}:{command_environment['PYTHONPATH']}"
    with subprocess.Popen(
        [sys.executable, "-m", *arguments], env=command_environment | {"PYTHONPATH": paths},
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err.strip()) == (130, "interrupted")


def test_the_help_of_evaluate_does_not_wait_for_torch(tmp_path: Path, run_command: Any) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    done = run_command("train.evaluate", "--help", env={"PYTHONPATH": f"{tmp_path}:{REPO}"})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_hail_of_ctrl_c_leaves_a_run_that_can_be_resumed(
    tmp_path: Path, tiny_shards: Path, command_environment: dict[str, str], run_command: Any
) -> None:
    folder = tmp_path / "run"
    command = [
        sys.executable, "-m", "train", "--arch", "shufflenet_v2_x0_5", "--image-size", "32",
        "--batch-size", "6", "--epochs", "6", "--device", "cpu", "--precision", "fp32",
        "--shards", str(tiny_shards), "--out", str(folder),
    ]  # fmt: skip
    with subprocess.Popen(
        command, env=command_environment, cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert any(line.startswith("epoch   1/6") for line in process.stdout)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    load_checkpoint(folder / LAST)
    assert run_command("train", "--resume", folder).returncode == 0
