"""A run that was stopped and resumed is the run that was never stopped."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import train.engine.loop
import train.engine.run
from shards.errors import Interrupted
from train.__main__ import main
from train.checkpoints.checkpoint import BEST, LAST, load_content, previous, save_checkpoint
from train.config.recipes import create_recipe
from train.runs.log import LOG, SUMMARY

OutcomeOf = Callable[[Path], dict[str, Any]]
ROWS = 36
STEPS, VAL_BATCHES = 8, 2  # of an epoch of the tiny shards
ASKED = STEPS + VAL_BATCHES  # how often an epoch asks whether to stop


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(1, id="first step"),
        pytest.param(4, id="middle of the first epoch"),
        pytest.param(STEPS, id="last step of an epoch"),
        pytest.param(STEPS + 1, id="during evaluation"),
        pytest.param(STEPS + 2, id="last batch of evaluation"),
        pytest.param(ASKED + 1, id="first step of the second epoch"),
        pytest.param(ASKED + 5, id="middle of the second epoch"),
        pytest.param(2 * ASKED + STEPS, id="last step of all"),
        pytest.param(3 * ASKED, id="last batch of the last evaluation"),
    ],
)
def test_a_resumed_run_equals_the_unbroken_one_to_the_last_bit(
    tmp_path: Path,
    train_tiny: Any,
    finished_run: Path,
    stop_after: Any,
    resume: Any,
    outcome_of: OutcomeOf,
    asked: int,
) -> None:
    stop_after(asked)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run")
    assert not (tmp_path / "run" / SUMMARY).exists()
    resume(tmp_path / "run")
    assert outcome_of(tmp_path / "run") == outcome_of(finished_run)


def test_a_run_stopped_again_and_again_equals_the_unbroken_one(
    tmp_path: Path,
    train_tiny: Any,
    finished_run: Path,
    stop_after: Any,
    outcome_of: OutcomeOf,
) -> None:
    stop_after(3)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run")
    stops = 1
    while not (tmp_path / "run" / SUMMARY).exists():
        try:
            train.engine.run.resume_run(tmp_path / "run", None)
        except Interrupted:
            stops += 1
    assert stops > 6
    assert outcome_of(tmp_path / "run") == outcome_of(finished_run)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"precision": "bf16"}, id="bf16"),
        pytest.param({"loader": "torchvision", "seed": 1, "threads": 1}, id="torchvision"),
        pytest.param({"loader": "synthetic"}, id="synthetic"),
        pytest.param({"sampling": "natural", "drop_last": True, "seed": 5}, id="natural"),
        pytest.param({"mini": 4, "batch_size": 4, "label_smoothing": 0.1}, id="mini"),
        pytest.param(
            {
                "optimizer": "sgd",
                "decay_norm_and_bias": False,
                "clip_norm": 1.0,
                "schedule": "linear",
                "warmup": 0.3,
            },
            id="sgd by step",
        ),
    ],
)
def test_resuming_is_exact_whatever_the_configuration(
    tmp_path: Path,
    train_tiny: Any,
    stop_after: Any,
    resume: Any,
    outcome_of: OutcomeOf,
    fields: dict[str, Any],
) -> None:
    train_tiny(tmp_path / "unbroken", epochs=2, **fields)
    stop_after(2)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "broken", epochs=2, **fields)
    resume(tmp_path / "broken")
    assert outcome_of(tmp_path / "broken") == outcome_of(tmp_path / "unbroken")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_how_to_go_on_and_which_signal_it_was(
    tmp_path: Path,
    train_tiny: Any,
    stop_after: Any,
    capsys: pytest.CaptureFixture[str],
    signum: signal.Signals,
    code: int,
) -> None:
    folder = tmp_path / "my run"
    stop_after(4, signum)
    with pytest.raises(Interrupted) as stopped:
        train_tiny(folder)
    assert stopped.value.exit_code == code
    assert stopped.value.format_message() == (
        f"stopped in epoch 1 after step 4 of {STEPS}, saved; go on with: "
        f'python -m train --resume "{folder}"'
    )
    assert "stopping after this step, then saving" in capsys.readouterr().err


def test_the_handlers_of_signals_are_given_back(
    tmp_path: Path, train_tiny: Any, stop_after: Any
) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    stop_after(2)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_seconds_and_samples_add_up_over_sessions(
    tmp_path: Path, train_tiny: Any, stop_after: Any, resume: Any
) -> None:
    stop_after(4)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run", epochs=1)
    first = load_content(tmp_path / "run" / LAST)["progress"]
    assert (first["step"], first["images"], first["samples_seen"]) == (4, 20, 20)
    summary = resume(tmp_path / "run")
    assert summary["samples_seen"] == ROWS
    assert summary["seconds"] > first["seconds"] > 0


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> Iterator[None]:
    """The process ends at the ``call``-th use of ``train.engine.loop``'s ``name``: nothing is saved."""

    class Killed(BaseException):
        pass

    original, calls = getattr(train.engine.loop, name), 0

    def fatal(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(train.engine.loop, name, fatal)
        try:
            yield
        except Killed:
            return
    pytest.fail(f"{name} was used {calls} times, never for the {call}-th time")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        pytest.param("prepare", STEPS + 4, id="in a step of the second epoch"),
        pytest.param("evaluate", 2, id="in the second evaluation"),
        pytest.param("finish_stretch", 2, id="before the second epoch is recorded"),
        pytest.param("save", 3, id="before the second epoch is saved"),
    ],
)
def test_a_killed_run_goes_on_from_the_last_epoch_and_equals_the_unbroken_one(
    tmp_path: Path,
    train_tiny: Any,
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    resume: Any,
    outcome_of: OutcomeOf,
    name: str,
    call: int,
) -> None:
    with dying(monkeypatch, name, call):
        train_tiny(tmp_path / "run")
    assert load_content(tmp_path / "run" / LAST)["progress"]["epoch"] == 1
    resume(tmp_path / "run")
    assert outcome_of(tmp_path / "run") == outcome_of(finished_run)


