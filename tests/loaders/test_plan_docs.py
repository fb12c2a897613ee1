"""Every number in the tables of ``docs/plan.md``, computed again from the options that it shows."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from loaders.plan import Plan
from loaders.subset import Subset
from train.__main__ import main
from train.config.config import TrainConfig
from train.config.recipes import create_recipe

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "plan.md").read_text(encoding="utf-8")


class Eleven(SimpleNamespace):
    """The photographs of the example."""

    def __len__(self) -> int:
        return 11


LABELS = np.repeat([0, 1, 2], [6, 3, 2])
REPEATS = np.repeat([1, 2, 3], [6, 3, 2])
SPLIT: Any = Eleven(
    labels=LABELS, repeats=REPEATS, manifest=SimpleNamespace(class_names=("A", "B", "C"))
)


def table(heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its two head lines."""
    behind = PAGE.split(f"\n## {heading}\n")[1]
    rows = re.findall(r"^\|(.*)\|$", behind.split("\n## ")[0], re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows[2:]]


def config_of(cell: str) -> TrainConfig:
    """What ``python -m train`` makes of the options in back quotes."""
    params = main.make_context("train", shlex.split(cell.strip("`"))).params
    known = {each.name for each in fields(TrainConfig)} - {"arch", "recipe"}
    given = {name: value for name, value in params.items() if name in known and value is not None}
    config: TrainConfig = replace(create_recipe("baseline"), seed=0, **given)
    return config


def plan_of(config: TrainConfig, subset: Subset, **options: Any) -> Plan:
    return Plan(
        repeats=subset.repeats(SPLIT),
        labels=LABELS,
        sampling=config.sampling,
        epoch_size=config.epoch_size,
        seed=config.seed,
        shuffle=True,
        batch_size=8,
        **options,
    )


def numbers(cells: list[str]) -> list[int]:
    return [int(number) for number in " ".join(cells).split()]


@pytest.mark.parametrize("row", table("Sampling"), ids=lambda row: f"{row[0]} {row[1]}")
def test_the_table_of_samplings_holds(row: list[str]) -> None:
    options, epoch, *uses, images = row
    config = config_of(options)
    order = plan_of(config, config.train_subset).order(int(epoch))
    assert np.bincount(order, minlength=11).tolist() == numbers(uses)
    assert len(order) == int(images)


@pytest.mark.parametrize("row", table("Subsets"), ids=lambda row: row[0])
def test_the_table_of_subsets_holds(row: list[str]) -> None:
    kept = np.flatnonzero(config_of(row[0]).train_subset.repeats(SPLIT))
    assert [" ".join(map(str, kept[LABELS[kept] == label])) for label in range(3)] == row[1:]


def test_shots_with_csv_show_as_many_images_as_the_page_says() -> None:
    subset = config_of("--shots 2").train_subset
    order = plan_of(create_recipe("baseline"), subset).order(0)
    assert np.bincount(LABELS[order]).tolist() == [2, 4, 6]
    assert "an epoch of 2, 4 and 6 images of A, B and C" in PAGE.replace("\n", " ")


def test_the_table_of_ranks_holds() -> None:
    rows = table("Order, ranks, last batch")
    plan = plan_of(config_of("--sampling natural"), Subset(), world_size=4)
    for rank in range(4):
        shares = [batch.ids.tolist() for batch in replace(plan, rank=rank).batches(0)]
        assert shares == [numbers([row[1 + rank]]) for row in rows]


def test_the_page_names_every_sampling_and_subset_option() -> None:
    for option in ("sampling csv", "sampling natural", "sampling balanced", "sampling sqrt",
                   "epoch-size", "classes", "holdout", "fold", "shots", "imbalance", "mini",
                   "subset-seed"):  # fmt: skip
        assert f"--{option}" in PAGE
        assert f"--{option.split(' ')[0]}" in {name for each in main.params for name in each.opts}
