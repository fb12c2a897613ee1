"""Ctrl-C and `kill` reach every process of a group at any moment; two lines answer."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.preprocess.packing import (
    end_session,
    errors_of,
    members_after_a_while,
    start_packing,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
FILES = 6000
"""More than is packed while a test watches."""

PATIENCE_S = 60


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo: Any, jpeg: Any) -> Path:
    """Two classes of links to one photograph."""
    root = tmp_path_factory.mktemp("many") / "photos"
    source = root.with_name("source.jpg")
    source.write_bytes(jpeg(photo(np.random.default_rng(0), 240, 200)))
    for name in "ab":
        (root / name).mkdir(parents=True)
        for at in range(FILES // 2):
            os.link(source, root / name / f"{at}.jpg")
    return root


def workers_of(session: int) -> list[int]:
    """Process ids of the workers of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            in_session = os.getsid(int(folder.name)) == session
            if in_session and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return found


def wait_for_worker(session: int) -> None:
    """Until the first worker of a session has been started."""
    deadline = time.monotonic() + PATIENCE_S
    while not workers_of(session):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def stop_at(
    moment_s: float, signals: list[int], photos: Path, out: Path, environment: dict[str, str]
) -> tuple[int, str, list[str]]:
    """Exit code, errors and processes left of a pack whose whole group gets signals."""
    process = start_packing(photos, out, environment, workers=3)
    try:
        wait_for_worker(process.pid)
        time.sleep(moment_s)
        for signum in signals:
            os.killpg(process.pid, signum)
            time.sleep(0.05)
        process.wait(timeout=PATIENCE_S)
        return process.returncode, errors_of(out).read_text(), members_after_a_while(process.pid)
    finally:
        end_session(process.pid)


@pytest.mark.parametrize(
    "moment", [0, *(pytest.param(moment, marks=pytest.mark.slow) for moment in range(1, 12))]
)
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_group_while_workers_start_is_answered_at_once_and_ends_in_one_line(
    moment: int,
    signum: int,
    code: int,
    photos: Path,
    tmp_path: Path,
    command_environment: dict[str, str],
) -> None:
    at_s = random.Random(f"{moment} {signum}").uniform(0, 0.8)
    out = tmp_path / "set"
    returned, errors, left = stop_at(at_s, [signum], photos, out, command_environment)
    assert errors == (
        "stopping: finishing what is under way\n"
        f"stopped; finished shards are kept in {out}: run the same command again to go on\n"
    )
    assert returned == code
    assert not left


@pytest.mark.parametrize("at_s", [0.7, pytest.param(0.0, marks=pytest.mark.slow)])
def test_an_impatient_ctrl_c_changes_nothing(
    at_s: float, photos: Path, tmp_path: Path, command_environment: dict[str, str]
) -> None:
    signals = [signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGINT]
    returned, errors, left = stop_at(at_s, signals, photos, tmp_path / "set", command_environment)
    assert (returned, len(errors.splitlines()), left) == (130, 2, []), errors
    assert errors.startswith("stopping: finishing what is under way\nstopped; ")


def test_a_worker_that_is_killed_ends_the_job_in_one_line(
    photos: Path, tmp_path: Path, command_environment: dict[str, str]
) -> None:
    out = tmp_path / "set"
    process = start_packing(photos, out, command_environment, workers=3)
    try:
        wait_for_worker(process.pid)
        time.sleep(0.5)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        process.wait(timeout=PATIENCE_S)
        left = members_after_a_while(process.pid)
    finally:
        end_session(process.pid)
    errors = errors_of(out).read_text()
    assert errors.startswith("error: a packing process was killed, perhaps for want of memory; ")
    assert (process.returncode, len(errors.splitlines()), left) == (1, 1, []), errors
