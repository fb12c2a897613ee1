"""The cosine against torch's own; schedules by step by their shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from train.config.config import TrainConfig
from train.config.length import StepCount
from train.config.recipes import create_recipe
from train.method.schedule import cosine_per_epoch, rate_at


@pytest.mark.parametrize(("epochs", "lr", "min_lr"), [(20, 1e-3, 1e-6), (1, 0.1, 0.0), (7, 2, 1)])
def test_the_rate_of_every_epoch_is_that_of_cosine_annealing(
    epochs: int, lr: float, min_lr: float
) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = CosineAnnealingLR(optimizer, T_max=epochs, eta_min=min_lr)
    for epoch in range(epochs):
        ours = cosine_per_epoch(epoch, epochs, lr, min_lr)
        assert ours == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9, abs=1e-15)
        optimizer.step()
        scheduler.step()


def test_the_rate_starts_at_lr_falls_each_epoch_and_ends_above_its_floor() -> None:
    rates = [cosine_per_epoch(epoch, 20, 1e-3, 1e-6) for epoch in range(20)]
    assert rates[0] == 1e-3
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == 20
    assert rates[-1] > 1e-6
    assert cosine_per_epoch(20, 20, 1e-3, 1e-6) == pytest.approx(1e-6)


def rates_of(config: TrainConfig, steps_per_epoch: int = 10) -> list[float]:
    total = config.epochs * steps_per_epoch
    length = StepCount(
        total=total, steps_per_epoch=steps_per_epoch, batch_size=1, eval_every=config.eval_every
    )
    return [rate_at(config, length.outlook(step, 0).progress) for step in range(total)]


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 10, 5387])
def test_the_baselines_rate_moves_once_an_epoch(make_config: Any, steps_per_epoch: int) -> None:
    rates = rates_of(make_config(epochs=20), steps_per_epoch)
    steps = range(20 * steps_per_epoch)
    assert rates == [cosine_per_epoch(at // steps_per_epoch, 20, 1e-3, 1e-6) for at in steps]


def test_the_baselines_rate_of_every_epoch_is_that_of_cosine_annealing_over_twenty() -> None:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = CosineAnnealingLR(optimizer, T_max=20, eta_min=1e-6)
    rates = rates_of(create_recipe("baseline"), 4)
    for epoch in range(20):
        expected = scheduler.get_last_lr()[0]
        assert rates[4 * epoch : 4 * epoch + 4] == pytest.approx([expected] * 4, rel=1e-9)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_by_step_falls_with_every_step_from_lr_to_its_floor(
    make_config: Any, schedule: str
) -> None:
    config = make_config(epochs=20, schedule=schedule, lr=1.0, min_lr=0.1)
    rates = rates_of(config)
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == len(rates)
    assert (rate_at(config, 0.0), rate_at(config, 1.0)) == pytest.approx((1.0, 0.1))
    assert rate_at(config, 0.5) == pytest.approx(0.55)


def test_half_a_cosine_lies_above_the_line_at_first_and_below_it_at_last(make_config: Any) -> None:
    line, cosine = (make_config(schedule=each, min_lr=0.0) for each in ("linear", "cosine"))
    assert rate_at(cosine, 0.25) > rate_at(line, 0.25)
    assert rate_at(cosine, 0.75) < rate_at(line, 0.75)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_a_warm_up_rises_by_a_line_and_joins_the_schedule_without_a_jump(
    make_config: Any, schedule: str
) -> None:
    config = make_config(schedule=schedule, warmup=0.2, lr=1.0)
    assert [rate_at(config, each) for each in (0.0, 0.05, 0.1)] == pytest.approx([0, 0.25, 0.5])
    assert rate_at(config, 0.2 - 1e-9) == pytest.approx(rate_at(config, 0.2), abs=1e-6)
    assert max(rates_of(config)) <= 1.0


def test_no_step_of_a_warm_up_is_lost_on_a_rate_of_nothing(make_config: Any) -> None:
    assert min(rates_of(make_config(schedule="constant", warmup=0.5))) > 0


def test_a_constant_rate_stays(make_config: Any) -> None:
    assert set(rates_of(make_config(schedule="constant"))) == {1e-3}
