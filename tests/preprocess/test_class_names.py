"""Class names that cannot be told apart are noted, and those that could rewrite a terminal refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from preprocess.class_names import name_notes
from preprocess.discover import read_catalog
from shards.errors import UserError


def csv_data(folder: Path, *labels: str) -> Path:
    rows = "".join(f'{at}.jpg,"{label}"\n' for at, label in enumerate(labels))
    for at in range(len(labels)):
        (folder / f"{at}.jpg").write_bytes(b"x")
    for split in ("train", "val"):
        (folder / f"{split}.csv").write_text(f"path,label\n{rows}", errors="surrogateescape")
    return folder


def test_names_that_differ_by_case_or_unicode_form_are_noted(tmp_path: Path) -> None:
    data = csv_data(tmp_path, "Boletus", "boletus", "C\u00e8pe", "Ce\u0300pe", "Russula")
    assert (
        "class names 'Boletus' and 'boletus', 'Ce\u0300pe' and 'C\u00e8pe' differ only by case or "
        "Unicode form: one class?"
    ) in read_catalog(data).notes


def test_names_that_are_not_utf8_are_noted(tmp_path: Path) -> None:
    catalog = read_catalog(csv_data(tmp_path, "Boletus", "C\udce8pe"))
    assert r"class names 'C\udce8pe' are not UTF-8" in catalog.notes


@pytest.mark.parametrize("character", ["\n", "\t", "\0", "\x1b", "\x7f", "\x9b"])
def test_control_characters_in_a_class_name_are_refused(character: str, tmp_path: Path) -> None:
    name = f"Bo{character}letus"
    with pytest.raises(UserError) as caught:
        read_catalog(csv_data(tmp_path, "Amanita", name))
    assert caught.value.message == f"class names {name!r} hold control characters; rename them"


def test_other_names_are_not_worth_a_note() -> None:
    assert name_notes(["Amanita muscaria", "Bol\u00e9tus", "\u7eb8\u5939", "a b\u00a0c"]) == []
