"""Names, the sample record, and what a manifest accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.format import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    SAMPLE_DTYPE,
    WORK_NAME,
    FileInfo,
    Manifest,
    PixelStats,
    SplitInfo,
    fingerprint,
    index_name,
    key_name,
    rows_name,
    samples_name,
    shard_name,
)
from shards.sealed_json import seal

MakeManifest = Callable[..., Manifest]
COUNTS = st.integers(0, 2**40)
WHERE = Path("set/manifest.json")


def test_names_are_as_the_format_says() -> None:
    names = (shard_name("train", 3), index_name("val", 0), samples_name("test"), rows_name("val"))
    assert names == ("train-000003.tar", "val-000000.idx", "test.samples.npy", "val.rows.npy")


def test_names_sort_as_their_numbers_do() -> None:
    assert sorted(shard_name("train", each) for each in (10, 9, 100)) == [
        shard_name("train", each) for each in (9, 10, 100)
    ]


@pytest.mark.parametrize("key", [0, 42, 999_999_999, 2**32 - 1])
def test_a_key_has_neither_spaces_nor_dots(key: int) -> None:
    assert key_name(key).isdigit()
    assert int(key_name(key)) == key


def test_the_sample_record_is_little_endian_and_packed() -> None:
    assert SAMPLE_DTYPE.itemsize == 40
    assert all(
        SAMPLE_DTYPE[name].newbyteorder("<") == SAMPLE_DTYPE[name] for name in "key size".split()
    )


@given(
    class_names=st.lists(st.text(st.characters(codec="utf-8")), unique=True, max_size=5),
    counts=st.tuples(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS),
    split=st.sampled_from(["train", "val", "test"]),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
)
def test_a_manifest_survives_being_written_and_read(
    manifest_of: MakeManifest,
    class_names: list[str],
    counts: tuple[int, int, int, int, int],
    split: str,
    mean: tuple[float, float, float],
) -> None:
    rows, files, samples, shards, size = counts
    manifest = manifest_of(
        class_names=tuple(class_names),
        splits={
            split: SplitInfo(rows=rows, files=files, samples=samples, shards=shards, bytes=size)
        },
        files={
            name: FileInfo(bytes=size, sha256="ab" * 32)
            for name in (
                shard_name(split, 0),
                index_name(split, 0),
                samples_name(split),
                rows_name(split),
            )
        },
        pixels={"csv": PixelStats(mean=mean, std=mean)},
        rejected={"empty file": files},
    )
    assert Manifest.from_json(manifest.to_json(), WHERE) == manifest


def test_a_manifest_says_what_its_file_does_not_depend_on(manifest_of: MakeManifest) -> None:
    content = json.loads(manifest_of().to_json())
    assert not {"time", "host", "workers"} & set(content)
    assert len(content["sha256"]) == 64


def test_the_same_manifest_gives_the_same_bytes(manifest_of: MakeManifest) -> None:
    one = manifest_of(rejected={"a": 1, "b": 2})
    other = manifest_of(rejected={"b": 2, "a": 1})
    assert one.to_json() == other.to_json()


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, "1", None])
def test_another_format_version_is_refused_by_number(
    manifest_of: MakeManifest, version: object
) -> None:
    text = manifest_of(format_version=version).to_json()
    message = rf"format version {version!r}, this hyphae reads {FORMAT_VERSION}"
    with pytest.raises(ShardError, match=message):
        Manifest.from_json(text, WHERE)


def test_a_changed_manifest_is_refused(manifest_of: MakeManifest) -> None:
    text = manifest_of().to_json().replace("Boletus edulis", "Boletus satanas")
    with pytest.raises(ShardError, match=r"manifest\.json is damaged: its sha256"):
        Manifest.from_json(text, WHERE)


TABLES = {
    name: {"bytes": 1, "sha256": "ab" * 32} for name in (samples_name("train"), rows_name("train"))
}
COUNTED = {"rows": 1, "files": 1, "samples": 1, "shards": 1, "bytes": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": None}, "manifest.splits is of type NoneType, expected dict"),
        ({"extra": 1}, "unknown manifest field 'extra'; "),
        ({"splits": {"train": COUNTED | {"samples": "x"}}, "files": TABLES},
         "manifest.splits.train.samples is of type str, expected int"),
        ({"splits": {"train": COUNTED | {"rows": -1}}, "files": TABLES},
         "manifest.splits.train.rows is -1, expected 0 or more"),
        ({"splits": {"tset": COUNTED}}, "manifest.splits.tset is none of train, val, test"),
        ({"splits": {"train": COUNTED}}, "manifest.files has no train.samples.npy, which split "),
        ({"files": {"train-000000.tar": TABLES["train.rows.npy"]}},
         "manifest.files has train-000000.tar, but no train-000000.idx"),
        ({"files": {"train.rows.npy": {"bytes": 1}}},
         "manifest.files.train.rows.npy has no sha256"),
        ({"pixels": {"csv": {"mean": [0.1], "std": [1, 1, 1]}}},
         "manifest.pixels.csv.mean has 1 values, expected 3"),
        ({"class_names": "Boletus"}, "manifest.class_names is of type str, expected tuple"),
    ],
)  # fmt: skip
def test_a_manifest_that_another_program_sealed_is_refused_by_the_field_that_is_wrong(
    manifest_of: MakeManifest, change: dict[str, object], message: str
) -> None:
    content = json.loads(manifest_of().to_json())
    del content["sha256"]
    with pytest.raises(ShardError, match=re.escape(f"manifest.json is damaged: {message}")):
        Manifest.from_json(seal(content | change), WHERE)


def test_a_manifest_without_its_splits_is_refused(manifest_of: MakeManifest) -> None:
    content = json.loads(manifest_of().to_json())
    del content["sha256"], content["splits"]
    with pytest.raises(ShardError, match="damaged: manifest has no splits; remove set and pack"):
        Manifest.from_json(seal(content), WHERE)


@pytest.mark.parametrize("text", ["", "[]", "null", '"text"', "{}", "{", "\ufffd\0"])
def test_a_file_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ShardError, match=r"manifest\.json is damaged: not a manifest"):
        Manifest.from_json(text, WHERE)


def test_a_missing_folder_names_the_command_that_packs_one(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no shard folder .*nowhere; `make shards` packs one"):
        Manifest.read(tmp_path / "nowhere")


def test_a_folder_without_a_manifest_is_no_shard_set(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"is not a shard set: it has no manifest\.json"):
        Manifest.read(tmp_path)


def test_an_unfinished_set_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / WORK_NAME).mkdir()
    with pytest.raises(ShardError, match="unfinished shard set; run the packing command again"):
        Manifest.read(tmp_path)


def test_a_manifest_of_random_bytes_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(rng.bytes(200))
    with pytest.raises(ShardError, match="is damaged"):
        Manifest.read(tmp_path)


def test_repetition_is_rows_per_file() -> None:
    split = SplitInfo(rows=36, files=24, samples=22, shards=1, bytes=1)
    assert split.repetition == 1.5


@pytest.mark.parametrize("changed", ["options", "source", "versions"])
def test_the_fingerprint_depends_on_options_source_and_versions(changed: str) -> None:
    parts = {name: {"value": "1"} for name in ("options", "source", "versions")}
    other = parts | {changed: {"value": "2"}}
    assert fingerprint(**parts) == fingerprint(**parts)
    assert fingerprint(**parts) != fingerprint(**other)
