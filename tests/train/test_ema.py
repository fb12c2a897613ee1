"""The moving average of the weights: its formula, what a run makes of it, and a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from shards.errors import Interrupted, UserError
from train.checkpoints.checkpoint import BEST, LAST, load_checkpoint, load_content, save_checkpoint
from train.method.ema import WARM_UP_STEPS, WeightAverage, decay_at
from train.method.models import Classifier

DECAY = 0.9


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    return Classifier(layers, (0.5,) * 3, (0.5,) * 3)


def move(model: Classifier) -> None:
    """A step of training, as far as an average can see."""
    model.train()(torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8))
    with torch.no_grad():
        for each in model.parameters():
            each.add_(torch.randn_like(each))


def test_after_the_first_step_the_average_is_the_weights(model: Classifier) -> None:
    average = WeightAverage(model, DECAY)
    move(model)
    average.update(0)
    ours, theirs = average.model.state_dict(), model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_old_average_is_that_of_torchs_own_averaged_model(model: Classifier) -> None:
    average = WeightAverage(model, DECAY)

    def theirs(mean: Any, value: Any, _: Any) -> Any:
        return DECAY * mean + (1 - DECAY) * value

    reference = AveragedModel(model.backbone, avg_fn=theirs, use_buffers=True)
    for step in range(1000, 1005):
        move(model)
        if step == 1000:  # which torch copies, whatever there was
            average.update(0)
        else:
            average.update(step)
        reference.update_parameters(model.backbone)
    ours, expected = average.model.backbone.state_dict(), reference.module.state_dict()
    for name, each in expected.items():
        if each.is_floating_point():
            torch.testing.assert_close(ours[name], each)


def test_statistics_of_batch_norm_trail_and_counters_are_copied(model: Classifier) -> None:
    average = WeightAverage(model, DECAY)
    move(model)
    average.update(0)
    before = model.backbone[1].running_mean.clone()
    move(model)
    average.update(10**6)
    mean = average.model.backbone[1].running_mean
    torch.testing.assert_close(mean, DECAY * before + (1 - DECAY) * model.backbone[1].running_mean)
    assert average.model.backbone[1].num_batches_tracked == 2


def test_the_average_does_not_learn(model: Classifier) -> None:
    average = WeightAverage(model, DECAY)
    assert not average.model.training
    assert not any(each.requires_grad for each in average.model.parameters())


def test_a_young_average_keeps_little_and_an_old_one_the_decay() -> None:
    decays = [decay_at(0.999, step) for step in range(20_000)]
    assert decays[0] == 0
    assert decays[WARM_UP_STEPS] == 0.5
    assert decays == sorted(decays)
    assert decays[-1] == 0.999


def test_a_run_evaluates_and_keeps_the_average(
    tmp_path: Path, train_tiny: Any, outcome_of: Any
) -> None:
    train_tiny(tmp_path / "plain", epochs=2)
    train_tiny(tmp_path / "average", epochs=2, ema=0.9)
    plain, average = (load_content(tmp_path / each / LAST) for each in ("plain", "average"))
    for name, each in plain["model"].items():  # steps go on with the weights themselves
        assert torch.equal(average["stepped"][name], each)
    assert any(
        not torch.equal(average["model"][name], each) for name, each in plain["model"].items()
    )
    best = load_content(tmp_path / "average" / BEST)
    assert "stepped" not in best
    ours, theirs = (outcome_of(tmp_path / each) for each in ("average", "plain"))
    assert ours["metrics"][1]["train/loss"] == theirs["metrics"][1]["train/loss"]
    assert ours["metrics"][1]["val/loss"] != theirs["metrics"][1]["val/loss"]


@pytest.mark.slow
def test_an_average_of_nothing_else_than_the_last_step_is_the_plain_run(
    tmp_path: Path, train_tiny: Any, outcome_of: Any
) -> None:
    train_tiny(tmp_path / "plain", epochs=2)
    train_tiny(tmp_path / "average", epochs=2, ema=1e-12)
    ours, theirs = (outcome_of(tmp_path / each) for each in ("average", "plain"))
    assert ours["metrics"] == theirs["metrics"]
    assert ours["summary"]["test"] == theirs["summary"]["test"]


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(1, id="first step", marks=pytest.mark.slow),
        pytest.param(8, id="last step", marks=pytest.mark.slow),
        pytest.param(9, id="during evaluation", marks=pytest.mark.slow),
        pytest.param(14, id="middle of the second epoch"),
    ],
)
def test_a_resumed_run_with_an_average_equals_the_unbroken_one(
    tmp_path: Path, train_tiny: Any, stop_after: Any, resume: Any, outcome_of: Any, asked: int
) -> None:
    train_tiny(tmp_path / "unbroken", epochs=2, ema=0.8)
    stop_after(asked)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run", epochs=2, ema=0.8)
    resume(tmp_path / "run")
    assert outcome_of(tmp_path / "run") == outcome_of(tmp_path / "unbroken")
    stepped = [load_content(tmp_path / each / LAST)["stepped"] for each in ("run", "unbroken")]
    assert all(torch.equal(stepped[0][name], each) for name, each in stepped[1].items())


def test_a_checkpoint_without_the_weights_behind_the_average_is_refused(
    tmp_path: Path, train_tiny: Any, stop_after: Any, resume: Any
) -> None:
    stop_after(3)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run", ema=0.8)
    content = load_content(tmp_path / "run" / LAST)
    del content["stepped"]
    save_checkpoint(tmp_path / "run" / LAST, content)
    with pytest.raises(UserError, match="there are no weights behind the average"):
        resume(tmp_path / "run")


def test_the_best_checkpoint_of_an_average_is_evaluated_to_the_same_scores(
    tmp_path: Path, train_tiny: Any, tiny_shards: Path
) -> None:
    from train.inference.full_evaluation import evaluate_in_full

    summary = train_tiny(tmp_path / "run", epochs=2, ema=0.9)
    again = evaluate_in_full(tmp_path / "run", "test", str(tiny_shards), None, say_all=False)
    assert again.compared.result.scores.as_dict() == summary["test"]
    assert load_checkpoint(tmp_path / "run" / BEST).config.ema == 0.9
