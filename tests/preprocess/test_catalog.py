"""Distinct photographs, their repetition, their stored order, and what their digest covers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.catalog import MISSING, Catalog, FileState, SplitCatalog, build_split, list_states


def make_split(rows: list[int], seed: int | None = 0, files: int = 5) -> SplitCatalog:
    return build_split(
        [f"class/{at}.jpg" for at in range(files)],
        [at % 2 for at in range(files)],
        np.array(rows, np.int32),
        [FileState(100 + at, time=at) for at in range(files)],
        shuffle_seed=seed,
    )


def make_catalog(split: SplitCatalog) -> Catalog:
    return Catalog(root=Path("data"), layout="csv", class_names=("a", "b"), splits={"train": split})


@given(
    rows=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    seed=st.none() | st.integers(0, 2**32),
)
def test_every_row_still_means_its_file_in_the_stored_order(
    rows: list[int], seed: int | None
) -> None:
    split = make_split(rows, seed)
    assert [split.paths[file] for file in split.rows] == [f"class/{at}.jpg" for at in rows]
    assert [int(split.labels[file]) for file in split.rows] == [at % 2 for at in rows]
    assert [int(split.sizes[file]) for file in split.rows] == [100 + at for at in rows]
    assert split.repeats.tolist() == [rows.count(int(path[6])) for path in split.paths]


def test_training_files_are_stored_in_an_order_of_the_seed_alone() -> None:
    rows = list(range(50))
    one, again, other = (make_split(rows, seed, files=50).paths for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert one != sorted(one)
    assert sorted(one) == sorted(other)


def test_the_stored_order_is_the_same_on_every_machine() -> None:
    assert [path[6] for path in make_split([0, 1, 2, 3, 4], seed=0).paths] == list("02143")


def test_evaluation_files_keep_the_order_of_the_csv() -> None:
    assert make_split([4, 1], None).paths == [f"class/{at}.jpg" for at in range(5)]


@pytest.mark.parametrize("column", ["labels", "repeats", "sizes", "rows"])
def test_the_digest_covers_every_column(column: str) -> None:
    split = make_split([0, 1, 2, 3, 4, 4])
    changed = getattr(split, column).copy()
    changed[0] += 1
    other = replace(split, **{column: changed})
    assert make_catalog(split).digest() != make_catalog(other).digest()


def test_the_digest_covers_names_and_paths_but_not_the_place() -> None:
    catalog = make_catalog(make_split([0, 1, 2, 3, 4]))
    digest = catalog.digest()
    assert replace(catalog, class_names=("a", "c")).digest() != digest
    renamed = replace(catalog.splits["train"], paths=["x", *catalog.splits["train"].paths[1:]])
    assert make_catalog(renamed).digest() != digest
    assert replace(catalog, root=Path("elsewhere"), notes=["a note"]).digest() == digest


def test_sizes_are_listed_and_what_is_no_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "Boletus edulis" / "folder.jpg").mkdir(parents=True)
    (tmp_path / "Boletus edulis" / "1.jpg").write_bytes(bytes(7))
    (tmp_path / "Boletus edulis" / "empty.jpg").touch()
    (tmp_path / "Boletus edulis" / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "Boletus edulis" / "linked.jpg").symlink_to(tmp_path / "Boletus edulis" / "1.jpg")
    (tmp_path / "top.jpg").write_bytes(bytes(3))
    wanted = ["1.jpg", "empty.jpg", "linked.jpg", "broken.jpg", "folder.jpg", "2.jpg"]
    paths = [*(f"Boletus edulis/{name}" for name in wanted), "top.jpg", "No such/1.jpg"]
    sizes = [state.size for state in list_states(tmp_path, paths)]
    assert sizes == [7, 0, 7, MISSING, MISSING, MISSING, 3, MISSING]


def test_names_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes(bytes(5))
    assert list_states(tmp_path, [name])[0].size == 5
