"""Which samples take part: exact shots and tails, folds that partition, the baseline's ``mini``."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from loaders.plan import Plan
from loaders.subset import Subset, folds, long_tail_sizes, mini_repeats, read_names
from shards.errors import UserError
from shards.reader import ShardSet

NAMES = ("Amanita muscaria", "Boletus edulis", "Cantharellus cibarius", "Daedalea quercina")
SEEDS = st.integers(0, 2**63 - 1)
LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=60)


class FakeSplit(SimpleNamespace):
    """A split without a shard set: labels, repetitions, rows and a length."""

    def __len__(self) -> int:
        return len(self.labels)


def fake_split(labels: list[int], repeats: list[int] | None = None) -> Any:
    counts = np.array(repeats or [1 + at % 3 for at in range(len(labels))], np.int64)
    return FakeSplit(
        labels=np.array(labels, np.int64),
        repeats=counts,
        rows=np.repeat(np.arange(len(labels)), counts).astype(np.int32),
        manifest=SimpleNamespace(class_names=NAMES, num_classes=len(NAMES)),
    )


def chosen(subset: Subset, split: Any) -> set[int]:
    """The ids that take part; their repetitions are untouched."""
    repeats = subset.repeats(split)
    assert repeats.shape == (len(split),)
    if subset.mini is None:
        assert set(repeats[repeats > 0] - split.repeats[repeats > 0]) <= {0}
    return set(np.flatnonzero(repeats).tolist())


@given(labels=LABELS)
def test_without_wishes_everything_takes_part(labels: list[int]) -> None:
    assert chosen(Subset(), fake_split(labels)) == set(range(len(labels)))


class TestClasses:
    @given(
        labels=LABELS,
        names=st.sets(st.sampled_from(NAMES), min_size=1),
        seed=SEEDS,
        sampling=st.sampled_from(["csv", "natural", "balanced", "sqrt"]),
    )
    def test_no_sample_of_a_held_out_class_is_ever_shown(
        self, labels: list[int], names: set[str], seed: int, sampling: Any
    ) -> None:
        split = fake_split(labels)
        plan = Plan(
            repeats=Subset(holdout=tuple(names)).repeats(split),
            labels=split.labels,
            sampling=sampling,
            seed=seed,
            shuffle=True,
            batch_size=4,
        )
        held = {NAMES.index(name) for name in names}
        for epoch in range(5):
            shown = set(split.labels[plan.order(epoch)])
            assert shown == set(labels) - held

    @given(labels=LABELS, names=st.sets(st.sampled_from(NAMES), min_size=1, max_size=3))
    def test_keeping_some_is_holding_out_the_others(
        self, labels: list[int], names: set[str]
    ) -> None:
        split = fake_split(labels)
        others = tuple(set(NAMES) - names)
        kept = chosen(Subset(classes=tuple(names)), split)
        assert kept == chosen(Subset(holdout=others), split)
        assert {split.labels[sample] for sample in kept} <= {NAMES.index(name) for name in names}

    @pytest.mark.parametrize("field", ["classes", "holdout"])
    def test_an_unknown_class_is_refused_with_the_nearest_name(self, field: str) -> None:
        subset = Subset(**{field: ("Boletus edulis", "Amanita muscari")})
        with pytest.raises(
            UserError,
            match=r"^unknown class 'Amanita muscari'; did you mean 'Amanita muscaria'\?$",
        ):
            subset.repeats(fake_split([0, 1]))


class TestFolds:
    @given(labels=LABELS, count=st.integers(2, 7), seed=SEEDS)
    def test_each_sample_is_set_aside_in_exactly_one_fold(
        self, labels: list[int], count: int, seed: int
    ) -> None:
        split = fake_split(labels)
        everything = set(range(len(labels)))
        aside = []
        for index in range(count):
            train = Subset(fold=(index, count), seed=seed)
            val = chosen(replace(train, fold_part="val"), split)
            assert chosen(train, split) == everything - val
            aside += sorted(val)
        assert sorted(aside) == sorted(everything)

    @given(labels=LABELS, count=st.integers(2, 7), seed=SEEDS)
    def test_folds_differ_by_one_sample_at_most_in_all_and_in_every_class(
        self, labels: list[int], count: int, seed: int
    ) -> None:
        fold = folds(np.array(labels), count, seed)
        assert np.ptp(np.bincount(fold, minlength=count)) <= 1
        for label in set(labels):
            assert np.ptp(np.bincount(fold[np.array(labels) == label], minlength=count)) <= 1

    @given(labels=LABELS, seed=SEEDS, name=st.sampled_from(NAMES))
    def test_a_fold_is_the_same_whatever_else_is_left_out(
        self, labels: list[int], seed: int, name: str
    ) -> None:
        split = fake_split(labels)
        fold = Subset(fold=(1, 3), fold_part="val", seed=seed)
        of_class = chosen(Subset(classes=(name,)), split)
        assert chosen(replace(fold, classes=(name,)), split) == chosen(fold, split) & of_class

    def test_another_seed_deals_otherwise(self) -> None:
        dealt = {tuple(folds(np.zeros(40, np.int64), 4, seed)) for seed in range(10)}
        assert len(dealt) == 10


class TestShots:
    @given(labels=LABELS, shots=st.integers(1, 5), seed=SEEDS)
    def test_exactly_so_many_samples_of_each_class_take_part(
        self, labels: list[int], shots: int, seed: int
    ) -> None:
        counts = np.bincount(labels)
        assume(counts[counts > 0].min() >= shots)
        kept = chosen(Subset(shots=shots, seed=seed), fake_split(labels))
        drawn = np.bincount([labels[sample] for sample in kept], minlength=len(counts))
        assert drawn.tolist() == np.where(counts > 0, shots, 0).tolist()

    @given(seed=SEEDS)
    def test_more_shots_contain_fewer(self, seed: int) -> None:
        split = fake_split([0, 1, 2] * 9)
        sets = [chosen(Subset(shots=shots, seed=seed), split) for shots in range(1, 10)]
        assert all(few < more for few, more in pairwise(sets))

    def test_shots_come_from_outside_the_fold(self) -> None:
        split = fake_split([0, 1] * 10)
        fold = Subset(fold=(0, 2))
        kept = chosen(replace(fold, shots=5), split)
        assert len(kept) == 10
        assert kept <= chosen(fold, split)

    def test_a_class_that_is_too_small_is_named(self) -> None:
        split = fake_split([0] * 9 + [1] * 3 + [2] * 2)
        with pytest.raises(
            UserError,
            match=r"^4 shots: 2 of 3 classes are too small, least 'Cantharellus cibarius' with 2 "
            r"samples; choose at most 2, or leave small classes out with --holdout$",
        ):
            Subset(shots=4).repeats(split)
        held = ("Boletus edulis", "Cantharellus cibarius")
        assert len(chosen(Subset(shots=4, holdout=held), split)) == 4


class TestImbalance:
    @given(
        counts=st.lists(st.integers(0, 300), min_size=1, max_size=12),
        factor=st.floats(1, 60),
        seed=SEEDS,
    )
    def test_sizes_fall_exponentially_by_the_factor_and_use_all_there_is(
        self, counts: list[int], factor: float, seed: int
    ) -> None:
        present = np.array([count for count in counts if count])
        assume(len(present) > 1)
        try:
            sizes = long_tail_sizes(np.array(counts), factor, seed)
        except UserError:
            assume(False)
        assert np.all(sizes <= counts)
        assert np.all((sizes > 0) == (np.array(counts) > 0))
        falling = np.sort(sizes[sizes > 0])[::-1]
        profile = falling[0] * factor ** (-np.arange(len(falling)) / (len(falling) - 1))
        assert np.abs(falling - profile).max() <= 0.5 + 1e-6
        larger = (falling[0] + 1) / falling[0] * profile  # no room for the next larger tail
        kept = np.array(counts)[np.argsort(-sizes, kind="stable")][: len(falling)]
        ties = len(set(falling)) < len(falling)
        assert ties or np.any(larger > kept)

    @given(factor=st.integers(1, 50), seed=SEEDS)
    def test_equal_classes_have_the_exact_ratio(self, factor: int, seed: int) -> None:
        sizes = long_tail_sizes(np.full(10, 50 * factor), factor, seed)
        assert (sizes.max(), sizes.min()) == (50 * factor, 50)

    @given(seed=SEEDS)
    def test_the_samples_kept_are_as_many_as_the_sizes_say(self, seed: int) -> None:
        labels = [0] * 20 + [1] * 9 + [2] * 14
        kept = chosen(Subset(imbalance=4, seed=seed), fake_split(labels))
        sizes = long_tail_sizes(np.array([20, 9, 14, 0]), 4, seed)
        assert np.bincount([labels[each] for each in kept], minlength=4).tolist() == sizes.tolist()

    def test_the_seed_orders_the_classes(self) -> None:
        heads = {int(long_tail_sizes(np.full(4, 64), 8, seed).argmax()) for seed in range(40)}
        assert heads == {0, 1, 2, 3}

    def test_a_factor_that_empties_a_class_is_refused(self) -> None:
        with pytest.raises(
            UserError,
            match=r"^imbalance 31 is too large: the largest class can keep 30 samples, and the "
            r"smallest would keep less than one; choose a smaller one$",
        ):
            long_tail_sizes(np.array([30, 30, 30]), 31, 0)

    def test_a_single_class_has_no_tail(self) -> None:
        assert long_tail_sizes(np.array([0, 7]), 100, 0).tolist() == [0, 7]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mini": 0}, "mini must be at least 1, got 0"),
        ({"shots": -1}, "shots must be at least 1, got -1"),
        ({"imbalance": 0.5}, "imbalance must be 1 or more, got 0.5"),
        ({"imbalance": float("nan")}, "imbalance must be 1 or more, got nan"),
        ({"fold": (5, 5)}, "fold 5/5 is not I/N with N of 2 or more and I from 0 to N-1"),
        ({"fold": (0, 1)}, "fold 0/1 is not I/N with N of 2 or more and I from 0 to N-1"),
        ({"fold": (-1, 3)}, "fold -1/3 is not I/N with N of 2 or more and I from 0 to N-1"),
        ({"seed": -1}, r"subset_seed must be from 0 to 2\*\*63 - 1, got -1"),
        ({"mini": 5, "shots": 5}, "mini and shots exclude each other; choose one of them"),
        ({"shots": 5, "imbalance": 5}, "shots and imbalance exclude each other; choose one of "
                                       "them"),
        ({"mini": 1, "shots": 1, "imbalance": 2}, "mini and shots and imbalance exclude each "
                                                  "other; choose one of them"),
        ({"classes": ("a",), "holdout": ("b",)}, "classes and holdout exclude each other; choose "
                                                 "one of them"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Subset(**fields)


def test_a_subset_says_what_it_is() -> None:
    assert str(Subset(holdout=("a", "b"), fold=(0, 5), shots=3)) == (
        "2 classes held out, all but fold 0/5, 3 shots a class"
    )
    assert str(Subset(classes=("a",), fold=(1, 2), fold_part="val", imbalance=10)) == (
        "1 class kept, fold 1/2, imbalance 10"
    )
    assert str(Subset(mini=100)) == "at most 100 rows a class"
    assert str(Subset(seed=4)) == ""


class TestNames:
    def test_names_are_separated_by_commas_and_may_come_from_a_file(self, tmp_path: Path) -> None:
        listed = tmp_path / "some names.txt"
        listed.write_text("Boletus edulis\n\nMycena, the small one\n")
        assert read_names(["Amanita muscaria, Boletus edulis", f"@{listed}", "Tuber"]) == (
            "Amanita muscaria", "Boletus edulis", "Mycena, the small one", "Tuber",
        )  # fmt: skip
        assert read_names([]) == ()

    def test_a_byte_order_mark_is_no_part_of_a_name(self, tmp_path: Path) -> None:
        listed = tmp_path / "names.txt"
        listed.write_text("Boletus edulis\n", encoding="utf-8-sig")
        assert read_names([f"@{listed}"]) == ("Boletus edulis",)

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"^no class names: cannot read .*/none: No such"):
            read_names([f"@{tmp_path / 'none'}"])
        (tmp_path / "latin").write_bytes(b"caf\xe9\n")
        with pytest.raises(UserError, match=r"^cannot read class names from '.*/latin': 'utf-8'"):
            read_names([f"@{tmp_path / 'latin'}"])

    def test_a_list_without_a_name_is_refused_rather_than_taken_for_all_classes(
        self, tmp_path: Path
    ) -> None:
        empty = tmp_path / "empty"
        empty.write_text(" \n\n")
        with pytest.raises(UserError, match=r"^no class names in '.*/empty', expected one a line$"):
            read_names(["Boletus edulis", f"@{empty}"])
        with pytest.raises(UserError, match=r"^no class names in ' ,,', expected A,B or @FILE$"):
            read_names([" ,,"])

    def test_a_device_is_no_list_of_names(self) -> None:
        with pytest.raises(UserError, match="/dev/null is a pipe or a device, expected a file"):
            read_names(["@/dev/null"])


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
            counts = Subset(mini=rows_per_class).repeats(split)
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
        split = fake_split([labels[file] for file in sample_of_file] or [0])
        split.labels = split.labels[: len(sample_of_file)]
        split.rows = np.array([sample_of_file.get(file, -1 - labels[file]) for file in rows])
        table = pd.DataFrame({"file": rows, "label": [labels[file] for file in rows]})
        drawn = pandas_mini(table, "label", rows_per_class)["file"]
        expected = np.zeros(len(split), np.int64)
        for file in drawn:
            if file in sample_of_file:
                expected[sample_of_file[file]] += 1
        assert mini_repeats(split, rows_per_class).tolist() == expected.tolist()

    def test_mini_is_a_part_of_the_csv_epoch(self, tiny_shards: Path) -> None:
        with ShardSet(tiny_shards).split("train") as split:
            counts = Subset(mini=7).repeats(split)
            assert np.all(counts <= split.repeats)
            assert np.bincount(split.labels, counts).tolist() == [7, 7, 7]

    def test_mini_draws_its_rows_before_classes_and_folds_are_left_out(self) -> None:
        split = fake_split([0, 1, 2, 0, 1, 2] * 4)
        drawn = Subset(mini=3).repeats(split)
        part = Subset(fold=(0, 2), holdout=(NAMES[1],))
        both = replace(part, mini=3).repeats(split)
        assert both.tolist() == np.where(part.repeats(split) > 0, drawn, 0).tolist()


def pandas_mini(table: pd.DataFrame, by: str, rows: int) -> pd.DataFrame:
    """The baseline's own lines."""
    return pd.concat(
        group.sample(n=min(len(group), rows), random_state=42) for _, group in table.groupby(by)
    )


