"""A pack that was killed, stopped or had no room goes on and ends as if nothing had been."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from preprocess.discover import read_catalog
from preprocess.image import ImageOptions
from preprocess.pack import pack
from shards.errors import JobError
from shards.format import MANIFEST_NAME, WORK_NAME
from shards.reader import ShardSet
from tests.preprocess.packing import (
    SHORT_SIDE,
    contents,
    end_session,
    errors_of,
    interrupt_packing,
    members_after_a_while,
    members_of_session,
    start_packing,
    wait_for_first_shard,
)


@pytest.fixture
def killed(
    many_photos: Path, tmp_path: Path, command_environment: dict[str, str]
) -> Iterator[tuple[Path, int]]:
    """The folder of a pack whose main process was killed outright, and its session."""
    out = tmp_path / "set"
    process = start_packing(many_photos, out, command_environment)
    try:
        wait_for_first_shard(out, process)
        process.kill()
        process.wait(timeout=60)
        yield out, process.pid
    finally:
        end_session(process.pid)


def test_a_killed_pack_goes_on_and_ends_as_if_never_killed(
    killed: tuple[Path, int],
    many_photos: Path,
    unbroken: dict[str, bytes],
    run_command: Any,
) -> None:
    out, _ = killed
    assert not (out / MANIFEST_NAME).exists()
    done = run_command("preprocess", many_photos, "--out", out, "--short-side", str(SHORT_SIDE))
    assert done.returncode == 0, done.stderr
    assert "going on" in done.stdout
    assert contents(out) == unbroken


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_pack_leaves_no_processes_behind(killed: tuple[Path, int]) -> None:
    _, session = killed
    deadline = time.monotonic() + 5
    while (left := members_of_session(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_pack_says_how_to_go_on_and_keeps_its_shards(
    signum: signal.Signals,
    code: int,
    many_photos: Path,
    tmp_path: Path,
    command_environment: dict[str, str],
) -> None:
    out = tmp_path / "set"
    process = start_packing(many_photos, out, command_environment, workers=1)
    try:
        wait_for_first_shard(out, process)
        # A terminal's Ctrl-C reaches the whole group; `kill` and schedulers the one process.
        (os.killpg if signum == signal.SIGINT else os.kill)(process.pid, signum)
        process.wait(timeout=60)
        errors = errors_of(out).read_text()
        left = members_after_a_while(process.pid)
    finally:
        end_session(process.pid)
    assert process.returncode == code
    assert errors.strip().splitlines()[-1] == (
        f"stopped; finished shards are kept in {out}: run the same command again to go on"
    )
    assert "Traceback" not in errors
    assert (out / WORK_NAME / "train-000000.json").exists()
    assert not (out / MANIFEST_NAME).exists()
    assert not left


def test_a_shard_whose_tar_is_cut_short_after_a_kill_is_made_again(
    many_photos: Path, unbroken: dict[str, bytes], tmp_path: Path, pack_set: Any
) -> None:
    out = tmp_path / "set"
    interrupt_packing(many_photos, out)
    tar = out / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    pack_set(many_photos, out)
    assert contents(out) == unbroken


def test_a_shard_that_is_done_is_not_made_again(many_photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    interrupt_packing(many_photos, out)
    finished = {path.stem for path in (out / WORK_NAME).glob("*-0*.json")}
    assert finished
    made: dict[str, bool] = {}
    with ThreadPoolExecutor(1) as executor:
        pack(
            read_catalog(many_photos),
            out,
            ImageOptions(short_side=SHORT_SIDE),
            executor,
            on_progress=lambda task, _, new: made.update({f"{task.split}-{task.shard:06d}": new}),
        )
    assert {name for name, new in made.items() if not new} == finished


def test_a_second_run_changes_nothing(tiny_dataset: Path, shards_copy: Path, pack_set: Any) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in shards_copy.iterdir()}
    manifest = pack_set(tiny_dataset, shards_copy)
    assert manifest == ShardSet(shards_copy).manifest
    assert {path.name: path.stat().st_mtime_ns for path in shards_copy.iterdir()} == before


def test_a_full_disk_ends_the_job_and_the_next_run_completes_it(
    tiny_dataset: Path,
    tiny_shards: Path,
    tmp_path: Path,
    pack_set: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = os.fsync
    calls = iter(range(1000))

    def full_after_ten_files(descriptor: int) -> None:
        if next(calls) >= 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    out = tmp_path / "set"
    monkeypatch.setattr(os, "fsync", full_after_ten_files)
    message = rf"packing stopped: No space left on device: {out}/\S+; the finished shards are kept"
    with pytest.raises(JobError, match=message):
        pack_set(tiny_dataset, out, workers=1)
    assert not (out / MANIFEST_NAME).exists()
    assert not list(out.rglob("*.tmp"))
    monkeypatch.setattr(os, "fsync", real)
    pack_set(tiny_dataset, out)
    assert contents(out) == contents(tiny_shards)
