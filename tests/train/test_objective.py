"""What a batch asks of the network, with and without mixing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from loaders.augment import AugmentConfig
from loaders.batch import Batch
from loaders.mixing import draw_mixing
from train.config.recipes import create_recipe
from train.method.objective import micro_batches, prepare

SIZE, COUNT, CLASSES = 16, 8, 5


@pytest.fixture
def batch() -> Batch:
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (COUNT, 3, SIZE, SIZE), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, CLASSES, (COUNT,), generator=draw)
    return Batch(images, labels, torch.arange(COUNT))


def test_without_mixing_a_batch_is_shown_as_it_is_and_its_loss_is_torchs(batch: Batch) -> None:
    images, target = prepare(batch, create_recipe("baseline"), epoch=0, first_position=0)
    logits = torch.randn(COUNT, CLASSES)
    assert images is batch.images
    assert torch.equal(
        target.loss(logits, 0.1), cross_entropy(logits, batch.labels, label_smoothing=0.1)
    )


@pytest.mark.parametrize("kind", ["mixup_prob", "cutmix_prob"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_mixed_images_is_that_of_their_shares_as_soft_labels(
    batch: Batch, kind: str, smoothing: float
) -> None:
    config = replace(create_recipe("baseline"), augment=AugmentConfig(**{kind: 1.0}))
    images, target = prepare(batch, config, epoch=3, first_position=40)
    mixing = draw_mixing(config.augment, seed=config.seed, epoch=3, first_position=40, count=COUNT,
                         image_size=SIZE)  # fmt: skip
    assert mixing is not None
    weights = torch.from_numpy(mixing.label_weights)[:, None]
    hard = one_hot(batch.labels, CLASSES).float()
    soft = weights * hard + (1 - weights) * hard[torch.from_numpy(np.asarray(mixing.partners))]
    logits = torch.randn(COUNT, CLASSES)
    expected = cross_entropy(logits, soft, label_smoothing=smoothing)
    assert torch.allclose(target.loss(logits, smoothing), expected, atol=1e-6)
    assert not torch.equal(images, batch.images)


def test_the_same_images_are_mixed_in_the_same_way_whatever_batch_they_are_in(batch: Batch) -> None:
    config = replace(
        create_recipe("baseline"), augment=AugmentConfig(mixup_prob=0.5, cutmix_prob=0.5)
    )
    whole, _ = prepare(batch, config, epoch=1, first_position=0)
    half = Batch(batch.images[4:], batch.labels[4:], batch.ids[4:])
    assert torch.equal(prepare(half, config, epoch=1, first_position=4)[0], whole[4:])


@pytest.mark.parametrize("size", [None, 1, 3, 8, 100])
@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_the_gradients_of_micro_batches_add_up_to_that_of_the_batch(
    batch: Batch, size: int | None, cutmix: float
) -> None:
    config = replace(create_recipe("baseline"), augment=AugmentConfig(cutmix_prob=cutmix))
    images, target = prepare(batch, config, epoch=0, first_position=0)
    network = torch.nn.Linear(3 * SIZE * SIZE, CLASSES, dtype=torch.float64)
    pixels = images.reshape(COUNT, -1) / 255.0
    target.loss(network(pixels.double()), 0.1).backward()
    expected = network.weight.grad
    assert expected is not None
    network.zero_grad()
    shown = 0
    for part, of_it, share in micro_batches(pixels.double(), target, size):
        (share * of_it.loss(network(part), 0.1)).backward()
        shown += len(part)
        assert len(part) <= (size or COUNT)
    assert shown == COUNT
    assert torch.allclose(network.weight.grad, expected, rtol=1e-6, atol=1e-9)
