"""A photograph that is replaced by another of equal size: its time tells, and it is named."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from preprocess.discover import read_catalog
from preprocess.image import ImageOptions
from preprocess.pack import changed_photos, pack_slice
from shards.errors import UserError
from shards.merge import merge
from shards.photo_times import TIMES_NAME
from shards.reader import ShardSet
from tests.preprocess.packing import SHORT_SIDE, contents, interrupt_packing

NAME = "Boletus edulis/train 05.jpg"


def replace_photo(data: Path) -> None:
    """Put other content of the same size in its place; it still decodes."""
    path = data / "merged_dataset" / NAME
    content = bytearray(path.read_bytes())
    at = content.rindex(b"\xff\xda") + 40  # in the entropy-coded part
    content[at] ^= 2
    time_ns = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(time_ns, time_ns + 1_000_000))


@pytest.fixture
def packed(dataset_copy: Path, tmp_path: Path, pack_set: Any) -> Path:
    pack_set(dataset_copy, tmp_path / "set")
    return tmp_path / "set"


def test_a_photograph_replaced_after_publishing_is_named_with_both_remedies(
    dataset_copy: Path, packed: Path, pack_set: Any
) -> None:
    before = contents(packed)
    replace_photo(dataset_copy)
    with pytest.raises(UserError) as caught:
        pack_set(dataset_copy, packed)
    assert caught.value.message == (
        f"{NAME!r} was modified since {packed} was packed; if the pictures changed, remove "
        f"{packed} and pack again; if only their times did, as in copying, delete "
        f"{packed / TIMES_NAME} and run the same command again"
    )
    assert contents(packed) == before


def test_a_copied_data_folder_is_accepted_once_the_times_are_deleted(
    dataset_copy: Path, packed: Path, pack_set: Any
) -> None:
    for path in dataset_copy.rglob("*.jpg"):
        os.utime(path, (1, 1))
    with pytest.raises(UserError, match=r"and 33 more photographs were modified since"):
        pack_set(dataset_copy, packed)
    (packed / TIMES_NAME).unlink()
    pack_set(dataset_copy, packed)
    pack_set(dataset_copy, packed)  # the times found then count from then on
    replace_photo(dataset_copy)
    with pytest.raises(UserError, match=NAME):
        pack_set(dataset_copy, packed)


def test_a_photograph_replaced_between_stop_and_resume_is_packed_as_it_is_now(
    dataset_copy: Path, tmp_path: Path, pack_set: Any
) -> None:
    out, options = tmp_path / "set", ImageOptions(short_side=SHORT_SIDE)
    interrupt_packing(dataset_copy, out)
    replace_photo(dataset_copy)
    assert changed_photos(read_catalog(dataset_copy), out, options) == [NAME]
    pack_set(dataset_copy, out)
    pack_set(dataset_copy, tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")


def test_the_command_says_what_it_makes_again(
    dataset_copy: Path, tmp_path: Path, run_command: Any
) -> None:
    arguments = ["preprocess", dataset_copy, "--out", "set", "--workers", "1"]
    for index in (0, 1, 2):
        run_command(*arguments, "--task", f"{index}/3")
    replace_photo(dataset_copy)
    done = run_command(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"note: {NAME!r} was modified since; their shards are made again\n" in done.stdout


def test_slices_note_the_times_too(dataset_copy: Path, tmp_path: Path) -> None:
    out, catalog = tmp_path / "set", read_catalog(dataset_copy)
    with ThreadPoolExecutor(1) as executor:
        for part in ((0, 2), (1, 2)):
            pack_slice(catalog, out, ImageOptions(), executor, part)
        merge(out)
        replace_photo(dataset_copy)
        with pytest.raises(UserError, match=NAME):
            pack_slice(read_catalog(dataset_copy), out, ImageOptions(), executor, (0, 2))


def test_a_set_without_times_is_as_good_and_gets_them(
    dataset_copy: Path, packed: Path, pack_set: Any
) -> None:
    (packed / TIMES_NAME).unlink()
    assert ShardSet(packed).manifest == pack_set(dataset_copy, packed)
    assert (packed / TIMES_NAME).is_file()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"train": "x"}', '{"train": [1e99]}'])
def test_damaged_times_are_told_and_may_be_deleted(
    content: str, dataset_copy: Path, packed: Path, pack_set: Any
) -> None:
    (packed / TIMES_NAME).write_text(content)
    with pytest.raises(UserError, match=r"pack\.times is damaged; delete it and run the same"):
        pack_set(dataset_copy, packed)
