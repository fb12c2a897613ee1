"""How many images pass at once: what fits, found without a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import train.engine.micro_batch
from shards.errors import UserError
from train.config.resolve import resolve
from train.engine.micro_batch import fitting, fitting_micro_batch
from train.method.models import create_model


@pytest.mark.parametrize(
    ("room", "images", "found", "tried"),
    [
        (128, 128, 128, [128]),
        (127, 128, 64, [128, 64]),
        (20, 128, 16, [128, 64, 32, 16]),
        (20, 100, 13, [100, 50, 25, 13]),
        (1, 5, 1, [5, 3, 2, 1]),
    ],
)
def test_a_batch_is_halved_until_it_fits(
    room: int, images: int, found: int, tried: list[int]
) -> None:
    seen: list[int] = []

    def fits(count: int) -> bool:
        seen.append(count)
        return count <= room

    assert fitting(fits, images) == found
    assert seen == tried


def test_a_gpu_without_room_for_one_image_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match=r"too small for one image; choose a smaller --image-size"):
        fitting(lambda _: False, 8)


def test_trying_leaves_no_trace_in_the_model(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, tried = train.engine.micro_batch._step, []

    def scarce(model: Any, image_size: int, images: int, *rest: Any) -> None:
        tried.append(images)
        plain(model, image_size, images, *rest)
        if images > 3:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(train.engine.micro_batch, "_step", scarce)
    config = make_config()
    model = create_model(config.arch, 3, config.mean, config.std)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    numbers = torch.get_rng_state()
    assert fitting_micro_batch(model, 32, 10, 3, resolve(config)) == 3
    assert tried == [10, 5, 3]
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    assert all(each.grad is None for each in model.parameters())
