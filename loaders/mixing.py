"""MixUp and CutMix as data: drawn with the batch in NumPy, applied to it on the device.

Back ends know nothing of them: the training loop draws a :class:`Mixing` for a batch and applies it
with :func:`mix`. The partner of an image is its neighbour in the epoch's shuffled order (positions
0 and 1, 2 and 3, ...), so the same two images are mixed in the same way on any number of ranks as
long as each rank's share begins at an even position; an image without its neighbour stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from loaders.augment import AugmentConfig, Ints
from loaders.uniform import MIX, Floats, uniform

QUANTILE_NODES = 4097
"""Points at which a Beta distribution is tabulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """How each image of a batch is mixed with another one; row ``i`` belongs to image ``i``."""

    image_size: int
    """Side of the square images [px]."""
    partners: Ints
    """``(B,)`` index in the batch of the other image; its own where nothing is mixed."""
    blends: npt.NDArray[np.float32]
    """``(B,)`` weight of the own pixels in [0, 1]: MixUp's lambda, else 1."""
    boxes: Ints
    """``(B, 4)`` top, left, height, width of the part taken from the other: CutMix's, else 0."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.partners)

    @property
    def label_weights(self) -> npt.NDArray[np.float32]:
        """``(B,)`` weight of the own label in [0, 1]: the share of own pixels."""
        share = self.boxes[:, 2] * self.boxes[:, 3] / self.image_size**2
        return (self.blends * (1 - share)).astype(np.float32)


class Mixed(NamedTuple):
    """A mixed batch; its loss is ``lam * loss(labels_a) + (1 - lam) * loss(labels_b)``."""

    images: torch.Tensor
    """As they were: shape, dtype, device and memory format."""
    labels_a: torch.Tensor
    """``(B,)`` the images' own."""
    labels_b: torch.Tensor
    """``(B,)`` those of their partners."""
    lam: torch.Tensor
    """``(B,)`` float32, weight of ``labels_a`` for each image."""


def draw_mixing(
    config: AugmentConfig,
    *,
    seed: int,
    epoch: int,
    first_position: int,
    count: int,
    image_size: int,
) -> Mixing | None:
    """The mixing of the samples at ``first_position`` and after it; None where none is wished.

    Each image is drawn by itself: MixUp with ``mixup_prob``, else CutMix with ``cutmix_prob``, else
    nothing. MixUp as in arXiv:1710.09412; CutMix's box as in arXiv:1905.04899: sides of
    ``sqrt(1 - lambda)`` of the image about a uniform centre, cut off at the border.

    Args:
        config: Probabilities and parameters.
        seed: With ``epoch``, the key of the generator.
        epoch: Which epoch.
        first_position: Place of the batch's first sample in the epoch's order.
        count: Images in the batch of this rank.
        image_size: Side of the images [px].
    """
    if not config.mixup_prob + config.cutmix_prob:
        return None
    draws = uniform(MIX, seed=seed, epoch=epoch, first_position=first_position, count=count)
    neighbours = (np.arange(first_position, first_position + count) ^ 1) - first_position
    here = (neighbours >= 0) & (neighbours < count)
    mixup = draws[:, 0] < config.mixup_prob
    cutmix = ~mixup & (draws[:, 0] < config.mixup_prob + config.cutmix_prob)
    mixed = here & (mixup | cutmix)
    blends = np.where(mixed & mixup, beta_quantile(draws[:, 1], config.mixup_alpha), 1)
    boxes = _boxes(beta_quantile(draws[:, 1], config.cutmix_alpha), draws[:, 2:], image_size)
    return Mixing(
        image_size=image_size,
        partners=np.where(mixed, neighbours, np.arange(count)),
        blends=blends.astype(np.float32),
        boxes=np.where((mixed & cutmix)[:, None], boxes, 0),
    )


