"""What a batch asks of the network, with and without mixing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from loaders.augment import AugmentConfig
from loaders.batch import Batch
from loaders.mixing import draw_mixing
from train.config.recipes import create_recipe
from train.method.hierarchy import Structure
from train.method.objective import Objective, class_weights, logit_offsets, micro_batches, prepare
from train.method.prototypes import Prototypes

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
        Objective(label_smoothing=0.1).loss(logits, target),
        cross_entropy(logits, batch.labels, label_smoothing=0.1),
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
    objective = Objective(label_smoothing=smoothing)
    assert torch.allclose(objective.loss(logits, target), expected, atol=1e-6)
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
@pytest.mark.parametrize("is_plain", [True, False])
def test_the_gradients_of_micro_batches_add_up_to_that_of_the_batch(
    batch: Batch, size: int | None, cutmix: float, is_plain: bool
) -> None:
    config = replace(create_recipe("baseline"), augment=AugmentConfig(cutmix_prob=cutmix))
    images, target = prepare(batch, config, epoch=0, first_position=0)
    network = Prototypes(3 * SIZE * SIZE, CLASSES).double()
    draw = torch.Generator().manual_seed(2)
    everything = {
        "logit_offsets": torch.randn(CLASSES, generator=draw),
        "class_weights": torch.rand(CLASSES, generator=draw),
        "soft_labels": torch.rand(CLASSES, CLASSES, generator=draw).double().softmax(1),
        "structure": Structure(network, 1 - torch.eye(CLASSES, dtype=torch.float64), 0.5),
    }
    objective = Objective(label_smoothing=0.1, **{} if is_plain else everything)  # type: ignore[arg-type]
    pixels = images.reshape(COUNT, -1).double() / 255.0
    objective.loss(network(pixels), target).backward()
    expected = network.weight.grad
    assert expected is not None
    network.zero_grad()
    shown = 0
    for part, of_it, share in micro_batches(pixels, target, size):
        (share * objective.loss(network(part), of_it)).backward()
        shown += len(part)
        assert len(part) <= (size or COUNT)
    assert shown == COUNT
    assert torch.allclose(network.weight.grad, expected, rtol=1e-6, atol=1e-9)


def test_an_image_counts_by_the_weight_of_its_class(batch: Batch) -> None:
    _, target = prepare(batch, create_recipe("baseline"), epoch=0, first_position=0)
    logits, weights = torch.randn(COUNT, CLASSES), torch.rand(CLASSES)
    losses = cross_entropy(logits, batch.labels, reduction="none")
    expected = sum(weights[label] * loss for label, loss in zip(batch.labels, losses, strict=True))
    found = Objective(class_weights=weights).loss(logits, target)
    assert found == pytest.approx(float(expected) / COUNT, rel=1e-6)


def test_with_logit_adjustment_frequent_classes_are_not_preferred() -> None:
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    counts = np.bincount(labels.numpy())
    offsets = logit_offsets(counts, 1.0)
    assert offsets is not None
    logits = torch.zeros(len(counts), dtype=torch.float64, requires_grad=True)
    cross_entropy((logits + offsets).expand(len(labels), -1), labels).backward()
    # A network that sees nothing in its images is at its best with equal logits.
    assert torch.allclose(logits.grad, torch.zeros(3, dtype=torch.float64), atol=1e-7)


def test_logit_adjustment_grows_with_its_strength_and_changes_nothing_where_classes_are_equal() -> (
    None
):
    counts = np.array([30, 10, 0])
    full, half = logit_offsets(counts, 1.0), logit_offsets(counts, 0.5)
    assert full is not None
    assert half is not None
    assert torch.allclose(half, full / 2)
    assert torch.isfinite(full).all()  # a class without an image, too
    assert logit_offsets(counts, 0.0) is None
    assert logit_offsets(np.array([7, 7, 7]), 1.0) is None


@pytest.mark.parametrize(("sampling", "matters"), [("natural", True), ("csv", False)])
def test_a_run_adjusts_logits_by_what_its_sampling_shows(
    tmp_path: Path, train_tiny: Any, metrics_of: Any, sampling: str, matters: bool
) -> None:
    losses = []
    for strength in (0.0, 1.0):
        out = tmp_path / f"{strength}"
        train_tiny(out, epochs=1, sampling=sampling, logit_adjust=strength)
        losses.append(metrics_of(out)[-1]["train/loss"])
    assert (losses[0] != losses[1]) == matters


def test_class_weights_are_one_over_effective_numbers_and_of_mean_one() -> None:
    counts = np.array([100, 10, 0, 1])
    found = class_weights(counts, 0.9)
    assert found is not None
    # 1 + 0.9 + 0.9^2 + ... of n terms
    effective = [sum(0.9**power for power in range(count)) for count in (100, 10, 1)]
    raw = np.array([1 / each for each in effective])
    assert found[[0, 1, 3]].tolist() == pytest.approx((raw / raw.mean()).tolist(), rel=1e-6)
    assert found[2] == 0


def test_class_weights_go_from_equal_to_inverse_proportion() -> None:
    counts = np.array([30, 10])
    assert class_weights(counts, 0.0) is None
    assert class_weights(np.array([7, 7]), 0.9) is None
    nearly_equal, nearly_inverse = class_weights(counts, 1e-3), class_weights(counts, 1 - 1e-9)
    assert nearly_equal is not None
    assert nearly_inverse is not None
    assert float(nearly_equal[1] / nearly_equal[0]) == pytest.approx(1, abs=1e-6)
    assert float(nearly_inverse[1] / nearly_inverse[0]) == pytest.approx(3, rel=1e-5)
