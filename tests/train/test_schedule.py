"""The cosine against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from train.schedule import cosine_per_epoch


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
