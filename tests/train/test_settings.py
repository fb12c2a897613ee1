"""Where each field of a run comes from: command line, file, environment, local.toml, recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.augment import AugmentConfig
from shards.errors import UserError
from train.__main__ import main
from train.config.config import TrainConfig
from train.config.recipes import create_recipe
from train.config.settings import (
    FIELDS,
    Layer,
    Settings,
    as_text,
    flatten,
    load_layers,
    parse,
    settle,
    to_toml,
)

PLACES = ("command line", "file.toml", "environment", "local.toml", "recipe fast")
NAMES = st.text(st.characters(exclude_characters=",\n\r", exclude_categories=["Cs", "Zs", "Cc"]))
CONFIGS = st.builds(
    TrainConfig,
    arch=st.sampled_from(["resnet18", "vit_b_16"]),
    epochs=st.integers(1, 500),
    lr=st.floats(1e-5, 10),
    mean=st.tuples(*3 * [st.floats(0, 1)]),
    eval_resize=st.none() | st.integers(400, 500),
    holdout=st.lists(NAMES.filter(lambda name: name[:1] not in ("", "@")), unique=True).map(tuple),
    fold=st.none() | st.sampled_from([(0, 2), (4, 5)]),
    shots=st.none() | st.integers(1, 9),
    drop_last=st.booleans(),
    precision=st.sampled_from(["auto", "bf16"]),
    threads=st.none() | st.integers(1, 64),
    augment=st.builds(AugmentConfig, hue=st.floats(0, 0.5)),
)


def settle_in_all_places(monkeypatch: pytest.MonkeyPatch, upper: int) -> Settings:
    """``epochs`` as the layers from number ``upper`` down give it: each its own number."""
    file = Path("file.toml")
    file.write_text("epochs = 2\n" if upper <= 1 else "")
    if upper <= 2:
        monkeypatch.setenv("HYPHAE_TRAIN_EPOCHS", "3")
    Path("local.toml").write_text("[train]\nepochs = 4\n" if upper <= 3 else "")
    return settle(load_layers({"epochs": 1} if upper == 0 else {}, file))


@pytest.mark.parametrize("upper", range(5))
def test_the_strongest_place_that_names_a_field_decides(
    monkeypatch: pytest.MonkeyPatch, upper: int
) -> None:
    settings = settle_in_all_places(monkeypatch, upper)
    assert settings.config.epochs == (1, 2, 3, 4, create_recipe("fast").epochs)[upper]
    assert PLACES[upper] in settings.sources["epochs"]


def test_places_add_up_field_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPHAE_TRAIN_HUE", "0.2")
    Path("local.toml").write_text('[train]\nrecipe = "mini"\nthreads = 3\n')
    config = settle(load_layers({"mean": (0.1, 0.2, 0.3)})).config
    mini = create_recipe("mini")
    expected = replace(
        mini, threads=3, mean=(0.1, 0.2, 0.3), augment=replace(mini.augment, hue=0.2)
    )
    assert config == expected


@given(CONFIGS)
def test_what_show_config_prints_loads_again_to_the_same_configuration(config: TrainConfig) -> None:
    printed = to_toml(Settings(config, dict.fromkeys(FIELDS, "a test")))
    file = Path("printed.toml")
    file.write_text(printed, encoding="utf-8")
    assert settle(load_layers({}, file)).config == config


@given(CONFIGS)
def test_the_text_of_every_field_reads_back_as_its_value(config: TrainConfig) -> None:
    for name, value in flatten(config).items():
        assert parse(name, as_text(name, value)) == value, name


def test_show_config_says_where_each_value_came_from(
    command_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPHAE_TRAIN_SEED", "7")
    ended = command_line(main, "--show-config", "--recipe", "mini", "--lr", "0.5")
    assert ended.code == 0
    lines = {line.split(" = ")[0]: line for line in ended.out.splitlines()}
    assert set(lines) == set(FIELDS) - {"samples", "budget"}  # of the lengths, the one that counts
    assert lines["lr"].split() == ["lr", "=", "0.5", "#", "command", "line"]
    assert lines["seed"].endswith("# environment")
    assert lines["mini"].startswith("mini = 408")
    assert lines["mini"].endswith("# recipe mini")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--start-size", "none"], "start_size"),
        (["--train-size", "none"], "train_size"),
        (["--recipe", "baseline", "--patience", "none"], "patience"),
        (["--recipe", "finetune", "--weights", "none", "--head", "random", "--no-freeze-norm"],
         "weights"),
    ],
)  # fmt: skip
def test_none_on_the_command_line_unsets_what_the_recipe_has(
    command_line: Any, options: list[str], field: str
) -> None:
    ended = command_line(main, *options, "--show-config")
    assert ended.code == 0
    (line,) = [each for each in ended.out.splitlines() if each.startswith(f"{field} = ")]
    assert line.split() == [field, "=", '"none"', "#", "command", "line"]


def test_auto_on_the_command_line_unsets_what_another_place_has(
    command_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPHAE_TRAIN_THREADS", "3")
    ended = command_line(main, "--threads", "auto", "--show-config")
    assert 'threads = "auto"' in ended.out


@pytest.mark.parametrize("recipe", ["probe", "finetune", "strong"])
def test_where_a_run_starts_is_decided_by_the_strongest_place_that_says_so(
    command_line: Any, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*options: str) -> dict[str, str]:
        ended = command_line(main, "--recipe", recipe, *options, "--show-config")
        assert ended.code == 0
        lines = (line.split("#")[0].partition(" = ") for line in ended.out.splitlines())
        return {name: value.strip() for name, _, value in lines}

    shown = said("--finetune-from", "run")
    assert (shown["weights"], shown["finetune_from"]) == ('"none"', '"run"')
    monkeypatch.setenv("HYPHAE_TRAIN_FINETUNE_FROM", "run")
    shown = said()
    assert (shown["weights"], shown["finetune_from"]) == ('"none"', '"run"')
    shown = said("--weights", "file.pt")
    assert (shown["weights"], shown["finetune_from"]) == ('"file.pt"', '"none"')


def test_a_file_of_fields_decides_a_run(command_line: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('arch = "resnet34"\nclasses = ["A b", "C d"]\nfold = [1, 5]\nepochs = "7"\n')
    ended = command_line(main, "--config", file, "--show-config", "--epochs", "8")
    assert ended.code == 0
    assert 'arch = "resnet34"' in ended.out
    assert 'classes = ["A b", "C d"]' in ended.out
    assert "fold = [1, 5]" in ended.out
    assert "epochs = 8 " in ended.out


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("epoch = 3", "unknown field 'epoch'; did you mean 'epochs'?"),
        ("[augment]\nhue = 0.1", "unknown field 'augment'"),
        ("lr = nan", "mine.toml: lr must be in (0, inf), got nan"),
        ("lr = 2026-01-01", "mine.toml: lr is of type date, expected float"),
        ("[train]\nlr = 0.1", "mine.toml: [train] is for local.toml; here the fields stand by"),
        ('shards = "x"', "mine.toml: the shard set is no field; name it with --shards or"),
        ("epochs = 0", "mine.toml: epochs must be from 1 to 100000, got 0"),
        ("epochs = 1.5", "mine.toml: epochs is of type float, expected int"),
        ("epochs = true", "mine.toml: epochs is of type bool, expected int"),
        ('epochs = "many"', "epochs must be a whole number, got 'many'"),
        ('precision = "fp8"', "precision must be one of auto, fp32, bf16, fp16; got 'fp8'"),
        ("mean = [0.1, 0.2]", "mine.toml: mean has 2 values, expected 3"),
        ('mean = "0.1,0.2"', "mean needs 3 numbers with commas, got '0.1,0.2'"),
        ("mean = [0.1, nan, 0]", "mean must be a finite number in each channel, got 0.1,nan,0"),
        ("std = [0.1, 0.0, 0.1]", "std must be above 0 in each channel, got 0.1,0.0,0.1"),
        ("std = [0.1, nan, 0.1]", "std must be above 0 in each channel, got 0.1,nan,0.1"),
        ('fold = "1-5"', "'1-5' is not I/N, as in 0/5"),
        ('drop_last = "yes"', "drop_last must be one of true, false; got 'yes'"),
        ('recipe = "basline"', "unknown recipe 'basline'; did you mean 'baseline'?"),
        ("epochs = ", "mine.toml is not valid TOML"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_in_one_line(
    command_line: Any, tmp_path: Path, content: str, expected: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    ended = command_line(main, "--config", file, "--show-config")
    assert (ended.code, ended.out) == (2, "")
    assert expected in ended.err
    assert ended.err.count("\n") == 1


def test_a_file_that_is_missing_is_named(command_line: Any) -> None:
    ended = command_line(main, "--config", "nowhere.toml", "--show-config")
    assert (ended.code, ended.err) == (
        2,
        "error: cannot read nowhere.toml: No such file or directory\n",
    )


def test_a_variable_of_an_unknown_field_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPHAE_TRAIN_LEARNING_RATE", "1")
    with pytest.raises(UserError, match=r"^HYPHAE_TRAIN_LEARNING_RATE: unknown field 'learning_r"):
        settle(load_layers({}))


def test_local_toml_must_hold_its_fields_in_a_table() -> None:
    Path("local.toml").write_text("train = 3\n")
    with pytest.raises(UserError, match=r"local.toml: train must be a table, \[train\]; got 3"):
        load_layers({})


def test_no_value_of_a_layer_reaches_below_it() -> None:
    layers = [Layer("above", {"lr": 0.5}), Layer("below", {"lr": 0.1, "seed": 3})]
    settings = settle(layers)
    assert (settings.config.lr, settings.config.seed) == (0.5, 3)
    assert (settings.sources["lr"], settings.sources["seed"]) == ("above", "below")
