"""No output takes the place of what a command reads, and none is made where it cannot be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import train.compare
import train.evaluate
import train.predict
import train.report.__main__
import train.taxonomy
from shards.errors import UserError
from train.runs.writable import check_outputs, record_of


@contextmanager
def untouched(*folders: Path) -> Iterator[None]:
    """The files of some folders are the same afterwards, byte for byte."""

    def content() -> dict[Path, bytes]:
        files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
        return {file: file.read_bytes() for file in files}

    before = content()
    yield
    assert content() == before


@pytest.fixture
def photos(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Photographs of the test's own."""
    copied = tmp_path / "photos"
    shutil.copytree(tiny_dataset / "merged_dataset" / "Boletus edulis", copied)
    return copied


@pytest.mark.parametrize("option", ["--out", "--html"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "in a folder"])
def test_predict_replaces_no_photograph(
    finished_run: Path, photos: Path, command_line: Any, option: str, named: bool
) -> None:
    photo = next(photos.iterdir())
    with untouched(finished_run, photos):
        ended = command_line(
            train.predict.main, finished_run, photo if named else photos, option, photo
        )
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"error: {option} {photo} would replace a photograph; name another file\n"


@pytest.mark.parametrize("name", ["best.pt", "last.pt", "summary.json", "metrics.jsonl"])
def test_no_command_replaces_the_files_of_a_run(
    finished_run: Path, photos: Path, command_line: Any, name: str
) -> None:
    file = finished_run / name
    for command, args in (
        (train.predict.main, [finished_run, photos, "--out", file]),
        (train.predict.main, [finished_run / "best.pt", photos, "--html", file]),
        (train.evaluate.main, [finished_run, "--json", file]),
        (train.report.__main__.main, [finished_run, "--out", file]),
        (train.compare.main, [finished_run, finished_run, "--json", file]),
    ):
        with untouched(finished_run):
            ended = command_line(command, *args)
        assert (ended.code, ended.out) == (2, "")
        assert f" {file} would replace what this command reads or writes elsewhere" in ended.err


def test_two_outputs_have_two_names(finished_run: Path, photos: Path, command_line: Any) -> None:
    out = photos.parent / "answers"
    ended = command_line(
        train.predict.main, finished_run, photos, "--out", out, "--html", photos / ".." / "answers"
    )
    assert ended.code == 2
    assert not out.exists()


def test_a_species_table_is_not_replaced_by_its_tree(tmp_path: Path, command_line: Any) -> None:
    table = tmp_path / "species.csv"
    table.write_text("species\n")
    with untouched(tmp_path):
        ended = command_line(train.taxonomy.main, "--species", table, "--out", table)
    assert ended.code == 2


def test_a_report_is_asked_of_a_folder(finished_run: Path, command_line: Any) -> None:
    file = finished_run / "best.pt"
    ended = command_line(train.report.__main__.main, file)
    assert (ended.code, ended.err) == (
        2, f"error: {file} is a file; a report is about a run, so give its folder\n",
    )  # fmt: skip


def test_a_link_to_what_is_read_is_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "best.pt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"^--out .*link would replace what this command reads"):
        check_outputs({"--out": tmp_path / "link"}, record_of(tmp_path))
    check_outputs({"--out": tmp_path / "other", "--html": None}, record_of(tmp_path))


def test_links_in_a_circle_are_no_file_that_is_read(
    finished_run: Path, command_line: Any, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    for arguments in ([one], [finished_run, "--json", one]):
        ended = command_line(train.evaluate.main, *arguments)
        assert ended.code == 2
        assert ended.err.startswith("error: ")
        assert str(one) in ended.err
