"""The order of epochs: one for every number of ranks, the same after a resume, exactly counted."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.draws import Ids, Purpose, class_ranks, random_bits, random_order
from loaders.plan import Plan, PlannedBatch
from shards.errors import UserError

SEEDS = st.integers(0, 2**63 - 1)
SAMPLINGS = ["csv", "natural", "balanced", "sqrt"]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Of up to 40 samples in four classes, some left out; any sampling and size."""
    samples = draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=40).filter(
            lambda pairs: any(repeats for _, repeats in pairs)
        )
    )
    return Plan(
        repeats=np.array([repeats for _, repeats in samples]),
        labels=np.array([label for label, _ in samples]),
        sampling=draw(st.sampled_from(SAMPLINGS)),
        # 30 is enough for sqrt sampling of four classes that differ 40 fold.
        epoch_size=draw(st.integers(30, 200)),
        seed=draw(SEEDS),
        shuffle=draw(st.booleans()),
        batch_size=draw(st.integers(1, 16)),
        drop_last=draw(st.booleans()),
    )


PLANS = plans()


def make_plan(**options: Any) -> Plan:
    defaults = {"repeats": np.ones(100, np.int64), "labels": np.zeros(100, np.int64)}
    return Plan(**{**defaults, "seed": 3, "shuffle": True, "batch_size": 8} | options)


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


class TestRanks:
    @given(plan=PLANS, epoch=st.integers(0, 100), world_size=st.sampled_from([1, 2, 3, 5, 8]))
    def test_the_ranks_batches_interleave_to_the_global_order(
        self, plan: Plan, epoch: int, world_size: int
    ) -> None:
        steps = zip(*shares(plan, epoch, world_size), strict=True)
        joined = [sample for step in steps for share in step for sample in share.ids.tolist()]
        assert joined == plan.order(epoch).tolist()[: len(plan)]
        assert len(joined) == len(plan)

    @given(plan=PLANS, world_size=st.integers(1, 8))
    def test_positions_number_the_epoch_without_gap_or_overlap(
        self, plan: Plan, world_size: int
    ) -> None:
        positions = [
            batch.first_position + at
            for batch in chain(*shares(plan, 0, world_size))
            for at in range(len(batch.ids))
        ]
        assert sorted(positions) == list(range(len(plan)))

    @given(plan=PLANS, world_size=st.integers(1, 8))
    def test_shares_of_a_batch_differ_by_one_image_at_most(
        self, plan: Plan, world_size: int
    ) -> None:
        for step in zip(*shares(plan, 0, world_size), strict=True):
            sizes = [len(share.ids) for share in step]
            assert max(sizes) - min(sizes) <= 1

    @given(plan=PLANS)
    def test_all_batches_are_full_but_the_last(self, plan: Plan) -> None:
        sizes = [len(batch.ids) for batch in plan.batches(0)]
        assert len(sizes) == plan.steps_per_epoch
        assert all(size == plan.batch_size for size in sizes[:-1])
        if sizes:
            assert 0 < sizes[-1] <= plan.batch_size
            assert sizes[-1] == plan.batch_size or not plan.drop_last

    def test_eleven_samples_on_two_ranks_are_as_the_docstring_draws_them(self) -> None:
        plan = make_plan(
            repeats=np.ones(11, np.int64), labels=np.zeros(11), shuffle=False, batch_size=4
        )
        assert [sequence(batches) for batches in shares(plan, 0, 2)] == [
            [[0, 1], [4, 5], [8]],
            [[2, 3], [6, 7], [9, 10]],
        ]


class TestResume:
    @given(
        plan=PLANS, epoch=st.integers(0, 9), step=st.integers(0, 70), world_size=st.integers(1, 3)
    )
    def test_resuming_at_a_step_gives_what_an_unbroken_epoch_would_have(
        self, plan: Plan, epoch: int, step: int, world_size: int
    ) -> None:
        unbroken = shares(plan, epoch, world_size)
        resumed = shares(plan, epoch, world_size, first_step=step)
        for whole, rest in zip(unbroken, resumed, strict=True):
            assert sequence(rest) == sequence(whole)[step:]
            assert [batch.step for batch in rest] == [batch.step for batch in whole[step:]]
            assert [b.first_position for b in rest] == [b.first_position for b in whole[step:]]

    @given(plan=PLANS, epoch=st.integers(0, 9))
    def test_an_epoch_is_the_same_whatever_was_asked_for_before(
        self, plan: Plan, epoch: int
    ) -> None:
        fresh = replace(plan).order(epoch).tolist()
        for earlier in range(epoch):
            plan.order(earlier)
        assert plan.order(epoch).tolist() == fresh


