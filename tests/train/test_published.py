"""The published table against its raw file, and who may stand beside it."""

from __future__ import annotations

import csv
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from shards.format import Manifest, SplitInfo
from train.scores.published import (
    CAUTIONS,
    IMAGE_SIZE,
    TEST_COUNT,
    TRAIN_ROWS,
    incomparable,
    published_class_names,
    published_table,
)

DATA = Path(str(resources.files("train"))) / "data"


def rows_of(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def split(samples: int) -> SplitInfo:
    return SplitInfo(rows=samples, files=samples, samples=samples, shards=1, bytes=1)


@pytest.fixture
def published_set() -> Manifest:
    """What a shard set of the published photographs says of itself."""
    return Manifest(
        class_names=published_class_names(),
        splits={"train": split(72_870), "val": split(15_616), "test": split(TEST_COUNT)},
        options={}, source={}, versions={}, fingerprint="", stored={}, rejected={},
    )  # fmt: skip


def test_every_figure_follows_from_the_raw_table() -> None:
    raw = rows_of("baseline.csv")
    table = published_table()
    assert list(table) == [row["arch"] for row in raw]
    for row in raw:
        ours = table[row["arch"]]
        assert ours.arch == row["arch"]
        assert [ours.miou, ours.mf1, ours.oa] == pytest.approx(
            [float(row[f"test_{name}"]) / 100 for name in ("miou", "mf1", "oa")]
        )
        hours, minutes = map(int, row["training_time"].split("h"))
        seconds = 60 * (60 * hours + minutes)
        assert ours.seconds == seconds
        assert ours.images_per_s == pytest.approx(20 * 169 * 4080 / seconds)


def test_implied_speeds_are_those_of_the_design() -> None:
    assert [round(row.images_per_s) for row in published_table().values()] == [
        1242, 690, 440, 229, 213,
    ]  # fmt: skip


def test_there_are_169_names_in_alphabetical_order() -> None:
    names = published_class_names()
    assert len(set(names)) == 169
    assert list(names) == sorted(names)
    assert all(name == name.strip() and " " in name for name in names)
    assert TRAIN_ROWS == 169 * 4080


def test_the_species_table_has_the_same_names_and_synonyms_among_them() -> None:
    species = rows_of("species.csv")
    names = published_class_names()
    assert sorted(row["species"] for row in species) == list(names)
    synonyms = {row["synonym_of"] for row in species} - {""}
    assert synonyms <= set(names)
    assert len([row for row in species if row["synonym_of"]]) == 3
    edibilities = {"edible", "caution", "inedible", "poisonous", "deadly"}
    assert {row["edibility"] for row in species} == edibilities


def test_the_published_data_are_comparable(published_set: Manifest) -> None:
    assert incomparable(published_set, IMAGE_SIZE) is None


def test_other_classes_are_not_comparable(published_set: Manifest) -> None:
    reason = "other classes than the published set"
    names = published_set.class_names
    for other in (names[:-1], (*names[:-1], "Homo sapiens"), names[::-1]):
        assert incomparable(replace(published_set, class_names=other), IMAGE_SIZE) == reason


def test_another_test_split_is_not_comparable(published_set: Manifest) -> None:
    fewer = replace(published_set, splits=published_set.splits | {"test": split(15_613)})
    assert incomparable(fewer, IMAGE_SIZE) == (
        "15,613 test photographs, the published set has 15,614"
    )
    none = replace(published_set, splits={"train": split(10)})
    assert incomparable(none, IMAGE_SIZE) == "0 test photographs, the published set has 15,614"


def test_another_image_size_is_not_comparable(published_set: Manifest) -> None:
    assert incomparable(published_set, 224) == "image size 224, the published results have 384"


def test_the_cautions_name_the_outlier_and_the_decoding_limit() -> None:
    assert any("resnet101" in each and "outlier" in each for each in CAUTIONS)
    assert any("resnet18" in each and "decoding" in each for each in CAUTIONS)
