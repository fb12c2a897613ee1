from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from preprocess import demo_data
from preprocess.demo_data import SPECIES, DemoSummary, draw_demo_data, num_demo_photos

SPLITS = ("train", "val", "test")


def draw_tiny(out: Path, seed: int = 0) -> DemoSummary:
    return draw_demo_data(out, seed=seed, train_files=4, eval_files=2, size=96)


def read_rows(data: Path, split: str) -> list[tuple[Path, str]]:
    with (data / f"{split}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        (data / Path(row["image_path"]).relative_to("/kaggle/working"), row["label"])
        for row in rows
    ]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    draw_tiny(out)
    return out


def test_same_arguments_give_the_same_bytes(data: Path, tmp_path: Path) -> None:
    draw_tiny(tmp_path)
    assert contents(tmp_path) == contents(data)


def test_many_processes_give_the_same_bytes_as_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_data, "PHOTOS_PER_WORKER", 30)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    draw_tiny(tmp_path)
    assert contents(tmp_path) == contents(data)


def test_another_seed_draws_other_photos(data: Path, tmp_path: Path) -> None:
    draw_demo_data(tmp_path, seed=1, train_files=1, eval_files=1, size=96)
    ours = contents(data)
    other = {name: content for name, content in contents(tmp_path).items() if "IMG" in name}
    assert len(other) == num_demo_photos(1, 1)
    assert not [name for name, content in other.items() if ours[name] == content]


def test_train_rows_are_balanced_by_repeating_a_long_tail_of_files(data: Path) -> None:
    rows = read_rows(data, "train")
    files = Counter(label for _, label in set(rows))
    assert set(Counter(label for _, label in rows).values()) == {max(files.values())} == {4}
    assert min(files.values()) == 1
    repeats = Counter(rows)
    for label in files:
        of_class = [count for (_, name), count in repeats.items() if name == label]
        assert max(of_class) - min(of_class) <= 1


def test_val_and_test_hold_each_file_once_and_as_many_of_each_class(data: Path) -> None:
    for split in ("val", "test"):
        rows = read_rows(data, split)
        assert len(set(rows)) == len(rows)
        assert set(Counter(label for _, label in rows).values()) == {2}


def test_splits_share_no_file_and_leave_none_out(data: Path) -> None:
    splits = [{path for path, _ in read_rows(data, split)} for split in SPLITS]
    assert sum(map(len, splits)) == len(set.union(*splits)) == num_demo_photos(4, 2)
    assert set.union(*splits) == set(data.glob("merged_dataset/*/*"))


def test_no_two_photos_are_equal(data: Path) -> None:
    photos = [content for name, content in contents(data).items() if "IMG" in name]
    assert len(set(photos)) == len(photos)


def test_folders_are_two_word_labels_and_some_file_names_hold_spaces(data: Path) -> None:
    rows = [row for split in SPLITS for row in read_rows(data, split)]
    assert {label for _, label in rows} == {species.name for species in SPECIES}
    assert all(path.parent.name == label and len(label.split()) == 2 for path, label in rows)
    assert any(" " in path.name for path, _ in rows)


def test_species_are_of_fewer_genera_than_there_are_species() -> None:
    names = [species.name for species in SPECIES]
    assert len(set(names)) == len(names) >= 12
    assert len({name.split()[0] for name in names}) < len(names)


def test_every_file_decodes_and_has_the_format_of_its_extension(data: Path) -> None:
    magic = {".jpg": b"\xff\xd8\xff", ".jpeg": b"\xff\xd8\xff", ".png": b"\x89PNG"}
    suffixes: Counter[str] = Counter()
    for path in data.glob("merged_dataset/*/*"):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert image is not None
        assert image.ndim == 3
        assert min(image.shape[:2]) >= 70
        assert path.read_bytes().startswith(magic[path.suffix.lower()])
        suffixes[path.suffix] += 1
    assert set(suffixes) == {".jpg", ".jpeg", ".png", ".JPG"}
    assert suffixes[".JPG"] == 1


def test_a_rerun_after_an_interruption_completes_the_same_bytes(data: Path, tmp_path: Path) -> None:
    def stop_after_ten() -> Callable[[int], None]:
        seen: list[int] = []

        def progress(photos: int) -> None:
            seen.append(photos)
            if len(seen) == 10:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        draw_demo_data(tmp_path, train_files=4, eval_files=2, size=96, progress=stop_after_ten())
    assert not list(tmp_path.glob("*.csv"))
    assert draw_tiny(tmp_path).drawn == num_demo_photos(4, 2) - 10
    assert contents(tmp_path) == contents(data)


def test_a_rerun_of_a_complete_set_draws_nothing_and_reports_the_same(data: Path) -> None:
    before = contents(data)
    summary = draw_tiny(data)
    assert summary.drawn == 0
    assert summary.train_files + summary.val_files + summary.test_files == num_demo_photos(4, 2)
    assert str(summary).startswith(f"12 species, {summary.train_files} training photos in 48 rows")
    assert contents(data) == before


def test_progress_counts_every_photo(tmp_path: Path) -> None:
    seen: list[int] = []
    draw_demo_data(tmp_path, train_files=1, eval_files=1, size=32, progress=seen.append)
    assert seen == [1] * num_demo_photos(1, 1)


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match=r"'thesis\.tex'.*choose a new or empty folder"):
        draw_tiny(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"precious"}


def test_demo_data_of_other_arguments_is_refused(data: Path) -> None:
    with pytest.raises(FileExistsError, match=r'"seed": 0.*not .*"seed": 1.*delete this one'):
        draw_tiny(data, seed=1)


@pytest.mark.parametrize(
    ("name", "value"), [("seed", -1), ("train_files", 0), ("eval_files", 0), ("size", 31)]
)
def test_too_small_an_argument_is_named(tmp_path: Path, name: str, value: int) -> None:
    arguments: dict[str, Any] = {"seed": 0, "train_files": 4, "eval_files": 2, "size": 96} | {
        name: value
    }
    with pytest.raises(ValueError, match=f"{name} must be at least {value + 1}, got {value}"):
        draw_demo_data(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()