class TestShuffling:
    def test_epochs_and_seeds_have_orders_of_their_own(self) -> None:
        orders = [make_plan(seed=seed).order(epoch).tolist() for seed in (3, 4) for epoch in (0, 1)]
        assert len({tuple(order) for order in orders}) == 4
        assert make_plan().order(1).tolist() == orders[1]

    def test_without_shuffling_every_epoch_is_in_stored_order(self) -> None:
        plan = make_plan(shuffle=False)
        assert plan.order(0).tolist() == plan.order(5).tolist() == list(range(100))

    def test_the_order_is_the_same_on_every_machine(self) -> None:
        plan = make_plan(repeats=np.ones(8, np.int64), labels=np.zeros(8), seed=12345)
        assert plan.order(0).tolist() == [7, 3, 4, 0, 1, 2, 5, 6]

    def test_shuffling_is_fair(self) -> None:
        """Each of 8 places sees each of 8 ids about equally often (chi-square, 4000 epochs)."""
        plan = make_plan(repeats=np.ones(8, np.int64), labels=np.zeros(8))
        counts = np.zeros((8, 8))
        for epoch in range(4000):
            counts[np.arange(8), plan.order(epoch)] += 1
        assert ((counts - 500) ** 2 / 500).sum() < 85  # 99.9 % point of 49 degrees of freedom

    @given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=50), seed=SEEDS)
    def test_ranks_number_each_class_from_0_in_the_order_of_the_bits(
        self, labels: list[int], seed: int
    ) -> None:
        bits = random_bits(len(labels), seed, Purpose.SUBSET)
        ranks = class_ranks(np.array(labels), bits)
        for label in set(labels):
            of_class = np.flatnonzero(np.array(labels) == label)
            assert ranks[of_class[np.argsort(bits[of_class])]].tolist() == [*range(len(of_class))]

    @given(count=st.integers(0, 300), seed=SEEDS, number=st.integers(0, 2**32 - 1))
    def test_an_order_is_that_of_the_bits(self, count: int, seed: int, number: int) -> None:
        bits = random_bits(count, seed, Purpose.SHUFFLE, number)
        order = random_order(count, seed, Purpose.SHUFFLE, number)
        assert order.tolist() == np.argsort(bits, kind="stable").tolist()

    def test_purposes_draw_apart_from_each_other(self) -> None:
        orders = {tuple(random_order(20, 1, purpose, 0)) for purpose in Purpose}
        assert len(orders) == len(Purpose)