class TestCsv:
    def test_csv_shows_each_photograph_as_often_as_the_csv_names_it(
        self, tiny_shards: Path, tiny_dataset: Path
    ) -> None:
        table = pd.read_csv(tiny_dataset / "train.csv")
        with ShardSet(tiny_shards).split("train") as split:
            plan = Plan(
                repeats=Subset().repeats(split),
                labels=split.labels,
                seed=0,
                shuffle=True,
                batch_size=4,
            )
            counts = np.bincount(plan.order(0))
            paths = [split.metadata(sample)["path"] for sample in range(len(split))]
            shown = np.bincount(split.labels[plan.order(0)])
        named = table["image_path"].str.removeprefix("/kaggle/working/merged_dataset/")
        assert dict(zip(paths, counts.tolist(), strict=True)) == named.value_counts().to_dict()
        assert shown.tolist() == [12, 12, 12]  # balanced by repetition


def test_shots_count_what_classes_and_fold_leave() -> None:
    split = fake_split([0] * 12 + [1] * 12)
    subset = Subset(classes=(NAMES[0],), fold=(0, 3), shots=8)
    assert len(chosen(subset, split)) == 8
    with pytest.raises(UserError, match="least 'Amanita muscaria' with 8 samples"):
        replace(subset, shots=9).repeats(split)
