"""Which weights decay, how far a step goes, and what is remembered of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from train.checkpoints.checkpoint import load_optimizer
from train.method.optimizer import clip_gradients, create_optimizer, parameter_groups

CPU = torch.device("cpu")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(3, 3, 3, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_baseline_decays_all_weights_alike(model: nn.Module, make_config: Any) -> None:
    (group,) = parameter_groups(model, make_config(weight_decay=0.1))
    assert group == {"params": list(model.parameters()), "weight_decay": 0.1}


def test_norms_and_biases_can_be_spared(model: nn.Module, make_config: Any) -> None:
    config = make_config(weight_decay=0.1, decay_norm_and_bias=False)
    decaying, spared = parameter_groups(model, config)
    assert (decaying["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    names = {id(each): name for name, each in model.named_parameters()}
    assert [names[id(each)] for each in decaying["params"]] == ["0.weight", "3.weight"]
    spared_names = [names[id(each)] for each in spared["params"]]
    assert spared_names == ["0.bias", "1.weight", "1.bias", "3.bias"]


def test_sgd_is_torchs_own_with_nesterovs_momentum(model: nn.Module, make_config: Any) -> None:
    config = make_config(optimizer="sgd", lr=0.1, momentum=0.8, weight_decay=0.01)
    start = {name: each.clone() for name, each in model.state_dict().items()}
    ours = create_optimizer(model, config, CPU)
    for _ in range(3):
        step(model, ours)
    found = {name: each.clone() for name, each in model.state_dict().items()}
    model.load_state_dict(start)
    plain = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.8, weight_decay=0.01, nesterov=True
    )
    for _ in range(3):
        step(model, plain)
    for name, expected in model.state_dict().items():
        assert torch.allclose(found[name], expected, rtol=1e-5, atol=1e-7), name


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_what_an_optimizer_remembers_can_be_put_back_into_its_like_alone(
    model: nn.Module, make_config: Any, kind: str
) -> None:
    config = make_config(optimizer=kind, decay_norm_and_bias=False)
    used = create_optimizer(model, config, CPU)
    step(model, used)
    again = create_optimizer(model, config, CPU)
    load_optimizer(again, used.state_dict())
    for parameter, state in used.state.items():
        assert all(torch.equal(again.state[parameter][name], each) for name, each in state.items())
    other = create_optimizer(
        model, make_config(optimizer="sgd" if kind == "adamw" else "adamw"), CPU
    )
    with pytest.raises(ValueError, match=r"the optimizer has .* for parameter 0 of shape"):
        load_optimizer(other, used.state_dict())


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_gradients_are_clipped_in_their_own_size_and_keep_their_direction(scale: float) -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    (scaler.scale(weight @ torch.tensor([3.0, 4.0]))).backward()
    clip_gradients(optimizer, scaler, 1.0)
    scaler.step(optimizer)
    assert weight.tolist() == pytest.approx([-0.6, -0.8], rel=1e-5)


def test_short_gradients_and_those_without_a_bound_stay_as_they_are() -> None:
    for bound in (None, 6.0):
        weight = nn.Parameter(torch.zeros(2))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        (weight @ torch.tensor([3.0, 4.0])).backward()
        clip_gradients(optimizer, torch.amp.GradScaler("cpu", enabled=False), bound)
        assert weight.grad is not None
        assert weight.grad.tolist() == [3.0, 4.0]
