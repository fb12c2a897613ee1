"""Recipes hold what they claim, survive storage, and refuse nonsense."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.augment import AugmentConfig
from shards.errors import UserError
from train.config.config import TrainConfig
from train.config.recipes import RECIPES, create_recipe, describe_recipes

PUBLISHED: dict[str, Any] = {
    "recipe": "baseline",
    "weights": None,
    "finetune_from": None,
    "head": "random",
    "backbone_lr": 1.0,
    "epochs": 20,
    "samples": None,
    "budget": None,
    "eval_every": 1.0,
    "batch_size": 128,
    "lr": 1e-3,
    "min_lr": 1e-6,
    "optimizer": "adamw",
    "schedule": "cosine-epoch",
    "warmup": 0.0,
    "weight_decay": 1e-4,
    "decay_norm_and_bias": True,
    "clip_norm": None,
    "label_smoothing": 0.0,
    "logit_adjust": 0.0,
    "class_balance": 0.0,
    "hierarchy_loss": "none",
    "ema": None,
    "stochastic_depth": None,
    "zero_init": False,
    "freeze_norm": False,
    "seed": 12345,
    "image_size": 384,
    "train_size": None,
    "start_size": None,
    "eval_resize": None,
    "augment": AugmentConfig(
        crop_scale=(0.08, 1.0),
        crop_ratio=(0.7, 1.33),
        hflip_prob=0.5,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
    ),
    "resample": "antialias",
    "sampling": "csv",
    "epoch_size": None,
    "classes": (),
    "holdout": (),
    "fold": None,
    "mini": None,
    "shots": None,
    "imbalance": None,
    "drop_last": False,
    "sync_batchnorm": False,
    "mean": (0.4308, 0.4084, 0.3393),
    "std": (0.1063, 0.1023, 0.1123),
    "amp": "fp16",
}
OF_THE_MACHINE = {
    "device",
    "precision",
    "memory_format",
    "compile",
    "compile_mode",
    "loader",
    "threads",
    "prefetch",
    "hw_decoder_load",
}
OF_THE_LOADER = {"read", "augment_by", "verify", "on_bad_sample", "reduced_decode"}
WATCHING = {"wandb", "overfit_batches", "fast_dev_run", "profile", "deterministic"}
NOT_PUBLISHED = {
    "arch",
    "micro_batch",
    "momentum",
    "hierarchy_beta",
    "hierarchy_weight",
    "species",
    "patience",
    "subset_seed",
    *OF_THE_LOADER,
    *WATCHING,
}


def test_baseline_is_the_published_recipe() -> None:
    config = create_recipe("baseline")
    assert {name: getattr(config, name) for name in PUBLISHED} == PUBLISHED
    # A field that is added must be added here too.
    assert {each.name for each in fields(config)} == {*PUBLISHED, *OF_THE_MACHINE, *NOT_PUBLISHED}


def test_baseline_never_stops_early_and_leaves_the_machine_to_auto() -> None:
    config = create_recipe("baseline")
    assert config.patience is not None
    assert config.patience >= config.epochs
    assert {getattr(config, name) for name in OF_THE_MACHINE} == {"auto", None}


def test_baseline_evaluates_at_440_for_384() -> None:
    from loaders.augment import eval_resize_size

    assert eval_resize_size(create_recipe("baseline").image_size) == 440


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_by_its_key(name: str) -> None:
    assert create_recipe(name).recipe == name


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "arch": st.sampled_from(["resnet18", "vit_b_16"]),
            "epochs": st.integers(1, 500),
            "batch_size": st.integers(1, 4096),
            "lr": st.floats(1e-6, 10),
            "label_smoothing": st.floats(0, 0.99),
            "seed": st.integers(0, 2**63 - 1),
            "image_size": st.integers(16, 200),
            "eval_resize": st.none() | st.integers(200, 400),
            "mini": st.none() | st.integers(1, 100),
            "fold": st.none() | st.sampled_from([(0, 2), (4, 5)]),
            "holdout": st.lists(st.text(min_size=1), max_size=3).map(tuple),
            "epoch_size": st.none() | st.integers(1, 10**6),
            "threads": st.none() | st.integers(1, 64),
            "augment": st.builds(
                AugmentConfig,
                crop_scale=st.floats(0.01, 1).map(lambda low: (low, 1.0)),
                hue=st.floats(0, 0.5),
            ),
        },
    )
)
def test_a_configuration_survives_json(given_fields: dict[str, Any]) -> None:
    config = replace(create_recipe("baseline"), **{"image_size": 128} | given_fields)
    restored = TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert restored == config
    assert hash(restored) == hash(config)  # tuples came back as tuples


def test_an_unknown_field_is_named_with_the_nearest() -> None:
    content = create_recipe("baseline").to_dict() | {"weight_decays": 0.1}
    with pytest.raises(
        UserError,
        match=r"unknown configuration field 'weight_decays'; did you mean 'weight_decay'\?",
    ):
        TrainConfig.from_dict(content)


def test_an_unknown_recipe_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown recipe 'basline'; did you mean 'baseline'\?"):
        create_recipe("basline")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs must be from 1 to 100000, got 0"),
        ("batch_size", -3, "batch_size must be from 1 to 65536, got -3"),
        ("patience", 0, "patience must be from 1 to 100000, got 0"),
        ("image_size", 15, "image_size must be from 16 to 4096, got 15"),
        ("image_size", 10**6, "image_size must be from 16 to 4096, got 1000000"),
        ("epochs", 10**12, "epochs must be from 1 to 100000, got 1000000000000"),
        ("threads", 10**5, "threads must be from 1 to 512, got 100000"),
        ("eval_resize", 383, "eval_resize 383 is below image_size 384"),
        ("lr", -1e-3, r"lr must be in \(0, inf\), got -0.001"),
        ("lr", float("nan"), r"lr must be in \(0, inf\), got nan"),
        ("weight_decay", float("inf"), r"weight_decay must be in \[0, inf\), got inf"),
        ("min_lr", -1.0, r"min_lr must be in \[0, inf\), got -1.0"),
        ("min_lr", 0.1, "min_lr 0.1 is above lr 0.001"),
        ("clip_norm", 0.0, r"clip_norm must be in \(0, inf\), got 0.0"),
        (
            "warmup",
            0.1,
            "warmup 0.1 needs a schedule that moves with every step, not cosine-epoch; choose "
            "cosine, linear or constant",
        ),
        ("label_smoothing", 1.0, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ("logit_adjust", -0.5, r"logit_adjust must be in \[0, inf\), got -0.5"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(create_recipe("baseline"), **{field: value})


def test_mini_is_the_baseline_on_the_courses_mini_set() -> None:
    assert create_recipe("mini") == replace(create_recipe("baseline"), recipe="mini", mini=408)


def test_small_gpu_is_the_baseline_sixteen_images_at_a_time() -> None:
    expected = replace(create_recipe("baseline"), recipe="small-gpu", micro_batch=16)
    assert create_recipe("small-gpu") == expected


def test_strong_is_finetune_for_longer_and_looks_at_val_once() -> None:
    strong, finetune = create_recipe("strong"), create_recipe("finetune")
    assert strong.epochs == strong.eval_every == 2 * finetune.epochs
    kept = ("arch", "weights", "head", "backbone_lr", "freeze_norm", "image_size", "sampling")
    assert [getattr(strong, name) for name in kept] == [getattr(finetune, name) for name in kept]


def test_each_recipe_says_what_it_is_for_its_command_and_its_cost() -> None:
    text = describe_recipes()
    for name in RECIPES:
        assert f"\n{name}\n" in f"\n{text}"
        assert f"--recipe {name}" in text


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        create_recipe("baseline").lr = 1.0  # type: ignore[misc]
