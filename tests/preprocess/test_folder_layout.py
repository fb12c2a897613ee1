"""Folders of classes, already parted or parted here: stratified, seeded, stated."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from preprocess.catalog import Catalog
from preprocess.discover import read_catalog
from shards.errors import UserError


def make_folders(root: Path, files: dict[str, int], extension: str = ".jpg") -> Path:
    """``{"train/a": 3}``: that many files in that folder."""
    for folder, count in files.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            (root / folder / f"{number:03d}{extension}").write_bytes(b"x")
    return root


def photos(catalog: Catalog) -> dict[str, list[str]]:
    return {name: sorted(split.paths) for name, split in catalog.splits.items()}


def problem(data: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_catalog(data)
    return caught.value.message


def test_split_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    data = make_folders(
        tmp_path,
        {"train/a b": 3, "train/c": 1, "Valid/a b": 1, "Valid/c": 1, "test/c": 2},
    )
    catalog = read_catalog(data)
    assert (catalog.layout, catalog.class_names) == ("folders", ("a b", "c"))
    assert photos(catalog) == {
        "train": ["train/a b/000.jpg", "train/a b/001.jpg", "train/a b/002.jpg", "train/c/000.jpg"],
        "val": ["Valid/a b/000.jpg", "Valid/c/000.jpg"],
        "test": ["test/c/000.jpg", "test/c/001.jpg"],
    }
    assert catalog.splits["test"].labels.tolist() == [1, 1]
    assert catalog.splits["train"].repeats.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("present", ["train", "val", "test"])
def test_split_folders_without_train_or_val_are_refused(tmp_path: Path, present: str) -> None:
    data = make_folders(tmp_path, {f"{present}/a": 1, f"{present}/b": 1})
    missing = "val" if present == "train" else "train"
    assert f"has {present}/ but no {missing}/" in problem(data)


def test_class_folders_are_split_70_15_15_within_each_class(tmp_path: Path) -> None:
    catalog = read_catalog(make_folders(tmp_path, {"a": 100, "b": 20, "c": 40}))
    counts = {name: Counter(path[0] for path in paths) for name, paths in photos(catalog).items()}
    assert counts == {
        "train": {"a": 70, "b": 14, "c": 28},
        "val": {"a": 15, "b": 3, "c": 6},
        "test": {"a": 15, "b": 3, "c": 6},
    }
    assert catalog.notes == [
        "no CSV and no train/ val/ test/: split 70/15/15 within each class, seed 0"
    ]


def test_every_photograph_is_in_exactly_one_part(tmp_path: Path) -> None:
    parts = photos(read_catalog(make_folders(tmp_path, {"a": 33, "b": 7})))
    found = [path for paths in parts.values() for path in paths]
    assert sorted(found) == sorted(
        [*(f"a/{at:03d}.jpg" for at in range(33)), *(f"b/{at:03d}.jpg" for at in range(7))]
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_small_class_keeps_a_training_photograph(tmp_path: Path, count: int) -> None:
    parts = photos(read_catalog(make_folders(tmp_path, {"a": 20, "small": count})))
    small = {name: sum("small" in path for path in paths) for name, paths in parts.items()}
    assert small["train"] >= 1
    assert small["val"] == small["test"]
    assert sum(small.values()) == count


def test_the_split_follows_the_seed_alone(tmp_path: Path) -> None:
    data = make_folders(tmp_path, {"a": 30, "b": 30})
    one, again, other = (photos(read_catalog(data, seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_a_new_photograph_of_one_class_moves_none_of_another(tmp_path: Path) -> None:
    data = make_folders(tmp_path, {"a": 30, "b": 30})
    before = photos(read_catalog(data))["val"]
    (data / "a" / "extra.jpg").write_bytes(b"x")
    after = photos(read_catalog(data))["val"]
    assert [p for p in before if p[0] == "b"] == [p for p in after if p[0] == "b"]


def test_foreign_and_hidden_files_are_skipped(tmp_path: Path) -> None:
    data = make_folders(tmp_path, {"a": 4, "b": 4, ".cache": 3})
    for name in ("a/notes.txt", "a/.hidden.jpg", "b/Thumbs.db", "README.md"):
        (data / name).write_text("x")
    (data / "empty").mkdir()
    (data / "stray.jpg").write_text("x")
    catalog = read_catalog(data)
    assert catalog.class_names == ("a", "b")
    assert sum(map(len, catalog.splits.values())) == 8
    assert catalog.notes[1:] == [
        "not packed: 1 photographs outside of class folders (stray.jpg), 1 folders without "
        "photographs of a class (empty), 3 files that are no photographs (README.md, a/notes.txt, "
        "b/Thumbs.db)"
    ]


def test_what_lies_beside_the_split_folders_is_noted(tmp_path: Path) -> None:
    data = make_folders(
        tmp_path, {"train/a": 2, "train/b": 1, "val/a": 1, "test/b": 1, "more/c": 5, ".cache": 1}
    )
    for name in ("1.jpg", "2.jpg", "3.jpg", "4.jpg", "train/5.jpg"):
        (data / name).write_text("x")
    assert read_catalog(data).notes == [
        "not packed: 5 photographs outside of class folders (1.jpg, 2.jpg, 3.jpg, ...), 1 folders "
        "without photographs of a class (more)"
    ]


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    data = make_folders(tmp_path, {"train/a": 2, "train/b": 1, "val/a": 1, "valid/b": 1})
    assert problem(data) == f"{data} has both val/ and valid/ for val; put them together"


@pytest.mark.parametrize("extension", [".JPG", ".jpeg", ".png", ".webp", ".TIF"])
def test_extensions_count_in_any_case(tmp_path: Path, extension: str) -> None:
    catalog = read_catalog(make_folders(tmp_path, {"a": 2, "b": 2}, extension))
    assert sum(map(len, catalog.splits.values())) == 4


def test_photographs_in_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    data = make_folders(tmp_path, {"a/2023": 2, "a/2024": 2, "b": 1})
    assert read_catalog(data).class_names == ("a", "b")


def test_an_empty_folder_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    message = problem(tmp_path)
    assert message.startswith(f"{tmp_path} holds neither train.csv, val.csv, test.csv nor class")


def test_photographs_without_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"x")
    assert "nor class folders with photographs" in problem(tmp_path)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    message = problem(make_folders(tmp_path, {"only one": 5}))
    assert "has one class, 'only one'; a classifier needs two or more" in message


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    assert problem(tmp_path / "nowhere") == f"no such folder: {tmp_path / 'nowhere'}"
    (tmp_path / "file").touch()
    assert "is a file, expected the folder of the data set" in problem(tmp_path / "file")


@pytest.mark.parametrize("up", [".", "..", "/"])
def test_a_link_to_a_folder_above_is_no_class(tmp_path: Path, up: str) -> None:
    data = make_folders(tmp_path / "data", {"a": 4, "b": 4})
    (data / "loop").symlink_to(up)
    assert problem(data) == (
        f"class folder {data}/loop is a link to {(data / up).resolve()}, which holds it; remove it"
    )


def test_a_link_to_its_own_split_is_no_class(tmp_path: Path) -> None:
    data = make_folders(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1})
    (data / "train" / "loop").symlink_to(".")
    assert problem(data) == (
        f"class folder {data}/train/loop is a link to {data}/train, which holds it; remove it"
    )


def test_a_link_to_another_class_is_refused_by_both_names(tmp_path: Path) -> None:
    data = make_folders(tmp_path, {"Bluebell": 4, "Daisy": 4})
    (data / "Blau").symlink_to("Bluebell")
    assert problem(data) == (
        f"class folders {data}/Blau and {data}/Bluebell are one folder, {data}/Bluebell; "
        "remove the link"
    )


def test_a_link_into_another_class_is_refused_by_both_names(tmp_path: Path) -> None:
    data = make_folders(tmp_path, {"Bluebell": 1, "Bluebell/blue": 4, "Daisy": 4})
    (data / "Blau").symlink_to("Bluebell/blue")
    assert problem(data).startswith(
        f"class folder {data}/Blau is a link into class folder {data}/Bluebell"
    )


def test_class_folders_may_lie_elsewhere(tmp_path: Path) -> None:
    store = make_folders(tmp_path / "store", {"a": 4, "b": 4})
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / name).symlink_to(store / name)
    assert read_catalog(tmp_path / "data").class_names == ("a", "b")
