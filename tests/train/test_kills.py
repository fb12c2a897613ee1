"""A real training that is killed, or asked to stop, at any moment and resumed: as if nothing happened."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from train.checkpoints.checkpoint import LAST
from train.runs.log import LOG, SUMMARY

EPOCHS = 10
EVERY_STEPS = 3
ATTEMPTS = 5
"""For each kill: on a busy machine many a moment comes after the end of the run."""


def options(shards: Path, folder: Path) -> list[object]:
    return [
        "--arch", "restless", "--image-size", 32, "--batch-size", 4, "--epochs", EPOCHS,
        "--device", "cpu", "--precision", "fp32", "--threads", 1, "--shards", shards,
        "--out", folder, "--checkpoint-every", EVERY_STEPS,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(
    trainer: Any, tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, float]:
    """A run that nothing disturbed, and the seconds that an epoch took."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    pid, out = trainer.start(options(tiny_shards, folder))
    trainer.wait_for(folder / LAST)
    start = time.monotonic()
    assert trainer.wait(pid) == 0, out.read_text()
    return folder, (time.monotonic() - start) / EPOCHS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "times", "code"),
    [
        pytest.param(signal.SIGKILL, 20, -signal.SIGKILL, id="SIGKILL"),
        pytest.param(signal.SIGTERM, 10, 143, id="SIGTERM"),
    ],
)
def test_a_training_that_is_ended_at_a_random_moment_and_resumed_equals_the_unbroken_one(
    trainer: Any, tiny_shards: Path, tmp_path: Path, unbroken: tuple[Path, float],
    outcome_of: Callable[[Path], dict[str, Any]], signum: signal.Signals, times: int, code: int,
) -> None:  # fmt: skip
    theirs, epoch_s = unbroken
    expected = outcome_of(theirs)
    chance, ended, equal = random.Random(int(signum)), 0, 0
    for attempt in range(ATTEMPTS * times):
        folder, epochs = tmp_path / f"run {attempt}", chance.randrange(EPOCHS)
        pid, out = trainer.start(options(tiny_shards, folder))
        trainer.wait_for(folder / LAST)
        if epochs:
            trainer.wait_for(folder / LOG, f"epoch {epochs:>3}/{EPOCHS}")
        time.sleep(chance.uniform(0, epoch_s))
        os.kill(pid, signum)
        status = trainer.wait(pid)
        if (folder / SUMMARY).exists():
            continue
        assert status == code, out.read_text()
        pid, out = trainer.start(["--resume", folder, "--checkpoint-every", EVERY_STEPS])
        assert trainer.wait(pid) == 0, out.read_text()
        ended += 1
        equal += outcome_of(folder) == expected
        if ended == times:
            break
    assert (equal, ended) == (times, times)
