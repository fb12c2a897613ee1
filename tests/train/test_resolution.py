"""Image sizes that grow with the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train.engine.announce
from shards.errors import Interrupted
from train.config.recipes import create_recipe
from train.config.resolution import (
    MOST_SIZES,
    STRIDE_PX,
    mean_area,
    training_size,
    training_sizes,
)
from train.config.settings import Layer, Settings, settle
from train.method.models import Classifier
from train.runs.log import STEPS

Sizes = tuple[int, ...]


@pytest.mark.parametrize(
    ("fields", "sizes"),
    [
        ({"image_size": 384}, (384,)),
        ({"image_size": 256, "train_size": 224}, (224,)),
        ({"image_size": 128, "start_size": 80}, (80, 96, 112, 128)),
        ({"image_size": 384, "start_size": 192}, (192, 256, 320, 384)),
        ({"image_size": 256, "train_size": 224, "start_size": 128}, (128, 160, 192, 224)),
        ({"image_size": 100, "start_size": 90}, (90, 96, 100)),
        ({"image_size": 64, "start_size": 64}, (64,)),
    ],
)
def test_sizes_rise_evenly_from_the_first_to_the_last(
    make_config: Any, fields: dict[str, int], sizes: Sizes
) -> None:
    assert training_sizes(make_config(**fields)) == sizes


@given(first=st.integers(16, 600), last=st.integers(16, 600))
def test_there_are_four_at_most_and_none_beyond_the_ends(
    make_config: Any, first: int, last: int
) -> None:
    first, last = sorted((first, last))
    sizes = training_sizes(make_config(image_size=last, start_size=first))
    assert len(sizes) <= MOST_SIZES
    assert list(sizes) == sorted(set(sizes))
    assert (sizes[0], sizes[-1]) == (first, last)


def settled(**fields: Any) -> Settings:
    return settle([Layer("command line", fields)])


@given(image_size=st.integers(16, 4096))
def test_a_recipes_training_sizes_follow_the_size_at_evaluation(image_size: int) -> None:
    recipe = create_recipe("fast")
    config = settled(recipe="fast", image_size=image_size).config
    for name in ("start_size", "train_size"):
        size, theirs = getattr(config, name), getattr(recipe, name)
        assert size % STRIDE_PX == 0
        assert size >= STRIDE_PX
        assert abs(size - theirs * image_size / recipe.image_size) <= STRIDE_PX
    assert settled(recipe="fast", image_size=recipe.image_size).config == recipe


def test_a_training_size_that_somebody_gave_stays_as_it_is() -> None:
    given_one = settled(recipe="fast", image_size=128, train_size=112)
    assert (given_one.config.start_size, given_one.config.train_size) == (48, 112)
    assert given_one.sources["train_size"] == "command line"
    assert given_one.sources["start_size"] == "recipe fast, at 128 px"
    plain = settled(recipe="baseline", image_size=128).config
    assert (plain.start_size, plain.train_size) == (None, None)


def test_each_size_has_the_same_share_of_the_run_and_the_last_one_the_end(make_config: Any) -> None:
    config = make_config(image_size=128, start_size=80)
    of_run = [training_size(config, at / 1000) for at in range(1000)]
    assert [of_run.count(each) for each in (80, 96, 112, 128)] == [250] * 4
    assert of_run == sorted(of_run)
    assert training_size(config, 1.0) == 128


def test_the_mean_area_is_that_of_the_sizes(make_config: Any) -> None:
    config = make_config(image_size=128, start_size=80)
    assert mean_area(config) == pytest.approx((80**2 + 96**2 + 112**2 + 128**2) / 4)


def sizes_of_steps(run: Path) -> list[int]:
    lines = (run / STEPS).read_text().splitlines()
    return [json.loads(line)["step/image_size"] for line in lines]


GROWING = {
    "image_size": 64,
    "train_size": 48,
    "start_size": 32,
    "epochs": 3,
}  # 24 steps: 12 of each


def test_a_run_grows_in_the_middle_of_an_epoch_and_is_evaluated_at_its_own_size(
    tmp_path: Path, train_tiny: Any, monkeypatch: pytest.MonkeyPatch, metrics_of: Any
) -> None:
    seen: list[tuple[bool, int]] = []
    plain = Classifier.forward

    def noted(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        seen.append((self.training, images.shape[-1]))
        return plain(self, images)

    monkeypatch.setattr(
        train.engine.announce, "quicker_way", lambda *_: seen.clear()
    )  # the estimate is over
    monkeypatch.setattr(Classifier, "forward", noted)
    monkeypatch.setattr("train.engine.loop.READ_STEPS", 1)
    train_tiny(tmp_path / "run", **GROWING)
    assert [side for training, side in seen if training] == [32] * 12 + [48] * 12
    assert {side for training, side in seen if not training} == {64}
    assert sizes_of_steps(tmp_path / "run") == [32] * 12 + [48] * 12
    assert [each["train/image_size"] for each in metrics_of(tmp_path / "run")] == [32, 48, 48]


@pytest.mark.parametrize(
    "asked", [15, *(pytest.param(each, marks=pytest.mark.slow) for each in (3, 16, 22))]
)
def test_a_resumed_run_that_grows_equals_the_unbroken_one(
    tmp_path: Path, train_tiny: Any, stop_after: Any, resume: Any, outcome_of: Any, asked: int
) -> None:
    train_tiny(tmp_path / "unbroken", **GROWING)
    stop_after(asked)  # an epoch asks ten times; the sizes change in the middle of the second
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run", **GROWING)
    resume(tmp_path / "run")
    assert outcome_of(tmp_path / "run") == outcome_of(tmp_path / "unbroken")


def test_a_size_that_would_shrink_is_refused(train_command: Any) -> None:
    ended = train_command("--start-size", 48, "--image-size", 32)
    assert ended.code == 2
    assert "start_size 48 is above the size at the end, 32" in ended.err
