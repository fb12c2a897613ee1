"""A CSV that is none gets one clear line wherever one is given: data set, --add, --exclude."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from preprocess.add import add_photos
from preprocess.catalog import Catalog
from preprocess.copies import read_copies
from preprocess.discover import read_catalog
from shards.errors import UserError

Read = Callable[[Path], object]
TEXT = "image_path,label\na.jpg,a\n"
LONG = "x" * 131_073
"""One character more than ``csv`` takes in a field."""
COPIES = "kind,distance,split_a,path_a,label_a,split_b,path_b,label_b\n"


def read_data(file: Path) -> Catalog:
    return read_catalog(file.parent)


def read_added(file: Path) -> Catalog:
    folder = file.parent / "data"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for at in range(4):
            (folder / name / f"{at}.jpg").write_bytes(b"x")
    return add_photos(read_catalog(folder), [file], seed=0, max_missing=None)


READERS: dict[str, Read] = {"data": read_data, "--add": read_added, "--exclude": read_copies}


def problem(read: Read, folder: Path, content: bytes) -> str:
    file = folder / "train.csv"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(file)
    return caught.value.message


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_named_with_the_remedy(reader: str, encoding: str, tmp_path: Path) -> None:
    said = problem(READERS[reader], tmp_path, TEXT.encode(encoding))
    assert f'{tmp_path}/train.csv is UTF-16, expected UTF-8; save it as "CSV UTF-8"' in said


@pytest.mark.parametrize("reader", READERS)
def test_a_binary_file_is_no_text(reader: str, tmp_path: Path) -> None:
    said = problem(READERS[reader], tmp_path, b"\x7fELF\x02\x01\x01\0\0\0\0\n" + TEXT.encode())
    assert f"{tmp_path}/train.csv is no text file, expected CSV in UTF-8" in said


@pytest.mark.parametrize("reader", READERS)
def test_a_header_is_quoted_to_80_characters(reader: str, tmp_path: Path) -> None:
    said = problem(READERS[reader], tmp_path, b"y" * 5000 + b"\n")
    assert f"its header is {'y' * 80 + '...'!r}" in said


@pytest.mark.parametrize("reader", READERS)
def test_semicolons_are_named(reader: str, tmp_path: Path) -> None:
    text = (COPIES if reader == "--exclude" else TEXT).replace(",", ";")
    said = problem(READERS[reader], tmp_path, text.encode())
    assert "', separated by semicolons instead of commas" in said


def test_tabs_are_named_where_they_are_not_read(tmp_path: Path) -> None:
    said = problem(read_data, tmp_path, TEXT.replace(",", "\t").encode())
    assert "', separated by tabs instead of commas" in said


@pytest.mark.parametrize("reader", READERS)
def test_a_field_beyond_the_limit_is_named_by_its_line(reader: str, tmp_path: Path) -> None:
    row = f"exact,0,train,{LONG},a,train,b,a\n" if reader == "--exclude" else f"{LONG},a\n"
    text = (COPIES if reader == "--exclude" else TEXT) + row
    said = problem(READERS[reader], tmp_path, text.encode())
    line = text.count("\n")
    assert f"{tmp_path}/train.csv, line {line}: field larger than field limit (131072)" in said


@pytest.mark.parametrize("reader", READERS)
def test_a_header_beyond_the_limit_is_named_too(reader: str, tmp_path: Path) -> None:
    said = problem(READERS[reader], tmp_path, f"{LONG},a\n".encode())
    assert "train.csv, line 1: field larger than field limit (131072)" in said
