"""Names and files as real data sets hold them, packed by the real command."""

from __future__ import annotations

import csv
import io
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders.opencv import decode
from shards.reader import ShardSet

NAMES = [
    "plain.jpg",
    "with spaces.jpg",
    "with,comma.jpg",
    'with "quotes".jpg',
    "it's.jpg",
    "line\nbreak.jpg",
    "tab\there.jpg",
    "mushroom \U0001f344.jpg",
    "Pilz-Größe.jpg",
    "many.dots.in.name.jpg",
    ".jpg.jpg",
    "UPPER.JPG",
    "-dash.jpg",
    "percent%20.jpg",
    "back\\slash.jpg",
    "not utf8 \udcff\udcfe.jpg",
]
CLASSES = ["Species, with comma", 'Species "quoted"', "Species \U0001f344"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, jpeg, photo) -> Path:
    folder = tmp_path_factory.mktemp("awkward") / "data"
    rng = np.random.default_rng(0)
    rows = []
    for label in CLASSES:
        images = folder / "merged_dataset" / label
        images.mkdir(parents=True)
        for name in NAMES:
            (images / name).write_bytes(jpeg(photo(rng, 60, 48)))
            rows.append((f"/kaggle/working/merged_dataset/{label}/{name}", label))
    for split in ("train", "val", "test"):
        part = rows if split == "train" else rows[split == "test" :: 5]
        with (folder / f"{split}.csv").open(
            "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as file:
            table = csv.writer(file)
            table.writerow(["image_path", "label"])
            table.writerows(part)
    return folder


def test_every_name_is_packed_and_found_again(data: Path, tmp_path: Path, run_command) -> None:
    done = run_command("preprocess", str(data), "--out", str(tmp_path / "set"))
    assert done.returncode == 0, done.stderr
    shard_set = ShardSet(tmp_path / "set")
    assert shard_set.manifest.class_names == tuple(sorted(CLASSES))
    with shard_set.split("train") as split:
        paths = {split.metadata(sample)["path"] for sample in range(len(split))}
        labels = split.labels
        for sample in range(len(split)):
            label = split.metadata(sample)["path"].split("/")[0]
            assert shard_set.manifest.class_names[labels[sample]] == label
    assert paths == {f"{label}/{name}" for label in CLASSES for name in NAMES}
    listed = run_command("shards", "ls", str(tmp_path / "set"))
    assert listed.returncode == 0, listed.stderr


def png_of_size(side: int) -> bytes:
    """A small PNG file that claims to be ``side`` pixels square and would fill memory."""
    tiny = Image.new("1", (8, 8))
    buffer = io.BytesIO()
    tiny.save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = side.to_bytes(4, "big") * 2
    return bytes(data)


def test_unusable_files_are_rejected_by_name_and_the_rest_is_packed(
    tmp_path: Path, jpeg, photo, rng, run_command
) -> None:
    good = jpeg(photo(rng, 60, 48))
    folder = tmp_path / "data"
    awkward = {
        "empty.jpg": (b"", "empty file"),
        "page.jpg": (b"<html>not found</html>", "not an image"),
        "cut.jpg": (good[: len(good) // 2], "damaged JPEG"),
        "early end.jpg": (good[:-200] + b"\xff\xd9", "damaged JPEG"),
        "bomb.png": (png_of_size(30_000), "too large"),
    }
    for label in ("Aus bus", "Cus dus"):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            (folder / label / f"{number}.jpg").write_bytes(good)
    for name, (content, _) in awkward.items():
        (folder / "Aus bus" / name).write_bytes(content)
    (folder / "Aus bus" / "broken link.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "Aus bus" / "pipe.jpg")
    done = run_command(
        "preprocess",
        str(folder),
        "--out",
        str(tmp_path / "set"),
        "--max-rejected",
        "40",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "set" / "rejected.csv").open(newline="") as file:
        reasons = {row["path"].split("/")[1]: row["reason"] for row in csv.DictReader(file)}
    for name, (_, reason) in awkward.items():
        assert reasons.pop(name).startswith(reason), name
    assert set(reasons.values()) <= {"missing", "unreadable"}
    assert set(reasons) == {"broken link.jpg", "pipe.jpg"}
    shard_set = ShardSet(tmp_path / "set")
    assert sum(split.samples for split in shard_set.manifest.splits.values()) == 24
    with shard_set.split("train") as split:
        assert all(decode(split, sample).shape == (48, 60, 3) for sample in range(len(split)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_rejected(
    tmp_path: Path, jpeg, photo, rng, run_command
) -> None:
    folder = tmp_path / "data"
    for label in ("Aus bus", "Cus dus"):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            (folder / label / f"{number}.jpg").write_bytes(jpeg(photo(rng, 60, 48)))
    (folder / "Aus bus" / "3.jpg").chmod(stat.S_IWUSR)
    done = run_command(
        "preprocess", str(folder), "--out", str(tmp_path / "set"), "--max-rejected", "10"
    )
    assert done.returncode == 0, done.stderr
    assert "unreadable" in (tmp_path / "set" / "rejected.csv").read_text()
