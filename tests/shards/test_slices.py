"""Which slices lack shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.format import WORK_NAME
from shards.job import Job
from shards.slices import missing_tasks, note_slices

JOB = Job(class_names=("a",), options={}, source={}, versions={}, shards={"train": 7, "val": 2})
EVERY = [(name, shard) for name, count in JOB.shards.items() for shard in range(count)]


@given(count=st.integers(1, 5), made=st.sets(st.integers(0, 4)))
def test_the_slices_named_are_those_that_were_not_made(
    count: int, made: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("set")
    (directory / WORK_NAME).mkdir()
    note_slices(directory, count)
    missing = [each for at, each in enumerate(EVERY) if at % count not in made]
    named = [f"{part}/{count}" for part in range(count) if part not in made]
    assert missing_tasks(directory, JOB, missing) == "--task " + ", ".join(named)


def test_many_slices_are_cut_short(tmp_path: Path) -> None:
    (tmp_path / WORK_NAME).mkdir()
    note_slices(tmp_path, 9)
    job = replace(JOB, shards={"train": 9})
    named = missing_tasks(tmp_path, job, [("train", shard) for shard in range(1, 9)])
    assert named == "--task 1/9, 2/9, 3/9, 4/9, 5/9, ..."


@pytest.mark.parametrize("content", [None, b"", b"four"])
def test_without_a_note_none_is_named(content: bytes | None, tmp_path: Path) -> None:
    (tmp_path / WORK_NAME).mkdir()
    if content is not None:
        (tmp_path / WORK_NAME / "slices").write_bytes(content)
    assert missing_tasks(tmp_path, JOB, EVERY) == ""
