"""Packing: the same bytes whatever the workers, and what they hold."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from preprocess.discover import read_catalog
from preprocess.image import ImageOptions
from preprocess.pack import expected_bytes
from preprocess.shard_task import shard_files, shard_tasks
from shards.format import MANIFEST_NAME
from shards.photo_times import TIMES_NAME
from shards.reader import ShardSet
from tests.preprocess.packing import (
    SHORT_SIDE,
    contents,
    identities,
)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_set_is_byte_identical_for_any_number_of_workers(
    workers: int, many_photos: Path, unbroken: dict[str, bytes], tmp_path: Path, pack_set: Any
) -> None:
    pack_set(many_photos, tmp_path / "set", workers=workers)
    assert contents(tmp_path / "set") == unbroken


def test_the_set_is_byte_identical_when_photographs_lie_elsewhere(
    tiny_shards: Path, dataset_copy: Path, tmp_path: Path, pack_set: Any
) -> None:
    for path in dataset_copy.rglob("*.jpg"):
        os.utime(path, (1, 1))
    pack_set(dataset_copy, tmp_path / "set")
    assert contents(tmp_path / "set") == contents(tiny_shards)


def test_a_finished_set_holds_no_work_and_nothing_unlisted(tiny_shards: Path) -> None:
    listed = set(ShardSet(tiny_shards).manifest.files)
    assert {path.name for path in tiny_shards.iterdir()} == listed | {MANIFEST_NAME, TIMES_NAME}


def test_pixel_statistics_are_those_of_the_training_images(
    pack_set: Any, tiny_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "raw"  # JPEGs lose some contrast after it was measured, arrays nothing
    pack_set(tiny_dataset, out, raw_share=1.0, short_side=48)  # so low that every row counts
    with ShardSet(out).split("train") as split:
        moments = np.array(
            [[pixels.mean(axis=0), (pixels**2).mean(axis=0)] for pixels in all_pixels(split)]
        )
        repeats = split.repeats
    for plan, weights in (("natural", None), ("csv", repeats)):
        mean, mean_square = np.average(moments, axis=0, weights=weights)
        stats = ShardSet(out).manifest.pixels[plan]
        np.testing.assert_allclose(stats.mean, mean, atol=1e-6)
        np.testing.assert_allclose(stats.std, np.sqrt(mean_square - mean**2), atol=1e-6)


def all_pixels(split: Any) -> Iterator[npt.NDArray[np.float64]]:
    for sample in range(len(split)):
        yield np.load(io.BytesIO(split.payload(sample))).reshape(-1, 3) / 255


def test_stored_images_are_counted_by_what_was_done(tiny_shards: Path) -> None:
    stored = ShardSet(tiny_shards).manifest.stored
    assert stored == {"passed_through": 1, "resized": 35}


def test_awkward_files_of_the_tiny_set_are_stored_upright_and_in_colour(tiny_shards: Path) -> None:
    with ShardSet(tiny_shards).split("train") as split:
        sizes = {path: Image.open(io.BytesIO(split.payload(at))).size
                 for at, (_, path, _) in enumerate(identities(split))}  # fmt: skip
    assert sizes["Amanita muscaria/train 00.jpg"] == (128, 96)
    assert sizes["Amanita muscaria/train 01.jpg"] == (96, 132)
    assert sizes["Amanita muscaria/train 02.jpg"] == (120, 90)
    assert sizes["Boletus edulis/train 01.jpg"] == (96, 128)  # 160x120 turned by EXIF


@pytest.mark.parametrize(("files", "per_shard"), [(1, 64), (688, 64), (8000, 500), (72_870, 1000)])
def test_a_shards_size_depends_on_the_split_alone(files: int, per_shard: int) -> None:
    assert shard_files(files) == per_shard


def test_tasks_cover_the_catalogue_once_in_order(many_photos: Path) -> None:
    catalog = read_catalog(many_photos)
    tasks = list(shard_tasks(catalog, Path("out"), ImageOptions()))
    for name, split in catalog.splits.items():
        parts = [task for task in tasks if task.split == name]
        assert [path for part in parts for path in part.paths] == split.paths
        assert [part.first_key for part in parts] == [64 * at for at in range(len(parts))]


def test_the_space_estimate_covers_what_is_written(
    many_photos: Path, unbroken: dict[str, bytes]
) -> None:
    needed = expected_bytes(read_catalog(many_photos), ImageOptions(short_side=SHORT_SIDE))
    assert needed >= sum(len(data) for name, data in unbroken.items() if name.endswith(".tar"))
