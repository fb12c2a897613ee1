"""Photographs that are rejected: how many are too many, and what is published without them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from shards.errors import JobError
from shards.format import MANIFEST_NAME
from shards.reader import ShardSet
from tests.preprocess.packing import (
    contents,
    identities,
)


class TestRejected:
    def test_too_many_publish_nothing_and_name_the_reasons(
        self, gappy_dataset: Path, tmp_path: Path, pack_set: Any
    ) -> None:
        out = tmp_path / "set"
        with pytest.raises(JobError, match="2 of 36 photographs were rejected") as caught:
            pack_set(gappy_dataset, out, max_rejected=0.05)
        assert "1 not an image" in caught.value.message
        assert "--max-rejected 5 (percent)" in caught.value.message
        assert caught.value.exit_code == 1
        assert not (out / MANIFEST_NAME).exists()
        assert len(rejected_rows(out)) == 2

    def test_allowing_more_publishes_what_was_already_packed(
        self, gappy_dataset: Path, gappy_shards: Path, tmp_path: Path, pack_set: Any
    ) -> None:
        with pytest.raises(JobError):
            pack_set(gappy_dataset, tmp_path / "set", max_rejected=0.05)
        pack_set(gappy_dataset, tmp_path / "set", max_rejected=0.1)
        assert contents(tmp_path / "set") == contents(gappy_shards)

    def test_rejected_csv_names_split_path_and_reason(self, gappy_shards: Path) -> None:
        assert sorted(rejected_rows(gappy_shards)) == [
            ("train", "Amanita muscaria/train 07.jpg", "not an image"),
            ("train", "Boletus edulis/train 05.jpg", "damaged JPEG: premature end of jpeg file"),
        ]

    def test_a_missing_file_is_rejected_like_any_other(
        self, dataset_copy: Path, tmp_path: Path, pack_set: Any
    ) -> None:
        next((dataset_copy / "merged_dataset").rglob("val 01.jpg")).unlink()
        manifest = pack_set(dataset_copy, tmp_path / "set", max_rejected=0.1)
        assert manifest.rejected == {"missing": 1}
        assert manifest.splits["val"].samples == 5

    def test_a_rejected_file_leaves_a_gap_and_moves_no_other(
        self, tiny_shards: Path, gappy_shards: Path
    ) -> None:
        with ShardSet(tiny_shards).split("train") as whole:
            expected = {key: path for key, path, _ in identities(whole)}
            labels = {key: label for key, _, label in identities(whole)}
        with ShardSet(gappy_shards).split("train") as gappy:
            for key, path, label in identities(gappy):
                assert (expected.pop(key), labels[key]) == (path, label)
        assert sorted(expected.values()) == [
            "Amanita muscaria/train 07.jpg", "Boletus edulis/train 05.jpg"
        ]  # fmt: skip

    def test_rows_of_a_rejected_file_hold_minus_one_minus_its_label(
        self, gappy_dataset: Path, gappy_shards: Path
    ) -> None:
        table = pd.read_csv(gappy_dataset / "train.csv")
        with ShardSet(gappy_shards).split("train") as split:
            rows = split.rows
            for row, (path, label) in enumerate(table.itertuples(index=False)):
                if path.endswith(("Amanita muscaria/train 07.jpg", "Boletus edulis/train 05.jpg")):
                    assert rows[row] == -1 - split.manifest.class_names.index(label)
                else:
                    assert path.endswith(split.metadata(int(rows[row]))["path"])
        assert (rows < 0).sum() == 2

    def test_counts_of_files_samples_and_rows_are_all_told(self, gappy_shards: Path) -> None:
        train = ShardSet(gappy_shards).manifest.splits["train"]
        assert (train.rows, train.files, train.samples) == (36, 24, 22)

    def test_a_shard_of_rejected_files_alone_is_not_written(
        self, tmp_path: Path, pack_set: Any
    ) -> None:
        for part, count in (("train", 4), ("val", 2)):
            for name in "ab":
                (tmp_path / "data" / part / name).mkdir(parents=True)
                for at in range(count):
                    (tmp_path / "data" / part / name / f"{at}.jpg").write_text("no image")
        for path in (tmp_path / "data" / "train").rglob("*.jpg"):
            Image.new("RGB", (20, 20), (at * 9, 0, 0)).save(path)
        out = tmp_path / "set"
        manifest = pack_set(tmp_path / "data", out, max_rejected=1)
        assert not list(out.glob("val-*"))
        assert manifest.splits["val"].samples == 0
        with ShardSet(out).split("val") as split:
            assert split.rows.tolist() == [-1, -1, -2, -2]


def rejected_rows(out: Path) -> list[tuple[str, ...]]:
    with (out / "rejected.csv").open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]
