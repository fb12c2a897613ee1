"""The Kaggle layout in the spellings met in the wild, and every problem told at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from preprocess.catalog import Catalog
from preprocess.discover import read_catalog
from shards.errors import UserError

KAGGLE = "/kaggle/working/merged_dataset/"
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """``make(train=..., val=...)`` writes CSV text and a file for every name in ``files``."""

    def write(
        *,
        train: str | bytes | None = None,
        val: str | bytes | None = None,
        test: str | bytes | None = None,
        files: tuple[str, ...] = ("a/1.jpg", "a/2.jpg", "b/1.jpg"),
        images: str = "merged_dataset",
    ) -> Path:
        for name, text in (("train", train), ("val", val), ("test", test)):
            if text is not None:
                data = text if isinstance(text, bytes) else text.encode()
                (tmp_path / f"{name}.csv").write_bytes(data)
        for file in files:
            path = tmp_path / images / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return tmp_path

    return write


TRAIN = f"image_path,label\n{KAGGLE}a/1.jpg,a\n{KAGGLE}b/1.jpg,b\n{KAGGLE}a/1.jpg,a\n"
VAL = f"image_path,label\n{KAGGLE}a/2.jpg,a\n"


def rows_of(catalog: Catalog, split: str = "train") -> list[tuple[str, str]]:
    """``(path, class name)`` of every row."""
    each = catalog.splits[split]
    return [
        (each.paths[file], catalog.class_names[each.labels[file]]) for file in each.rows.tolist()
    ]


def problem(data: Path, max_missing: float = 0.01) -> str:
    with pytest.raises(UserError) as caught:
        read_catalog(data, max_missing=max_missing)
    return caught.value.message


EXPECTED = [("a/1.jpg", "a"), ("b/1.jpg", "b"), ("a/1.jpg", "a")]


def test_rows_keep_their_order_and_repeated_files_are_one(make: Make) -> None:
    catalog = read_catalog(make(train=TRAIN, val=VAL))
    assert (catalog.layout, catalog.class_names) == ("csv", ("a", "b"))
    assert rows_of(catalog) == EXPECTED
    train = catalog.splits["train"]
    assert (len(train), dict(zip(train.paths, train.repeats.tolist(), strict=True))) == (
        2,
        {"a/1.jpg": 2, "b/1.jpg": 1},
    )


@pytest.mark.parametrize(
    "prefix",
    [KAGGLE, "", "./", "merged_dataset/", "/home/me/mushrooms/merged_dataset/", "a/../"],
)
@pytest.mark.parametrize("header", ["image_path,label", "filepath,label", "Path , Species"])
def test_both_headers_and_any_prefix_mean_the_same_files(
    make: Make, header: str, prefix: str
) -> None:
    train = f"{header}\n{prefix}a/1.jpg,a\n{prefix}b/1.jpg,b\n{prefix}a/1.jpg,a\n"
    assert rows_of(read_catalog(make(train=train, val=VAL))) == EXPECTED


def test_the_absolute_path_of_the_data_folder_itself_is_understood(
    make: Make, tmp_path: Path
) -> None:
    train = TRAIN.replace(KAGGLE, f"{tmp_path}/")
    assert rows_of(read_catalog(make(train=train, val=VAL, images=""))) == EXPECTED


def test_columns_may_stand_in_any_order_among_others(make: Make) -> None:
    train = "id,label,edible,image_path\n1,a,no,a/1.jpg\n2,b,yes,b/1.jpg\n3,a,no,a/1.jpg\n"
    assert rows_of(read_catalog(make(train=train, val=VAL))) == EXPECTED


def test_different_spellings_of_a_path_are_one_file(make: Make) -> None:
    train = f"image_path,label\n{KAGGLE}a/1.jpg,a\na/1.jpg,a\na/./1.jpg,a\nb/1.jpg,b\n"
    catalog = read_catalog(make(train=train, val=VAL))
    assert sorted(catalog.splits["train"].repeats.tolist()) == [1, 3]


def test_everything_may_lie_one_folder_deeper(make: Make, tmp_path: Path) -> None:
    make(train=TRAIN, val=VAL)
    outer = tmp_path / "outer"
    inner = outer / "archive"
    inner.mkdir(parents=True)
    for name in ("train.csv", "val.csv", "merged_dataset"):
        (tmp_path / name).rename(inner / name)
    catalog = read_catalog(outer)
    assert rows_of(catalog) == EXPECTED
    assert catalog.root == inner / "merged_dataset"


def test_without_a_merged_folder_files_lie_beside_the_csv(make: Make) -> None:
    assert rows_of(read_catalog(make(train=TRAIN, val=VAL, images=""))) == EXPECTED


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\n\n"),
        lambda text: text.rstrip(),
        lambda text: text.replace(b",a\n", b', "a"\n'.replace(b" ", b"")),
        lambda text: text.replace(b",a\n", b",a \n"),
    ],
    ids=["BOM", "CRLF", "blank lines", "no last newline", "quotes", "trailing space"],
)
def test_spellings_of_csv_make_no_difference(make: Make, change: Callable[[bytes], bytes]) -> None:
    assert rows_of(read_catalog(make(train=change(TRAIN.encode()), val=VAL))) == EXPECTED


def test_file_names_that_are_not_utf8_are_found_as_they_are_on_disk(make: Make) -> None:
    name = os.fsdecode(b"a/caf\xe9.jpg")
    train = b"image_path,label\na/caf\xe9.jpg,a\nb/1.jpg,b\n"
    catalog = read_catalog(make(train=train, val=VAL, files=(name, "b/1.jpg", "a/2.jpg")))
    assert rows_of(catalog)[0] == (name, "a")
    assert catalog.splits["train"].sizes.tolist() == [1, 1]


def test_classes_are_sorted_and_shared_by_all_splits(make: Make) -> None:
    train = "image_path,label\na/1.jpg,zeta\nb/1.jpg,Beta\n"
    catalog = read_catalog(make(train=train, val="image_path,label\na/2.jpg,alpha\n"))
    assert catalog.class_names == ("Beta", "alpha", "zeta")
    assert rows_of(catalog, "val") == [("a/2.jpg", "alpha")]
    assert any("1 classes have no training photograph: alpha" in note for note in catalog.notes)


def test_a_missing_test_csv_is_a_note(make: Make) -> None:
    catalog = read_catalog(make(train=TRAIN, val=VAL))
    assert list(catalog.splits) == ["train", "val"]
    assert "no test.csv: training will report validation scores alone" in catalog.notes


def test_a_file_in_two_splits_is_a_note(make: Make) -> None:
    val = f"image_path,label\n{KAGGLE}a/1.jpg,a\n"
    catalog = read_catalog(make(train=TRAIN, val=val))
    assert "1 files are in both train and val: scores may flatter" in catalog.notes


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (
            "image_path,kind\na/1.jpg,a\n",
            "train.csv has no label column: its header is 'image_path,kind', expected "
            "image_path,label or filepath,label",
        ),
        ("name,label\na/1.jpg,a\n", "train.csv has no path column: its header is 'name,label'"),
        ("", "train.csv has no path column: its header is 'nothing'"),
        ("image_path,label,Label\na/1.jpg,a,b\n", "train.csv has 2 columns 'label', expected one"),
        ("image_path,label\n", "train.csv has no rows"),
        (
            TRAIN + "../../x,a\n/etc/passwd,a\na/../../y,b\n..,b\n",
            "4 train.csv: paths that leave the data folder: '../../x', '/etc/passwd', "
            "'a/../../y', and 1 more",
        ),
        (
            TRAIN + f"{KAGGLE}../../x,a\n",
            f"1 train.csv: paths that leave the data folder: '{KAGGLE}../../x'",
        ),
        (
            TRAIN + "a/1.jpg,b\n",
            "1 train.csv: files with two labels: 'a/1.jpg' ('a' and 'b')",
        ),
        (TRAIN + "a/1.jpg\n", "1 train.csv: lines without both columns: 5"),
        (TRAIN + "a/1.jpg,\n,a\n", "2 train.csv: lines with an empty path or label: 5, 6"),
    ],
    ids=["no label column", "no path column", "empty", "two label columns", "header alone", "leaves the folder",
         "leaves from kaggle", "two labels", "short line", "empty fields"],
)  # fmt: skip
def test_a_problem_is_told_with_its_first_examples(make: Make, train: str, expected: str) -> None:
    assert expected in problem(make(train=train, val=VAL))


def test_a_file_with_another_label_in_another_split_is_refused(make: Make) -> None:
    message = problem(make(train=TRAIN, val="image_path,label\nb/1.jpg,a\n"))
    assert "1 files with two labels in different splits: 'b/1.jpg' ('b' and 'a')" in message


def test_many_missing_files_are_refused_with_the_folder_looked_in(make: Make) -> None:
    train = TRAIN + "".join(f"a/missing {at}.jpg,a\n" for at in range(5))
    message = problem(make(train=train, val=VAL))
    root = f"{make()}/merged_dataset"
    assert f"5 of 8 files are missing in {root}: 'a/missing 0.jpg', " in message
    assert message.endswith("'a/missing 2.jpg', and 2 more")


def test_few_missing_files_are_left_to_packing(make: Make) -> None:
    train = TRAIN + "a/missing.jpg,a\n"
    catalog = read_catalog(make(train=train, val=VAL), max_missing=0.25)
    assert len(catalog.splits["train"]) == 3


def test_all_problems_of_all_files_come_in_one_message(make: Make) -> None:
    """As for the published val.csv and test.csv without photographs and without train.csv."""
    val = "image_path,label\n" + "".join(f"{KAGGLE}a/{at}.png,a\n" for at in range(1200))
    test = "filepath,label\n../../x,b\nb/1.JPG,b\nb/1.JPG,c\n"
    data = make(val=val, test=test, files=())
    (data / "merged_dataset").mkdir()
    assert problem(data).splitlines() == [
        f"cannot pack {data} (val.csv 1,200 rows, test.csv 2 rows; 2 classes):",
        "  - 1 test.csv: paths that leave the data folder: '../../x'",
        "  - 1 test.csv: files with two labels: 'b/1.JPG' ('b' and 'c')",
        f"  - no train.csv in {data}",
        f"  - 1,201 of 1,201 files are missing in {data}/merged_dataset: 'a/0.png', 'a/1.png', "
        "'a/2.png', and 1,198 more",
    ]


def test_an_unbalanced_quote_in_a_large_file_is_a_problem_not_a_traceback(make: Make) -> None:
    train = TRAIN + 'a/"1.jpg,"a\n' + "a/1.jpg,a\n" * 20_000
    assert "train.csv" in problem(make(train=train, val=VAL))


def test_a_path_with_a_zero_byte_is_a_problem_not_a_traceback(make: Make) -> None:
    assert "train.csv" in problem(make(train=TRAIN + "a\0b/1.jpg,a\n", val=VAL), max_missing=0)


def test_of_two_data_sets_below_a_folder_none_is_taken(make: Make, tmp_path: Path) -> None:
    for name in ("fungi", "herbs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_text(TRAIN)
    assert problem(tmp_path) == (
        f"{tmp_path} holds 2 data sets with CSV files: fungi, herbs; "
        f"name one, such as {tmp_path}/fungi"
    )
    make(train=TRAIN, val=VAL)  # its own come first
    assert read_catalog(tmp_path).root == tmp_path / "merged_dataset"


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (lambda file: file.mkdir(), "is a folder, expected a file"),
        (lambda file: os.mkfifo(file), "is a pipe or a device, expected a file"),
        (
            lambda file: file.symlink_to("gone.csv"),
            "is no regular file: a link to gone.csv, which is not there",
        ),
    ],
    ids=["folder", "pipe", "link"],
)
@pytest.mark.parametrize("folder", [".", "deeper"])
def test_a_table_that_is_no_regular_file_is_named(
    put: Callable[[Path], object], said: str, folder: str, make: Make, tmp_path: Path
) -> None:
    data = make(train=TRAIN, val=VAL)
    (data / "val.csv").unlink()
    put(data / "val.csv")
    if folder != ".":
        (tmp_path / folder).mkdir()
        (data / "train.csv").rename(tmp_path / folder / "train.csv")
        (data / "val.csv").rename(tmp_path / folder / "val.csv")
    assert f"  - {tmp_path / folder}/val.csv {said}" in problem(data)