@pytest.mark.parametrize(
    ("hits", "save"),
    [
        pytest.param((5, 3, 4), 2, id="the first epoch, the best of all"),
        pytest.param((3, 5, 4), 4, id="an epoch between others"),
        pytest.param((3, 4, 5), 6, id="the last epoch"),
        pytest.param((5, 3, 6), 5, id="the last epoch, after one that was worse"),
    ],
)
def test_a_kill_between_the_writes_of_last_and_best_loses_no_best_epoch(
    tmp_path: Path,
    train_tiny: Any,
    val_hits: Any,
    monkeypatch: pytest.MonkeyPatch,
    outcome_of: OutcomeOf,
    hits: tuple[int, ...],
    save: int,
) -> None:
    val_hits(*hits)
    train_tiny(tmp_path / "unbroken")
    val_hits(*hits)  # each epoch is evaluated once: none is trained again for the best one's sake
    with dying(monkeypatch, "save", save):
        train_tiny(tmp_path / "killed")
    train.engine.run.resume_run(tmp_path / "killed", None)
    ours, theirs = outcome_of(tmp_path / "killed"), outcome_of(tmp_path / "unbroken")
    assert ours == theirs
    assert ours["best progress"]["epoch"] == 1 + hits.index(max(hits))


@pytest.mark.parametrize("what", ["gone", "of another epoch"])
def test_a_run_whose_best_checkpoint_was_lost_is_refused_before_the_work(
    tmp_path: Path, train_tiny: Any, val_hits: Any, stop_after: Any, command_line: Any, what: str
) -> None:
    folder = tmp_path / "run"
    val_hits(3, 5, 4)
    stop_after(2 * STEPS + 3)  # val is scripted and does not ask: in the third epoch
    with pytest.raises(Interrupted):
        train_tiny(folder)
    if what == "gone":
        (folder / BEST).unlink()
    else:
        content = load_content(folder / BEST)
        content["progress"] |= {"epoch": 1, "best_epoch": 1}
        save_checkpoint(folder / BEST, content)
        previous(folder / BEST).unlink()
    ended = command_line(main, "--resume", folder)
    found = "missing" if what == "gone" else "of epoch 1"
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        f"error: {folder / BEST} is {found}, the run's best is of epoch 2; put that file back, or "
        "start a new run\n"
    )


