"""Damage that shows in mid-run ends the run as failed, names the sample and loses no checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shards.errors import Interrupted
from shards.format import key_name
from shards.reader import ShardSet
from train.__main__ import main
from train.checkpoints.checkpoint import LAST, load_checkpoint
from train.runs.log import LOG, SUMMARY


def damage(shards: Path, split: str, sample: int = 0) -> str:
    """Flip a byte of an image; returns what a message must say of it."""
    with ShardSet(shards).split(split) as opened:
        record, described = opened.samples[sample], opened.describe(sample)
    tar = shards / f"{split}-{record['shard']:06d}.tar"
    content = bytearray(tar.read_bytes())
    content[int(record["offset"]) + int(record["size"]) // 2] ^= 0xFF
    tar.write_bytes(content)
    assert key_name(int(record["key"])) in described
    assert str(tar) in described
    assert "source" in described
    return described


@pytest.mark.parametrize("loader", ["opencv", "dali-cpu", "torchvision"])
def test_a_damaged_sample_fails_the_run_in_one_line_whatever_the_loader(
    train_command: Any, shards_copy: Path, tmp_path: Path, loader: str
) -> None:
    if loader == "dali-cpu":
        pytest.importorskip("nvidia.dali")
    described = damage(shards_copy, "val")
    ended = train_command("--loader", loader, "--out", tmp_path / "run", shards=shards_copy)
    assert ended.code == 1, ended
    assert ended.err.startswith(f"error: {described} is damaged: crc32 does not match")
    assert ended.err.endswith(
        "Mend the set, then go on from the last checkpoint: python -m train --resume "
        f'"{tmp_path / "run"}"\n'
    )
    assert ended.err.count("\n") == 1


def test_damage_that_ends_a_fast_dev_run_promises_no_checkpoint(
    train_command: Any, shards_copy: Path
) -> None:
    damage(shards_copy, "val")
    ended = train_command("--fast-dev-run", shards=shards_copy)
    assert ended.code == 1
    assert ended.err.endswith(". Mend the set, then start again\n")


def test_skipping_without_check_sums_is_warned_about(train_command: Any) -> None:
    ended = train_command("--fast-dev-run", "--verify", "never", "--on-bad-sample", "skip")
    assert ended.code == 0
    assert "warning: --verify never looks at no check sum: of damaged photographs, " in ended.out


def test_a_run_goes_on_from_its_last_checkpoint_once_the_set_is_mended(
    train_tiny: Any, stop_after: Any, shards_copy: Path, tmp_path: Path, command_line: Any,
    tiny_shards: Path, resume: Any, finished_run: Path, outcome_of: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "run"
    stop_after(13)
    with pytest.raises(Interrupted):
        train_tiny(folder)
    monkeypatch.undo()
    described = damage(shards_copy, "test")  # read once all epochs are done
    ended = command_line(main, "--resume", folder, "--shards", shards_copy)
    assert ended.code == 1
    assert ended.err.startswith(f"error: {described} is damaged: crc32 does not match")
    assert ended.err.endswith(
        f'Mend the set, then go on from the last checkpoint: python -m train --resume "{folder}"\n'
    )
    assert (folder / LOG).read_text().endswith(ended.err.removeprefix("error: "))
    assert load_checkpoint(folder / LAST).progress.epoch == 3
    assert not (folder / SUMMARY).exists()
    resume(folder, tiny_shards)
    assert outcome_of(folder) == outcome_of(finished_run)


def test_what_was_skipped_before_a_stop_is_counted_and_recorded_after_it(
    train_command: Any, stop_after: Any, shards_copy: Path, tiny_shards: Path, tmp_path: Path,
    resume: Any, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "run"
    described = damage(shards_copy, "train")
    stop_after(13)  # beyond the first epoch, in which every photograph is shown
    ended = train_command(
        *("--epochs", 3, "--on-bad-sample", "skip", "--out", folder), shards=shards_copy
    )
    assert ended.code == 130
    monkeypatch.undo()
    summary = resume(folder, tiny_shards)  # the set is whole now
    assert summary["bad_samples"] == 1
    log = (folder / LOG).read_text()
    assert log.count(f"warning: skipped: {described} is damaged") == 1
    assert "skipped in training: 1 damaged photograph\n" in log
