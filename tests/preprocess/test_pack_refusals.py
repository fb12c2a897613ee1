"""A folder that holds something else, or a set made otherwise, is refused and kept."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest

from preprocess.discover import read_catalog
from preprocess.image import ImageOptions
from preprocess.pack import codec_versions
from preprocess.pack_job import announce
from shards.errors import UserError
from shards.format import MANIFEST_NAME, WORK_NAME, Manifest
from tests.preprocess.packing import (
    SHORT_SIDE,
    contents,
    interrupt_packing,
)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"short_side": 64}, "short_side 96 there, 64 now"),
        ({"quality": 80}, "quality 90 there, 80 now"),
        ({"seed": 5}, "--seed 0 there, 5 now"),
    ],
)
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_other_options_are_refused_by_name(
    options: dict[str, int],
    difference: str,
    state: str,
    tiny_dataset: Path,
    tmp_path: Path,
    pack_set: Any,
) -> None:
    out = tmp_path / "set"
    if state == "finished":
        pack_set(tiny_dataset, out)
    else:
        interrupt_packing(tiny_dataset, out)
    before = contents(out)
    with pytest.raises(UserError, match="holds a shard set made differently") as caught:
        pack_set(tiny_dataset, out, **options)
    assert difference in caught.value.message
    assert contents(out) == before


def test_a_file_in_place_of_the_work_folder_is_refused(
    tiny_dataset: Path, tmp_path: Path, pack_set: Any
) -> None:
    (tmp_path / WORK_NAME).write_text("of something else")
    with pytest.raises(UserError, match=r"\.pack is a file, expected the folder of unfinished"):
        pack_set(tiny_dataset, tmp_path)


def test_nothing_is_announced_before_a_refusal(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    interrupt_packing(tiny_dataset, out)
    catalog = read_catalog(tiny_dataset)
    announce(catalog, tiny_dataset, out, ImageOptions(short_side=SHORT_SIDE), 1)
    assert capsys.readouterr().out.startswith("going on ")
    with pytest.raises(UserError, match=f"short_side {SHORT_SIDE} there, 64 now"):
        announce(catalog, tiny_dataset, out, ImageOptions(short_side=64), 1)
    assert capsys.readouterr().out == ""


def test_a_set_of_before_options_were_noted_is_known_again(
    tiny_dataset: Path, shards_copy: Path, pack_set: Any
) -> None:
    manifest = Manifest.read(shards_copy)
    del manifest.source["asked"]
    (shards_copy / MANIFEST_NAME).write_text(manifest.to_json())
    assert pack_set(tiny_dataset, shards_copy) == manifest
    with pytest.raises(UserError, match="--seed not given there, 5 now"):
        pack_set(tiny_dataset, shards_copy, seed=5)


def test_another_codec_version_is_refused_by_name(
    tiny_dataset: Path, shards_copy: Path, pack_set: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_with = codec_versions()["simplejpeg"]
    monkeypatch.setattr("simplejpeg.__version__", "0.0.1")
    with pytest.raises(UserError, match=f"simplejpeg '{made_with}' there, '0.0.1' now"):
        pack_set(tiny_dataset, shards_copy)


def test_changed_photographs_are_refused(
    dataset_copy: Path, shards_copy: Path, pack_set: Any
) -> None:
    photo = next((dataset_copy / "merged_dataset").rglob("train 05.jpg"))
    photo.write_bytes(photo.read_bytes() + b"more")
    with pytest.raises(UserError, match="other photographs, labels or splits than now"):
        pack_set(dataset_copy, shards_copy)


def test_two_packs_into_one_folder_at_once_are_refused(
    tiny_dataset: Path, tmp_path: Path, pack_set: Any
) -> None:
    work = tmp_path / "set" / WORK_NAME
    work.mkdir(parents=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being packed by another process; wait for it"):
            pack_set(tiny_dataset, tmp_path / "set")
    assert [path.name for path in work.iterdir()] == ["lock"]


def test_a_folder_of_something_else_is_refused_and_kept(
    tiny_dataset: Path, tmp_path: Path, pack_set: Any
) -> None:
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(UserError, match="is not empty and holds no shard set"):
        pack_set(tiny_dataset, tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"chapter 1"}