class TestHash:
    @pytest.mark.parametrize(
        "change",
        [
            {"seed": 4},
            {"batch_size": 9},
            {"drop_last": True},
            {"shuffle": False},
            {"sampling": "natural"},
            {"sampling": "balanced"},
            {"sampling": "sqrt"},
            {"epoch_size": 30},
            {"repeats": np.array([2] * 39 + [1, 0])},
            {"repeats": np.array([2] * 40 + [1])},
        ],
        ids=str,
    )
    def test_the_order_hash_tells_other_orders_apart(self, change: dict[str, Any]) -> None:
        defaults = {"repeats": np.array([2] * 40 + [0]), "labels": np.arange(41) // 30}
        assert make_plan(**defaults | change).order_hash() != make_plan(**defaults).order_hash()

    def test_the_order_hash_sees_what_only_later_epochs_show(self) -> None:
        short = {"shuffle": False, "epoch_size": 10}
        plan, other = make_plan(**short), make_plan(**short, repeats=np.ones(99, np.int64))
        assert plan.order(0).tolist() == other.order(0).tolist()
        assert plan.order_hash() != other.order_hash()

    def test_the_order_hash_sees_who_shares_a_quota(self) -> None:
        # Every sample once in epoch 0 in both; with an uneven quota later epochs would differ.
        labels = np.array([0, 0, 1, 1])
        hashes = {
            make_plan(
                repeats=np.ones(4, np.int64), labels=each, sampling="balanced", batch_size=2
            ).order_hash()
            for each in (labels, labels[[0, 2, 1, 3]])
        }
        assert len(hashes) == 2

    @given(plan=PLANS)
    def test_the_order_hash_is_the_same_on_every_rank_and_run(self, plan: Plan) -> None:
        hashes = {replace(plan, rank=rank, world_size=8).order_hash() for rank in range(8)}
        assert hashes == {plan.order_hash()}
        assert len(plan.order_hash()) == 16

    def test_a_size_that_is_given_and_one_that_follows_hash_alike(self) -> None:
        for sampling in SAMPLINGS:
            plan = make_plan(sampling=sampling)
            assert plan.order_hash() == replace(plan, epoch_size=100).order_hash()


@given(plan=PLANS, epoch=st.integers(0, 3))
def test_the_counts_of_classes_are_those_of_a_pass_or_of_each_epoch_with_quotas(
    plan: Plan, epoch: int
) -> None:
    if plan.sampling in ("csv", "natural"):
        plan = replace(plan, epoch_size=None)
    shown = np.bincount(plan.labels[plan.order(epoch)], minlength=6)
    assert plan.class_counts(6).tolist() == shown.tolist()


class TestPasses:
    """``csv`` and ``natural``: epochs are windows of an endless row of whole shuffled passes."""

    @given(plan=PLANS.filter(lambda plan: plan.sampling in ("csv", "natural")))
    def test_windows_show_everything_once_before_anything_is_shown_again(self, plan: Plan) -> None:
        one_pass = plan.repeats if plan.sampling == "csv" else np.sign(plan.repeats)
        length = int(one_pass.sum())
        epochs = -(-3 * length // plan.images_per_epoch)
        shown = np.concatenate([plan.order(epoch) for epoch in range(epochs)])
        for first in range(0, len(shown) - length + 1, length):
            counts = np.bincount(shown[first : first + length], minlength=len(one_pass))
            assert counts.tolist() == one_pass.tolist()
        rest = np.bincount(shown[len(shown) // length * length :], minlength=len(one_pass))
        assert np.all(rest <= one_pass)

    @given(plan=PLANS.filter(lambda plan: plan.sampling in ("csv", "natural")))
    def test_windows_of_any_size_cut_the_same_row(self, plan: Plan) -> None:
        long = [plan.order(epoch) for epoch in range(2)]
        short = [replace(plan, epoch_size=7).order(epoch) for epoch in range(8)]
        joined = np.concatenate(long)[:56]
        assert np.concatenate(short)[: len(joined)].tolist() == joined.tolist()

    def test_without_a_size_an_epoch_is_a_pass(self) -> None:
        plan = make_plan(repeats=np.array([3, 0, 1]), labels=np.array([0, 0, 1]), batch_size=2)
        assert sorted(plan.order(5)) == [0, 0, 0, 2]
        assert sorted(replace(plan, sampling="natural").order(5)) == [0, 2]

    def test_an_epoch_far_out_costs_no_more_than_the_first(self) -> None:
        plan = make_plan(epoch_size=150)
        assert len(plan.order(10**6)) == 150


class TestQuotas:
    """``balanced`` and ``sqrt``: each epoch holds a fixed number of images of each class."""

    @given(
        plan=PLANS.filter(lambda plan: plan.sampling in ("balanced", "sqrt")),
        epoch=st.integers(0, 1000),
    )
    def test_class_totals_are_the_shares_rounded_and_sum_to_the_epoch(
        self, plan: Plan, epoch: int
    ) -> None:
        order = plan.order(epoch)
        natural = np.bincount(plan.labels[plan.repeats > 0], minlength=4)
        weights = np.sqrt(natural) if plan.sampling == "sqrt" else np.sign(natural)
        totals = np.bincount(plan.labels[order], minlength=4)
        assert len(order) == plan.images_per_epoch == totals.sum()
        assert np.all(np.abs(totals - len(order) * weights / weights.sum()) < 1)
        assert np.all((totals > 0) == (natural > 0))
        if plan.sampling == "balanced":
            assert np.ptp(totals[natural > 0]) <= 1

    @given(
        plan=PLANS.filter(lambda plan: plan.sampling in ("balanced", "sqrt")),
        epoch=st.integers(0, 1000),
    )
    def test_uses_of_the_samples_of_a_class_differ_by_one_at_most(
        self, plan: Plan, epoch: int
    ) -> None:
        uses = np.bincount(plan.order(epoch), minlength=len(plan.repeats))
        assert not uses[plan.repeats == 0].any()
        for label in np.unique(plan.labels[plan.repeats > 0]):
            assert np.ptp(uses[(plan.labels == label) & (plan.repeats > 0)]) <= 1

    def test_each_epoch_draws_anew_who_is_used_once_more(self) -> None:
        plan = make_plan(sampling="balanced", epoch_size=130)
        extra = {frozenset(np.flatnonzero(np.bincount(plan.order(e)) == 2)) for e in range(20)}
        assert len(extra) == 20
        assert {len(each) for each in extra} == {30}

    def test_everyone_is_used_once_more_equally_often(self) -> None:
        """Chi-square over 4000 epochs, in which 3 of 10 samples have an extra use."""
        plan = make_plan(repeats=np.ones(10, np.int64), labels=np.zeros(10, np.int64),
                         sampling="balanced", epoch_size=13, batch_size=1)  # fmt: skip
        counts = sum(np.bincount(plan.order(epoch)) - 1 for epoch in range(4000))
        # 3 of 10 without replacement: variance 4000 * 0.3 * 0.7, with 9 degrees of freedom.
        assert ((counts - 1200) ** 2 / (1200 * 0.7)).sum() * 9 / 10 < 27.9  # 99.9 % point

    def test_the_default_size_is_the_number_of_samples(self) -> None:
        for sampling in ("balanced", "sqrt"):
            assert len(make_plan(sampling=sampling).order(0)) == 100

    @pytest.mark.parametrize(
        ("sampling", "size", "message"),
        [
            ("balanced", 2, r"epoch size 2 is too small for balanced sampling: 1 of 3 classes "
                            r"would have no image; choose 3 or more"),
            ("sqrt", 6, r"epoch size 6 is too small for sqrt sampling: 1 of 3 classes would have "
                        r"no image; choose 20 or more"),
        ],
    )  # fmt: skip
    def test_an_epoch_without_room_for_every_class_is_refused(
        self, sampling: str, size: int, message: str
    ) -> None:
        labels = np.repeat([0, 2, 3], [100, 81, 1])
        ones = np.ones(182, np.int64)
        with pytest.raises(UserError, match=f"^{message}$"):
            make_plan(repeats=ones, labels=labels, sampling=sampling, epoch_size=size)
        enough = int(message.split(" ")[-3])
        plan = make_plan(repeats=ones, labels=labels, sampling=sampling, epoch_size=enough)
        assert set(labels[plan.order(0)]) == {0, 2, 3}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_plan_without_any_sample_is_empty(sampling: str) -> None:
    plan = make_plan(repeats=np.zeros(3, np.int64), labels=np.arange(3), sampling=sampling,
                     epoch_size=10)  # fmt: skip
    assert (len(plan), plan.steps_per_epoch, list(plan.batches(0))) == (0, 0, [])
    assert plan.order(0).tolist() == []


def published_size() -> tuple[Ids, Ids]:
    """Repetitions and labels as large as the published train split: 72,870 files, 689,520 rows."""
    files = np.full(169, 408)
    files[0], files[1] = 4080, 72_870 - 4080 - 167 * 408
    labels = random_order(72_870, 0, Purpose.SHUFFLE)
    labels = np.repeat(np.arange(169), files)[labels]
    extra = 4080 % files[labels]  # samples of a class that have one row more than the others
    ranks = class_ranks(labels, random_bits(len(labels), 0, Purpose.SUBSET))
    return 4080 // files[labels] + (ranks < extra), labels


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_epoch_of_the_published_size_needs_little_memory(sampling: str) -> None:
    repeats, labels = published_size()
    assert (len(repeats), repeats.sum()) == (72_870, 689_520)
    plan = make_plan(repeats=repeats, labels=labels, sampling=sampling, epoch_size=689_520)
    tracemalloc.start()
    order = plan.order(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(order) == 689_520
    assert peak < 6 * order.nbytes  # 33 MB


@pytest.mark.speed
def test_twenty_epochs_of_the_published_size_are_planned_in_three_seconds() -> None:
    repeats, labels = published_size()
    plan = make_plan(repeats=repeats, labels=labels)
    start = time.perf_counter()
    images = sum(len(plan.order(epoch)) for epoch in range(20))
    assert images == 13_790_400
    assert time.perf_counter() - start < 3