def test_a_run_killed_before_its_test_row_needs_no_more_training(
    tmp_path: Path,
    finished_run: Path,
    resume: Any,
    outcome_of: OutcomeOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    (run / SUMMARY).unlink()
    monkeypatch.setattr(train.engine.loop, "take_step", None)  # whoever calls it fails
    resume(run)
    assert outcome_of(run) == outcome_of(finished_run)


def test_resuming_says_where_it_goes_on(
    tmp_path: Path, train_tiny: Any, stop_after: Any, resume: Any
) -> None:
    stop_after(ASKED + 3)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run", epochs=2)
    resume(tmp_path / "run")
    assert "resuming in epoch 2 after step 3\n" in (tmp_path / "run" / LOG).read_text()


# The same with real programs and real signals.


@pytest.fixture(scope="module")
def unbroken(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real network's run of 6 epochs, trained in this process."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    config = replace(
        create_recipe("baseline"),
        arch="shufflenet_v2_x0_5", image_size=32, batch_size=6, epochs=6, device="cpu",
        precision="fp32",
    )  # fmt: skip
    train.engine.run.start_run(config, tiny_shards, out)
    return out


def signalled(
    folder: Path, shards: Path, environment: dict[str, str], signum: signal.Signals
) -> tuple[int, str]:
    """Start the same run as a program and send it a signal some time after its first epoch."""
    delay_s = random.uniform(0, 1)
    command = [
        sys.executable, "-m", "train", "--arch", "shufflenet_v2_x0_5", "--image-size", "32",
        "--batch-size", "6", "--epochs", "6", "--device", "cpu", "--precision", "fp32",
        "--shards", str(shards), "--out", str(folder),
    ]  # fmt: skip
    with subprocess.Popen(
        command, env=environment, cwd=folder.parent, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert any(line.startswith("epoch   1/6") for line in process.stdout)
        time.sleep(delay_s)
        process.send_signal(signum)
        _, err = process.communicate(timeout=60)
    return process.returncode, f"after {delay_s:.2f} s: {err}"


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_program_stopped_by_a_signal_saves_and_can_be_resumed(
    tmp_path: Path,
    tiny_shards: Path,
    command_environment: dict[str, str],
    run_command: Any,
    unbroken: Path,
    outcome_of: OutcomeOf,
    signum: signal.Signals,
    code: int,
) -> None:
    folder = tmp_path / "run"
    returned, err = signalled(folder, tiny_shards, command_environment, signum)
    assert returned == code, err
    assert "Traceback" not in err
    go_on = re.search(r"saved; go on with: python -m (.*)\n$", err)
    assert go_on is not None, err
    assert go_on[1] == f'train --resume "{folder}"'
    done = run_command("train", "--resume", folder)
    assert done.returncode == 0, done.stderr
    assert outcome_of(folder) == outcome_of(unbroken), err


KILL_BETWEEN = """
import os, signal, sys
import train.engine.loop
from train.__main__ import main
from shards.commands import run

original, saves = train.engine.loop.save, 0

def save(session, name):
    global saves
    saves += 1
    if saves == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    original(session, name)

train.engine.loop.save = save
run(main, "train")
"""


@pytest.mark.slow
def test_a_program_killed_between_the_two_writes_loses_nothing(
    tmp_path: Path,
    tiny_shards: Path,
    command_environment: dict[str, str],
    run_command: Any,
    unbroken: Path,
    outcome_of: OutcomeOf,
) -> None:
    folder = tmp_path / "run"
    killed = subprocess.run(
        [
            sys.executable, "-c", KILL_BETWEEN, "--arch", "shufflenet_v2_x0_5", "--image-size",
            "32", "--batch-size", "6", "--epochs", "6", "--device", "cpu", "--precision", "fp32",
            "--shards", str(tiny_shards), "--out", str(folder),
        ],
        env=command_environment, cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / BEST).exists()
    done = run_command("train", "--resume", folder)
    assert done.returncode == 0, done.stderr
    assert outcome_of(folder) == outcome_of(unbroken)


@pytest.mark.slow
def test_a_program_that_was_killed_loses_at_most_an_epoch(
    tmp_path: Path,
    tiny_shards: Path,
    command_environment: dict[str, str],
    run_command: Any,
    unbroken: Path,
    outcome_of: OutcomeOf,
) -> None:
    folder = tmp_path / "run"
    returned, err = signalled(folder, tiny_shards, command_environment, signal.SIGKILL)
    assert returned == -signal.SIGKILL, err
    epochs = sum(line.startswith("epoch ") for line in (folder / LOG).read_text().splitlines())
    assert load_content(folder / LAST)["progress"]["epoch"] in (epochs, epochs - 1)
    done = run_command("train", "--resume", folder)
    assert done.returncode == 0, done.stderr
    ours, theirs = outcome_of(folder), outcome_of(unbroken)
    assert ours == theirs, err
