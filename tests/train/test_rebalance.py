"""``rebalance``: one word, three fields, in every place that names fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import train.engine.probe
from shards.errors import UserError
from train.__main__ import main
from train.checkpoints.checkpoint import BEST, load_checkpoint
from train.config.rebalance import REBALANCE
from train.config.settings import FIELDS, Layer, load_layers, settle


@pytest.mark.parametrize("word", REBALANCE)
def test_a_word_stands_for_three_fields(word: str) -> None:
    config = settle([Layer("command line", {"rebalance": word})]).config
    assert {name: getattr(config, name) for name in REBALANCE[word]} == REBALANCE[word]
    assert set(REBALANCE[word]) == {"sampling", "logit_adjust", "class_balance"}
    assert "rebalance" not in FIELDS


def test_no_two_words_are_the_same() -> None:
    assert len({tuple(each.values()) for each in REBALANCE.values()}) == len(REBALANCE)


def test_a_stronger_place_decides_over_a_word_and_a_word_over_a_weaker_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HYPHAE_TRAIN_REBALANCE", "sqrt")
    Path("local.toml").write_text('[train]\nsampling = "balanced"\n')
    assert settle(load_layers({})).config.sampling == "sqrt"
    settings = settle(load_layers({"logit_adjust": 0.5}))
    assert (settings.config.sampling, settings.config.logit_adjust) == ("sqrt", 0.5)
    assert settings.sources["sampling"] == "environment"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rebalance": "sqrt", "sampling": "csv"},
            "a file: rebalance sqrt decides sampling as well; give one of the two",
        ),
        (
            {"rebalance": "more"},
            "a file: rebalance must be one of none, csv, sqrt, logit-adjust, class-balanced; got 'more'",
        ),
    ],
)
def test_a_word_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        settle([Layer("a file", fields)])
    assert refused.value.format_message() == message


def test_the_command_line_takes_the_word_and_shows_what_it_means(command_line: Any) -> None:
    ended = command_line(main, "--rebalance", "logit-adjust", "--show-config")
    assert ended.code == 0
    lines = dict(line.split(" = ", 1) for line in ended.out.splitlines())
    assert lines["sampling"].split() == ['"natural"', "#", "command", "line"]
    assert lines["logit_adjust"].startswith("1.0")
    assert "rebalance" not in lines


HEAD = {"head": "only", "finetune_from": "start", "epochs": 1, "sampling": "natural"}


@pytest.mark.usefixtures("start")
def test_a_fitted_head_is_adjusted_by_its_bias_alone(
    train_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The free bias of a logistic regression takes up what is added to its logits."""
    monkeypatch.setattr(train.engine.probe, "PENALTIES", (0.1,))
    heads = []
    for name, fields in {"plain": {}, "adjusted": {"logit_adjust": 1.0}}.items():
        train_tiny(tmp_path / name, **HEAD, **fields)
        heads.append(load_checkpoint(tmp_path / name / BEST).model)
    assert torch.equal(heads[0]["8.weight"], heads[1]["8.weight"])
    shares = torch.tensor([12.0, 8.0, 4.0]) / 24
    assert torch.allclose(heads[0]["8.bias"] - heads[1]["8.bias"], shares.log(), atol=1e-5)


@pytest.mark.usefixtures("start")
def test_a_fitted_head_counts_photographs_by_the_rarity_of_their_class(
    train_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.engine.probe, "PENALTIES", (0.1,))
    weights = []
    # In nearly inverse proportion is what balanced sampling shows.
    for name, fields in {
        "weighed": {"class_balance": 1 - 1e-7},
        "balanced": {"sampling": "balanced"},
    }.items():
        train_tiny(tmp_path / name, **HEAD | fields)
        weights.append(load_checkpoint(tmp_path / name / BEST).model["8.weight"])
    assert distance(*weights) < 1e-3  # where the iteration ends differs from CPU to CPU
    train_tiny(tmp_path / "plain", **HEAD)
    plain = load_checkpoint(tmp_path / "plain" / BEST).model["8.weight"]
    assert distance(plain, weights[0]) > 1e-2


def distance(weight: torch.Tensor, other: torch.Tensor) -> float:
    """As a share of the other's own length."""
    return ((weight - other).norm() / other.norm()).item()
