"""The plan: exact counts, one global order whatever the ranks, and the baseline's own ``mini``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.plan import Plan, PlannedBatch, epoch_ids, mini_repeats
from shards.reader import ShardSet

Ids = npt.NDArray[np.int64]

PLANS = st.builds(
    Plan,
    ids=st.integers(1, 60).map(lambda count: np.arange(count) % 23),
    seed=st.integers(0, 2**32),
    shuffle=st.booleans(),
    batch_size=st.integers(1, 16),
    drop_last=st.booleans(),
)


def shares(
    plan: Plan, epoch: int, world_size: int, first_step: int = 0
) -> list[list[PlannedBatch]]:
    """The batches of every rank."""
    return [
        list(replace(plan, rank=rank, world_size=world_size).batches(epoch, first_step))
        for rank in range(world_size)
    ]


def sequence(batches: list[PlannedBatch]) -> list[list[int]]:
    return [batch.ids.tolist() for batch in batches]


@given(plan=PLANS, epoch=st.integers(0, 100), world_size=st.integers(1, 5))
def test_the_ranks_batches_interleave_to_the_global_order(
    plan: Plan, epoch: int, world_size: int
) -> None:
    ranks = shares(plan, epoch, world_size)
    joined = [
        sample
        for step in zip(*ranks, strict=True)
        for share in step
        for sample in share.ids.tolist()
    ]
    assert joined == plan.order(epoch).tolist()[: len(plan)]
    assert len(joined) == len(plan)


@given(plan=PLANS, world_size=st.integers(1, 5))
def test_positions_number_the_epoch_without_gap_or_overlap(plan: Plan, world_size: int) -> None:
    positions = [
        batch.first_position + at
        for batches in shares(plan, 0, world_size)
        for batch in batches
        for at in range(len(batch.ids))
    ]
    assert sorted(positions) == list(range(len(plan)))


@given(plan=PLANS, world_size=st.integers(1, 5))
def test_shares_of_a_batch_differ_by_one_image_at_most(plan: Plan, world_size: int) -> None:
    for step in zip(*shares(plan, 0, world_size), strict=True):
        sizes = [len(share.ids) for share in step]
        assert max(sizes) - min(sizes) <= 1


@given(plan=PLANS, epoch=st.integers(0, 100))
def test_an_epoch_shows_each_id_as_often_as_the_plan_holds_it(plan: Plan, epoch: int) -> None:
    assert sorted(plan.order(epoch)) == sorted(plan.ids)


@given(plan=PLANS, epoch=st.integers(0, 9), step=st.integers(0, 70), world_size=st.integers(1, 3))
def test_resuming_at_a_step_gives_what_an_unbroken_epoch_would_have(
    plan: Plan, epoch: int, step: int, world_size: int
) -> None:
    unbroken = shares(plan, epoch, world_size)
    resumed = shares(plan, epoch, world_size, first_step=step)
    for whole, rest in zip(unbroken, resumed, strict=True):
        assert sequence(rest) == sequence(whole)[step:]
        assert [batch.step for batch in rest] == [batch.step for batch in whole[step:]]
        assert [b.first_position for b in rest] == [b.first_position for b in whole[step:]]


@given(plan=PLANS)
def test_all_batches_are_full_but_the_last(plan: Plan) -> None:
    sizes = [len(batch.ids) for batch in plan.batches(0)]
    assert len(sizes) == plan.steps_per_epoch
    assert all(size == plan.batch_size for size in sizes[:-1])
    if sizes:
        assert 0 < sizes[-1] <= plan.batch_size
        assert sizes[-1] == plan.batch_size or not plan.drop_last


def test_eleven_samples_on_two_ranks_are_as_the_docstring_draws_them() -> None:
    plan = Plan(ids=np.arange(11), seed=0, shuffle=False, batch_size=4)
    assert [sequence(batches) for batches in shares(plan, 0, 2)] == [
        [[0, 1], [4, 5], [8]],
        [[2, 3], [6, 7], [9, 10]],
    ]


def make_plan(**options: Any) -> Plan:
    defaults: dict[str, Any] = {"ids": np.arange(100), "seed": 3, "shuffle": True, "batch_size": 8}
    return Plan(**defaults | options)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [make_plan(seed=seed).order(epoch).tolist() for seed in (3, 4) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert make_plan().order(1).tolist() == orders[1]


def test_without_shuffling_every_epoch_is_in_stored_order() -> None:
    plan = make_plan(shuffle=False)
    assert plan.order(0).tolist() == plan.order(5).tolist() == list(range(100))


def test_the_order_is_the_same_on_every_machine() -> None:
    assert make_plan(ids=np.arange(8), seed=12345).order(0).tolist() == [7, 3, 4, 0, 1, 2, 5, 6]


def test_shuffling_is_fair() -> None:
    """Each of 8 places sees each of 8 ids about equally often (chi-square over 4000 epochs)."""
    plan = make_plan(ids=np.arange(8))
    counts = np.zeros((8, 8))
    for epoch in range(4000):
        counts[np.arange(8), plan.order(epoch)] += 1
    assert ((counts - 500) ** 2 / 500).sum() < 85  # 99.9 % point of 49 degrees of freedom


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"batch_size": 9},
        {"drop_last": True},
        {"shuffle": False},
        {"ids": np.arange(99)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_order_hash_tells_other_orders_apart(change: dict[str, Any]) -> None:
    assert make_plan(**change).order_hash() != make_plan().order_hash()


def test_the_order_hash_is_the_same_on_every_rank_and_run() -> None:
    hashes = {make_plan(rank=rank, world_size=4).order_hash() for rank in range(4)}
    assert hashes == {make_plan().order_hash()}
    assert len(make_plan().order_hash()) == 16


class TestSampling:
    def test_csv_shows_each_photograph_as_often_as_the_csv_names_it(
        self, tiny_shards: Path, tiny_dataset: Path
    ) -> None:
        table = pd.read_csv(tiny_dataset / "train.csv")
        with ShardSet(tiny_shards).split("train") as split:
            counts = np.bincount(epoch_ids(split, "csv"))
            paths = [split.metadata(sample)["path"] for sample in range(len(split))]
            shown = np.bincount(split.labels[epoch_ids(split, "csv")])
        named = table["image_path"].str.removeprefix("/kaggle/working/merged_dataset/")
        assert dict(zip(paths, counts.tolist(), strict=True)) == named.value_counts().to_dict()
        assert shown.tolist() == [12, 12, 12]  # balanced by repetition

    def test_natural_shows_each_photograph_once(self, tiny_shards: Path) -> None:
        with ShardSet(tiny_shards).split("train") as split:
            assert epoch_ids(split, "natural").tolist() == list(range(24))

    def test_natural_with_mini_shows_each_drawn_photograph_once(self, tiny_shards: Path) -> None:
        with ShardSet(tiny_shards).split("train") as split:
            drawn = mini_repeats(split, 5)
            assert epoch_ids(split, "natural", mini=5).tolist() == np.flatnonzero(drawn).tolist()


class TestMini:
    """``DataFrame.sample(n=min(len, N), random_state=42)`` of each class, over the CSV's rows."""

    @pytest.mark.parametrize("rows_per_class", [1, 5, 11, 12, 100])
    @pytest.mark.parametrize("kind", ["tiny", "gappy"])
    def test_mini_draws_the_rows_that_pandas_draws_from_the_csv(
        self, kind: str, rows_per_class: int, request: pytest.FixtureRequest
    ) -> None:
        table = pd.read_csv(request.getfixturevalue(f"{kind}_dataset") / "train.csv")
        drawn = pandas_mini(table, "label", rows_per_class)
        named = drawn["image_path"].str.removeprefix("/kaggle/working/merged_dataset/")
        expected = named.value_counts().to_dict()
        with ShardSet(request.getfixturevalue(f"{kind}_shards")).split("train") as split:
            counts = np.bincount(epoch_ids(split, "csv", rows_per_class), minlength=len(split))
            for sample in range(len(split)):
                path = split.metadata(sample)["path"]
                assert counts[sample] == expected.pop(path, 0)
        rejected = {"Amanita muscaria/train 07.jpg", "Boletus edulis/train 05.jpg"}
        assert set(expected) <= (rejected if kind == "gappy" else set())

    @given(
        files=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=30),
        rows=st.lists(st.integers(0, 29), min_size=1, max_size=80),
        rows_per_class=st.integers(1, 12),
    )
    def test_mini_equals_pandas_for_any_rows_labels_and_rejections(
        self, files: list[tuple[int, bool]], rows: list[int], rows_per_class: int
    ) -> None:
        labels = [label for label, _ in files]
        sample_of_file = {}
        for file, (_, rejected) in enumerate(files):
            if not rejected:
                sample_of_file[file] = len(sample_of_file)
        rows = [row % len(files) for row in rows]
        split: Any = SizedNamespace(
            rows=np.array([sample_of_file.get(file, -1 - labels[file]) for file in rows], np.int32),
            labels=np.array([labels[file] for file in sample_of_file], np.int64),
            manifest=SimpleNamespace(num_classes=4),
        )
        table = pd.DataFrame({"file": rows, "label": [labels[file] for file in rows]})
        drawn = pandas_mini(table, "label", rows_per_class)["file"]
        expected = np.zeros(len(split), np.int64)
        for file in drawn:
            if file in sample_of_file:
                expected[sample_of_file[file]] += 1
        assert mini_repeats(split, rows_per_class).tolist() == expected.tolist()

    def test_mini_is_a_part_of_the_csv_epoch(self, tiny_shards: Path) -> None:
        with ShardSet(tiny_shards).split("train") as split:
            assert np.all(mini_repeats(split, 7) <= split.repeats)
            assert np.bincount(split.labels[epoch_ids(split, "csv", 7)]).tolist() == [7, 7, 7]


class SizedNamespace(SimpleNamespace):
    """A split without a shard set: labels, rows and a length."""

    def __len__(self) -> int:
        return len(self.labels)


def pandas_mini(table: pd.DataFrame, by: str, rows: int) -> pd.DataFrame:
    """The baseline's own lines."""
    return pd.concat(
        group.sample(n=min(len(group), rows), random_state=42) for _, group in table.groupby(by)
    )
