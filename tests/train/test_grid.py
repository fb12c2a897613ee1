"""Lists of values, and the combinations of them."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import UserError
from train.config.grid import Point, grid, read_values, sizes
from train.config.recipes import create_recipe
from train.config.settings import Layer


@pytest.mark.parametrize(
    ("name", "texts", "values"),
    [
        ("arch", ["resnet18,resnet50"], ("resnet18", "resnet50")),
        ("arch", ["resnet18", " resnet50 "], ("resnet18", "resnet50")),
        ("lr", ["1e-3,1e-2"], (1e-3, 1e-2)),
        ("drop_last", ["true,false"], (True, False)),
        ("mini", ["none,3"], (None, 3)),
        ("fold", ["0/5,1/5"], ((0, 5), (1, 5))),
        ("mean", ["0.1,0.2,0.3;0,0,0"], ((0.1, 0.2, 0.3), (0.0, 0.0, 0.0))),
        ("classes", ["a,b;c"], (("a", "b"), ("c",))),
        ("hue", ["0,0.1"], (0.0, 0.1)),  # a field of the augmentation is one like others
    ],
)
def test_a_list_is_read_as_its_field_is(name: str, texts: list[str], values: Any) -> None:
    assert read_values(name, texts) == values


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lr", "1e-3,,1e-2", "--lr has an empty value in '1e-3,,1e-2'"),
        ("lr", "", "--lr has an empty value in ''"),
        ("arch", "resnet18,", "--arch has an empty value in 'resnet18,'"),
        ("epochs", "1,two", "--epochs: epochs must be a whole number, got 'two'"),
        ("epochs", "1,0", "--epochs: epochs must be from 1 to 100000, got 0"),
        ("lr", "1e-3,0.001", "--lr has 0.001 twice; drop one of them"),
        ("batch_size", "8,8", "--batch-size has 8 twice; drop one of them"),
        ("precision", "fp32,fp8",
         "--precision: precision must be one of auto, fp32, bf16, fp16; got 'fp8'"),
    ],
)  # fmt: skip
def test_a_list_that_makes_no_sense_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        read_values(name, [text])
    assert refused.value.format_message() == message


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
    st.lists(st.floats(1e-5, 1), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from(["csv", "natural", "sqrt"]), min_size=1, unique=True),
)
def test_a_grid_has_each_combination_once_and_all_else_from_below(
    epochs: list[int], rates: list[float], samplings: list[str]
) -> None:
    lists = {"epochs": epochs, "lr": rates, "sampling": samplings}
    points = grid(lists, [Layer("local.toml", {"lr": 3.0, "patience": 7})])
    assert len(points) == prod(map(len, lists.values()))
    found = [(each.config.epochs, each.config.lr, each.config.sampling) for each in points]
    assert found == [(a, b, c) for a in epochs for b in rates for c in samplings]
    assert {each.config.patience for each in points} == {7}
    assert len({each.name("set") for each in points}) == len(points)
    for point in points:
        assert set(point.values) in ({n for n, v in lists.items() if len(v) > 1}, set(lists))


def test_a_recipe_is_a_field_like_others() -> None:
    lists = {"recipe": ("baseline", "mini")}
    assert [each.config.mini for each in grid(lists, [])] == [None, 408]


def test_a_contradiction_names_the_run_it_is_in() -> None:
    lists = {"image_size": (224, 384), "eval_resize": (256,)}
    with pytest.raises(UserError) as refused:
        grid(lists, [])
    assert refused.value.format_message() == (
        "run 2 (image_size 384): eval_resize 256 is below image_size 384"
    )


def test_two_ways_to_say_the_same_run_are_refused() -> None:
    with pytest.raises(UserError, match=r"are the same configuration; drop one of them$"):
        grid({"device": ("cpu",), "classes": (("a", "b"), ("a", "b"))}, [])


def test_far_too_many_runs_are_refused_before_they_are_made() -> None:
    lists = {"seed": range(1000), "epochs": range(1, 1001), "patience": (3,)}
    with pytest.raises(UserError) as refused:
        grid(lists, [])
    assert refused.value.format_message() == (
        "seed (1000) x epochs (1000) are 1,000,000 runs; at most 10,000 make a sweep"
    )


def test_sizes_name_only_what_varies() -> None:
    assert sizes({"arch": ("a", "b"), "lr": (1,), "seed": (1, 2, 3)}) == "arch (2) x seed (3)"


def test_the_folder_of_a_run_depends_on_its_whole_configuration_and_the_set() -> None:
    config = create_recipe("baseline")
    point = Point({"lr": 0.00123456, "arch": "a/b c"}, config)
    name = point.name("set")
    assert name.startswith("0.00123-a_b_c-")
    other = Point(point.values, create_recipe("mini"))
    assert len({name, other.name("set"), point.name("other set")}) == 3
    assert name == Point(dict(point.values), config).name("set")
