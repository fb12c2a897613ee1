"""A disk that fills up while a run writes whatever it writes: one line, and nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

import train.engine.loop
from train.__main__ import main
from train.checkpoints.checkpoint import LAST, load_content
from train.runs.log import CONFIG, LOG, METRICS, STEPS, SUMMARY

EPOCHS = 3  # as of the finished run


@pytest.fixture
def fill_disk_in_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """``fill_disk_in_epoch("steps.jsonl", 2)``: from then on that file cannot be written."""

    def arm(name: str, epoch: int) -> None:
        is_full = epoch == 0
        train_stretch, opened, write = (
            train.engine.loop.train_stretch,
            Path.open,
            RecordWriter.write,
        )

        def counted(session: Any) -> None:
            nonlocal is_full
            done = session.done
            finished = done.epoch + (done.step == session.train.steps_per_epoch)
            is_full = is_full or finished + 1 == epoch
            train_stretch(session)

        def refuse(file: str) -> None:
            if is_full and name in file:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)

        def refusing_open(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            if mode[0] in "wa":
                refuse(self.name)
            return opened(self, mode, *args, **options)

        def refusing_write(self: RecordWriter, data: bytes) -> None:
            refuse("events.out.tfevents")
            write(self, data)

        monkeypatch.setattr(train.engine.loop, "train_stretch", counted)
        monkeypatch.setattr(Path, "open", refusing_open)
        monkeypatch.setattr(RecordWriter, "write", refusing_write)

    return arm


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        (STEPS, 2),
        ("events.out.tfevents", 2),
        (SUMMARY, 3),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in ((METRICS, 2), (LOG, 2), ("val-confusion.png", 2), ("best.pt", 1))
        ),
    ],
)
def test_whichever_file_meets_a_full_disk_the_run_ends_in_one_line_and_goes_on(
    tmp_path: Path, train_command: Any, command_line: Any, fill_disk_in_epoch: Any,
    monkeypatch: pytest.MonkeyPatch, finished_run: Path, outcome_of: Any, name: str, epoch: int,
) -> None:  # fmt: skip
    folder = tmp_path / "run"
    fill_disk_in_epoch(name, epoch)
    ended = train_command("--epochs", EPOCHS, "--out", folder)
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert "No space left on device" in line or "the disk is full" in line
    assert "--resume" in line
    assert load_content(folder / LAST)["progress"]["epoch"] >= 1
    monkeypatch.undo()
    assert command_line(main, "--resume", folder).code == 0
    assert outcome_of(folder) == outcome_of(finished_run)


@pytest.mark.parametrize("name", [LOG, CONFIG, "events.out.tfevents", "last.pt"])
def test_a_disk_that_is_full_from_the_start_is_one_line(
    tmp_path: Path, train_command: Any, fill_disk_in_epoch: Any, name: str
) -> None:
    fill_disk_in_epoch(name, 0)
    ended = train_command("--epochs", EPOCHS, "--out", tmp_path / "run")
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    has_checkpoint = (tmp_path / "run" / LAST).exists()
    assert ("--resume" in line) == has_checkpoint
    assert has_checkpoint or line.endswith("; free some room, then start again")


@pytest.mark.parametrize("name", [STEPS, "best.pt"])
def test_a_full_disk_sends_nobody_to_the_folder_that_a_fast_dev_run_removes(
    train_command: Any, fill_disk_in_epoch: Any, name: str
) -> None:
    fill_disk_in_epoch(name, 1)
    ended = train_command("--fast-dev-run")
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert line.endswith("; free some room, then start again")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)],
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_real_disk_that_fills_up_loses_nothing(
    trainer: Any, tiny_shards: Path, tmp_path: Path, small_disk: Path, outcome_of: Any
) -> None:
    given = [
        "--arch", "restless", "--image-size", 32, "--batch-size", 4, "--epochs", 20, "--device",
        "cpu", "--precision", "fp32", "--threads", 1, "--shards", tiny_shards,
    ]  # fmt: skip
    pid, out = trainer.start([*given, "--out", tmp_path / "unbroken"])
    assert trainer.wait(pid) == 0, out.read_text()
    folder, filler = small_disk / "run", small_disk / "filler"
    pid, out = trainer.start([*given, "--out", folder])
    trainer.wait_for(folder / LOG, "epoch   2/20")
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(1 << 12))
    assert trainer.wait(pid) == 1
    said = out.read_text()
    assert said.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said
    filler.unlink()
    pid, out = trainer.start(["--resume", folder])
    assert trainer.wait(pid) == 0, out.read_text()
    assert outcome_of(folder) == outcome_of(tmp_path / "unbroken")
    assert load_content(folder / LAST)["progress"]["epoch"] == 20
