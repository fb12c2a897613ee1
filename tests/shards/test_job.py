"""The work folder: damage in it is found, and only one process at a time publishes."""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.errors import ShardError, UserError
from shards.format import WORK_NAME, FileInfo
from shards.job import LOCK_NAME, Job, JobSplit, hold_work, open_job
from shards.merge import finish_job, merge
from shards.shard_report import ShardReport
from shards.writer import Sample, write_shard

JOB = Job(
    class_names=("a", "b"),
    options={"short_side": 96},
    source={"layout": "csv", "digest": "0" * 64},
    versions={"opencv": "5"},
    shards={"train": 1},
)
SPLITS = {"train": JobSplit(labels=np.array([0, 1], np.int32), rows=np.array([0, 1, 1], np.int32))}


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A set whose only shard is packed and which is not published."""
    samples = [
        Sample(
            key=key, label=key, repeats=1 + key, payload=b"jpeg", extension="jpg", width=4, height=3,
            metadata={"path": f"{key}.jpg"},
        )
        for key in range(2)
    ]  # fmt: skip
    out = tmp_path / "set"
    with open_job(out, JOB, SPLITS):
        written = write_shard(out, "train", 0, samples)
        ShardReport(
            records=written.records,
            files=written.files,
            stored={"resized": 2},
            rejected=[],
            bytes_read=8,
            times=np.array([5, 6]),
            moments=np.zeros((2, 2, 3)),
        ).write(out, "train", 0)
    return out


def test_a_finished_job_is_published(unfinished: Path) -> None:
    manifest = merge(unfinished)
    assert (manifest.splits["train"].rows, manifest.splits["train"].samples) == (3, 2)
    assert not (unfinished / WORK_NAME).exists()


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip_a_byte,
    "no content": lambda path: path.write_bytes(b""),
    "other content": lambda path: path.write_text("garbage"),
    "brackets": lambda path: path.write_text("[" * 100_000 + "]" * 100_000),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["train.labels.npy", "train.rows.npy"])
def test_a_damaged_table_is_one_line_to_merge_and_mended_by_packing(
    name: str, damage: str, unfinished: Path
) -> None:
    DAMAGE[damage](unfinished / WORK_NAME / name)
    with pytest.raises(ShardError, match=rf"{re.escape(name)} is damaged; run the packing command"):
        merge(unfinished)
    with open_job(unfinished, JOB, SPLITS):
        pass
    assert merge(unfinished).splits["train"].rows == 3


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_report_means_that_its_shard_is_not_packed(damage: str, unfinished: Path) -> None:
    DAMAGE[damage](unfinished / WORK_NAME / "train-000000.json")
    assert ShardReport.read(unfinished, "train", 0) is None
    with pytest.raises(ShardError, match=r"1 of 1 shards are not packed yet \(train 0\)"):
        merge(unfinished)


@pytest.mark.parametrize("damage", sorted({*DAMAGE} - {"gone"}))
def test_a_damaged_job_is_one_line_for_merge_and_pack(damage: str, unfinished: Path) -> None:
    DAMAGE[damage](unfinished / WORK_NAME / "job.json")
    message = rf"job\.json is damaged; remove {re.escape(str(unfinished))} and pack again"
    with pytest.raises(ShardError, match=message):
        merge(unfinished)
    with pytest.raises(ShardError, match=message), open_job(unfinished, JOB, SPLITS):
        pass


def test_a_report_comes_back_as_it_was_written(unfinished: Path) -> None:
    report = ShardReport.read(unfinished, "train", 0)
    assert report is not None
    assert report.times.tolist() == [5, 6]
    assert report.records["label"].tolist() == [0, 1]
    assert all(isinstance(info, FileInfo) for info in report.files.values())


@pytest.mark.parametrize("others", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_a_merge_beside_a_pack_or_a_merge_is_refused_and_changes_nothing(
    others: int, unfinished: Path
) -> None:
    with (unfinished / WORK_NAME / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, others)
        with pytest.raises(UserError, match="is being packed by another process; wait for it"):
            merge(unfinished)
    assert merge(unfinished).splits["train"].samples == 2  # the lock went with its holder


def test_slices_run_side_by_side_and_keep_a_lone_packer_out(unfinished: Path) -> None:
    with (
        open_job(unfinished, JOB, SPLITS, alone=False),
        open_job(unfinished, JOB, SPLITS, alone=False),
        pytest.raises(UserError, match="is being packed by another process"),
        open_job(unfinished, JOB, SPLITS),
    ):
        pass


def test_the_lock_of_a_dead_process_is_no_obstacle(
    unfinished: Path, command_environment: dict[str, str]
) -> None:
    code = (
        "import os, sys; from pathlib import Path; from shards.job import hold_work\n"
        "with hold_work(Path(sys.argv[1])): os._exit(9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(unfinished)], env=command_environment, check=False
    )
    assert done.returncode == 9
    assert (unfinished / WORK_NAME / LOCK_NAME).exists()
    merge(unfinished)


def test_a_merge_of_a_published_set_changes_nothing(unfinished: Path) -> None:
    published = merge(unfinished)
    before = {each: each.stat().st_mtime_ns for each in unfinished.iterdir()}
    assert merge(unfinished) == published
    assert {each: each.stat().st_mtime_ns for each in unfinished.iterdir()} == before


def test_a_pack_that_begins_while_another_publishes_is_refused(unfinished: Path) -> None:
    with hold_work(unfinished):
        finish_job(unfinished, None)
    (unfinished / WORK_NAME).mkdir()  # made just after the other one had removed its own
    with (
        pytest.raises(UserError, match="was published by another process just now; run it again"),
        open_job(unfinished, JOB, SPLITS),
    ):
        pass