def mix(images: torch.Tensor, labels: torch.Tensor, mixing: Mixing) -> Mixed:
    """Apply a mixing on the device of the images; nothing waits for the device.

    Args:
        images: ``(B, 3, S, S)`` uint8 or floating, in any memory format; not changed.
        labels: ``(B,)``.
        mixing: Of this batch.

    Raises:
        ValueError: The mixing was drawn for another number or size of images.
    """
    if images.shape[0] != len(mixing) or images.shape[-2:] != (mixing.image_size,) * 2:
        raise ValueError(
            f"the mixing is for {len(mixing)} images of {mixing.image_size} px, "
            f"got a batch of shape {tuple(images.shape)}"
        )

    def put(values: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(values).to(images.device, non_blocking=True)

    partners = put(mixing.partners)
    others = images[partners]
    mixed = images
    # What the batch holds is known on the host: a batch without a kind does not pay for it.
    if (mixing.blends < 1).any():
        mixed = _blend(images, others, put(mixing.blends))
    if mixing.boxes.any():
        mixed = torch.where(_inside(put(mixing.boxes), mixing.image_size), others, mixed)
    return Mixed(mixed, labels, labels[partners], put(mixing.label_weights))


def beta_quantile(probabilities: Floats, alpha: float) -> Floats:
    """The inverse distribution function of Beta(alpha, alpha), uniform numbers to Beta's.

    For alpha 1 it returns what it is given. Else it interpolates in a table of the distribution
    function, which Simpson's rule integrates over [0, 1/2] (the rest is its mirror image) after the
    substitution ``s = t**min(alpha, 1)``, without which the density has a pole at 0 for alpha < 1.

    Args:
        probabilities: In [0, 1).
        alpha: Above 0.

    Returns:
        In [0, 1], non-decreasing in ``probabilities``.
    """
    if alpha == 1:
        return probabilities
    below, points = _beta_table(alpha)
    half = np.interp(np.minimum(probabilities, 1 - probabilities), below, points)
    lower = half ** (1 / min(alpha, 1.0))
    return np.where(probabilities < 0.5, lower, 1 - lower)


@lru_cache(maxsize=8)
def _beta_table(alpha: float) -> tuple[Floats, Floats]:
    """Probabilities from 0 to 1/2, and the points ``s`` below which they lie."""
    power = min(alpha, 1.0)
    nodes = np.linspace(0, 0.5**power, 2 * QUANTILE_NODES - 1)
    # dt = s**(1/power - 1) ds / power; constant factors vanish in the division below.
    density = nodes ** (alpha / power - 1) * (1 - nodes ** (1 / power)) ** (alpha - 1)
    simpson = density[:-2:2] + 4 * density[1::2] + density[2::2]
    below = np.concatenate([[0], np.cumsum(simpson)])
    return below / (2 * below[-1]), nodes[::2]


def _boxes(kept: Floats, centres: Floats, image_size: int) -> Ints:
    """``(B, 4)`` top, left, height, width of squares of area ``1 - kept``, cut off at the border."""
    half = np.floor(image_size * np.sqrt(1 - kept)).astype(np.int64)[:, None] // 2
    centre = np.floor(image_size * centres).astype(np.int64)
    first = np.clip(centre - half, 0, image_size)
    last = np.clip(centre + half, 0, image_size)
    return np.concatenate([first, last - first], axis=1)


def _blend(images: torch.Tensor, others: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """``weight * image + (1 - weight) * other``, in float32 at least; uint8 is rounded."""
    dtype = torch.promote_types(images.dtype, torch.float32)
    blended = torch.lerp(others.to(dtype), images.to(dtype), weights.to(dtype)[:, None, None, None])
    return (blended if images.is_floating_point() else blended.round_()).to(images.dtype)


def _inside(boxes: torch.Tensor, image_size: int) -> torch.Tensor:
    """``(B, 1, S, S)`` where the boxes are."""
    line = torch.arange(image_size, device=boxes.device)
    rows, columns = (
        (line >= boxes[:, axis, None]) & (line < boxes[:, axis, None] + boxes[:, axis + 2, None])
        for axis in (0, 1)
    )
    return rows[:, None, :, None] & columns[:, None, None, :]
