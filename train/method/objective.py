"""What a batch asks of the network: its images, mixed where the recipe says so, and the loss of its answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from loaders.batch import Batch
from loaders.draws import Ids
from loaders.mixing import draw_mixing, mix
from train.config.config import TrainConfig
from train.method.hierarchy import Structure, soft_labels
from train.method.models import Classifier, classifier_layer
from train.method.prototypes import Prototypes


@dataclass(frozen=True, slots=True)
class Target:
    """The labels of a batch: one an image, or two with weights where images were mixed."""

    labels: torch.Tensor
    """``(B,)`` int64."""
    others: torch.Tensor | None = None
    """``(B,)`` int64, labels of the images mixed in."""
    weights: torch.Tensor | None = None
    """``(B,)`` float32 in [0, 1], of ``labels``; the rest is that of ``others``."""

    def part(self, images: slice) -> Target:
        """The target of some of the images."""
        both = (self.others, self.weights)
        return Target(
            self.labels[images], *(each if each is None else each[images] for each in both)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss of a run; all that it needs lies on the device, so that no step waits."""

    label_smoothing: float = 0.0
    """Share of a label's weight that is spread over all classes."""
    logit_offsets: torch.Tensor | None = None
    """``(K,)`` added to the logits; None: nothing is."""
    class_weights: torch.Tensor | None = None
    """``(K,)`` by which the loss of an image counts; None: all alike."""
    soft_labels: torch.Tensor | None = None
    """``(K, K)`` what is asked for in place of each label; None: that class alone."""
    structure: Structure | None = None
    """What is asked of the prototypes themselves."""

    def loss(self, logits: torch.Tensor, target: Target) -> torch.Tensor:
        """Mean cross entropy, a scalar; of mixed images that of both labels by their weights.

        Args:
            logits: ``(B, K)``.
            target: Of the B images.
        """
        if self.logit_offsets is not None:
            logits = logits + self.logit_offsets
        if target.others is None and self.class_weights is None:
            loss = cross_entropy(
                logits, self._asked(target.labels), label_smoothing=self.label_smoothing
            )
        else:
            losses = self._losses(logits, target.labels)
            if target.others is not None and target.weights is not None:
                others = self._losses(logits, target.others)
                losses = target.weights * losses + (1 - target.weights) * others
            loss = losses.mean()
        return loss if self.structure is None else loss + self.structure.loss()

    def _losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = cross_entropy(
            logits, self._asked(labels), label_smoothing=self.label_smoothing, reduction="none"
        )
        return losses if self.class_weights is None else losses * self.class_weights[labels]

    def _asked(self, labels: torch.Tensor) -> torch.Tensor:
        return labels if self.soft_labels is None else self.soft_labels[labels]


def create_objective(
    config: TrainConfig,
    model: Classifier,
    class_counts: Ids,
    tree: torch.Tensor | None,
    device: torch.device,
) -> Objective:
    """The loss of a run.

    Args:
        config: Of the run.
        model: On the device; ends in prototypes where the configuration says so.
        class_counts: ``(K,)`` images of each class that training shows.
        tree: ``(K, K)`` int64 heights of common ancestors, where the loss knows the tree.
        device: Of the model.
    """
    offsets = logit_offsets(class_counts, config.logit_adjust)
    weights = class_weights(class_counts, config.class_balance)
    labels, structure = None, None
    if tree is not None and config.hierarchy_loss == "soft-labels":
        labels = soft_labels(tree, config.hierarchy_beta).to(device)
    if tree is not None and config.hierarchy_loss == "prototypes":
        head = model.backbone.get_submodule(classifier_layer(model.backbone, len(tree)))
        assert isinstance(head, Prototypes)
        heights = tree.to(device, torch.get_default_dtype())
        structure = Structure(head, heights, config.hierarchy_weight)
    return Objective(
        label_smoothing=config.label_smoothing,
        logit_offsets=None if offsets is None else offsets.to(device),
        class_weights=None if weights is None else weights.to(device),
        soft_labels=labels,
        structure=structure,
    )


def logit_offsets(class_counts: Ids, strength: float) -> torch.Tensor | None:
    """What is added to the logits in training, so that rare classes are not answered too rarely.

    Logit adjustment: a network trained on ``logits + strength * log(share of the class)`` gives, by its
    bare logits and at strength 1, the answers that are best for all classes alike. Shares are those of
    the images that training shows: where the sampling makes them equal, nothing changes.

    Args:
        class_counts: ``(K,)`` images of each class that training shows.
        strength: tau of the source, at least 0.

    Returns:
        ``(K,)`` float32, at most 0; None where all would be the same. A class without an image counts as
        if it had one: no loss becomes infinite.

    References:
        Menon et al., "Long-tail learning via logit adjustment" (arXiv:2007.07314), equation 10.
    """
    counts = np.maximum(class_counts, 1)
    if strength == 0 or (counts == counts[0]).all():
        return None
    return torch.from_numpy(strength * np.log(counts / counts.sum())).float()


def class_weights(class_counts: Ids, beta: float) -> torch.Tensor | None:
    """What the loss of an image of each class counts: more where there are few.

    ``(1 - beta) / (1 - beta^n)`` for a class of n images, brought to mean 1: one over the effective
    number of its images, as each further one shows less that is new.

    Args:
        class_counts: ``(K,)`` images of each class that training shows.
        beta: In [0, 1): at 0 all classes count alike, towards 1 in inverse proportion to n.

    Returns:
        ``(K,)`` float32, of mean 1 over the classes that have an image, 0 for the others; None where all
        would be the same.

    References:
        Cui et al., "Class-Balanced Loss Based on Effective Number of Samples" (arXiv:1901.05555),
        section 4.
    """
    present = class_counts > 0
    counts = class_counts[present]
    if beta == 0 or (counts == counts[0]).all():
        return None
    weights = np.zeros(len(class_counts))
    weights[present] = (1 - beta) / -np.expm1(counts * np.log(beta))
    return torch.from_numpy(weights / weights[present].mean()).float()


def prepare(
    batch: Batch, config: TrainConfig, *, epoch: int, first_position: int
) -> tuple[torch.Tensor, Target]:
    """The images to show and what to ask of them, on the batch's own device.

    Args:
        batch: As the loader gave it.
        config: Of the run: how images are mixed, if at all.
        epoch: The batch's.
        first_position: Place of its first image in the order of the epoch.
    """
    mixing = draw_mixing(
        config.augment,
        seed=config.seed,
        epoch=epoch,
        first_position=first_position,
        count=len(batch),
        image_size=batch.images.shape[-1],
    )
    if mixing is None:
        return batch.images, Target(batch.labels)
    mixed = mix(batch.images, batch.labels, mixing)
    return mixed.images, Target(mixed.labels_a, mixed.labels_b, mixed.lam)


def micro_batches(
    images: torch.Tensor, target: Target, size: int | None
) -> Iterator[tuple[torch.Tensor, Target, float]]:
    """The parts of a batch that pass through the network one after the other.

    Gradients of the parts' mean losses, each times its share of the images, add up to the gradient of
    the batch's mean loss, up to rounding; batch normalisation alone sees the parts.

    Args:
        images: ``(B, ...)``.
        target: Of these images.
        size: Images of a part, the last one may have fewer; None: the batch is one part.
    """
    count = len(images)
    if size is None or size >= count:
        yield images, target, 1.0
        return
    for first in range(0, count, size):
        part = slice(first, first + size)
        yield images[part], target.part(part), len(images[part]) / count
