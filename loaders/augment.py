"""Augmentation as data: every crop, flip and colour factor of a batch, drawn before it is decoded.

The draws come from a counter-based generator keyed by (seed, epoch) and addressed by position in
the epoch, so a sample gets the same augmentation on every back end, on any number of ranks, and
after a resume. Back ends only apply them: crop, resize, window, colour, flip, in this order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CROP_TRIES = 10
"""As torchvision's RandomResizedCrop: rejected draws before it falls back to a central crop."""
DRAWS = 32
"""Uniform numbers reserved a sample: 2 a try, place, flip, colour, and room for more."""
DRAWS_PER_COUNTER = 4
"""64-bit words that Philox yields a counter value."""

EVAL_RESIZE = 440 / 384
"""Shorter side over crop size at evaluation, the baseline's own ratio."""

# NTSC, with the digits that DALI's color_twist uses; its inverse is the numeric one.
RGB_TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]], np.float64
)
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)
CONTRAST_CENTRE = 128.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Strength of each augmentation. The defaults are the baseline's; 0 means none."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the crop over that of the image."""
    crop_ratio: tuple[float, float] = (0.7, 1.33)
    """Width over height of the crop."""
    hflip_prob: float = 0.5
    brightness: float = 0.4
    """The factor is drawn from [1 - x, 1 + x], as for contrast and saturation."""
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    """Largest turn either way, as a share of the full circle: 0.1 is 36 degrees."""

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop scale must lie in (0, 1] and rise, got {self.crop_scale}")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError(f"crop ratio must be positive and rise, got {self.crop_ratio}")
        for name in ("hflip_prob", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must lie in [0, 0.5], got {self.hue}")

    @property
    def has_color(self) -> bool:
        """Whether any colour factor can differ from the identity."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transforms:
    """What to do with each image of a batch; row ``i`` belongs to image ``i``."""

    image_size: int
    """Side of the square result [px]."""
    crops: Ints
    """``(B, 4)`` top, left, height, width of the region of the stored image that is used."""
    sizes: Ints
    """``(B, 2)`` height and width to which that region is resized."""
    windows: Ints
    """``(B, 2)`` top and left of the square window of the resized region that is kept."""
    flips: npt.NDArray[np.bool_]
    """``(B,)`` whether to mirror left and right."""
    colors: npt.NDArray[np.float32] | None
    """``(B, 4)`` brightness, contrast, saturation factors and hue [degrees]; None for no change."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.crops)


def draw_transforms(
    config: AugmentConfig,
    *,
    seed: int,
    epoch: int,
    first_position: int,
    widths: Ints,
    heights: Ints,
    image_size: int,
) -> Transforms:
    """Random transforms for the samples at ``first_position`` and after it in an epoch.

    Crops follow torchvision's RandomResizedCrop (area uniform in ``crop_scale``, ratio log-uniform
    in ``crop_ratio``, ten tries, then the largest central crop of an allowed ratio).

    Args:
        config: Strengths.
        seed: With ``epoch``, the key of the generator.
        epoch: Which epoch.
        first_position: Place of the first sample in the epoch's order.
        widths: ``(B,)`` of the stored images [px].
        heights: ``(B,)`` of the stored images [px].
        image_size: Side of the result [px].
    """
    draws = _uniform(seed, epoch, first_position, len(widths))
    crops = _random_crops(config, draws[:, : 2 * CROP_TRIES + 2], widths, heights)
    at = 2 * CROP_TRIES + 2
    flips = draws[:, at] < config.hflip_prob
    colors = None
    if config.has_color:
        signed = 2 * draws[:, at + 1 : at + 5] - 1
        strengths = [config.brightness, config.contrast, config.saturation, 360 * config.hue]
        colors = (signed * strengths + [1, 1, 1, 0]).astype(np.float32)
    return Transforms(
        image_size=image_size,
        crops=crops,
        sizes=np.full((len(widths), 2), image_size),
        windows=np.zeros((len(widths), 2), np.int64),
        flips=flips,
        colors=colors,
    )


def evaluation_transforms(
    widths: Ints, heights: Ints, image_size: int, resize_size: int
) -> Transforms:
    """Shorter side to ``resize_size``, then the central square of ``image_size``.

    Sizes and offsets are rounded as torchvision's Resize and CenterCrop round them.
    """
    short = np.minimum(widths, heights)
    sizes = np.stack([resize_size * heights // short, resize_size * widths // short], axis=1)
    # Python's and NumPy's round both go to even, as in torchvision's CenterCrop.
    windows = np.rint((sizes - image_size) / 2).astype(np.int64)
    zeros = np.zeros_like(widths)
    return Transforms(
        image_size=image_size,
        crops=np.stack([zeros, zeros, heights, widths], axis=1),
        sizes=sizes,
        windows=windows,
        flips=np.zeros(len(widths), np.bool_),
        colors=None,
    )


def eval_resize_size(image_size: int) -> int:
    """The shorter side that goes with an evaluation crop, 440 for 384."""
    return max(image_size, round(image_size * EVAL_RESIZE))


def color_matrices(colors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``(B, 3, 4)`` affine maps of RGB in [0, 255] that equal DALI's ``color_twist`` to +-1.

    ``out = brightness * (128 - 128 * contrast) + brightness * contrast * hue_saturation @ rgb``,
    with one clamp at the end; hue turns and saturation scales the I and Q axes of YIQ.

    Args:
        colors: ``(B, 4)`` as :attr:`Transforms.colors`.
    """
    brightness, contrast, saturation, hue = colors.astype(np.float64).T
    cos, sin = np.cos(np.deg2rad(hue)) * saturation, np.sin(np.deg2rad(hue)) * saturation
    turn = np.zeros((len(colors), 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2] = cos, sin
    turn[:, 2, 1], turn[:, 2, 2] = -sin, cos
    matrix = (brightness * contrast)[:, None, None] * (YIQ_TO_RGB @ turn @ RGB_TO_YIQ)
    offset = CONTRAST_CENTRE * (1 - contrast) * brightness
    offsets = np.broadcast_to(offset[:, None, None], (len(colors), 3, 1))
    return np.concatenate([matrix, offsets], axis=2).astype(np.float32)


def _uniform(seed: int, epoch: int, first_position: int, count: int) -> Floats:
    """``(count, DRAWS)`` in [0, 1): row ``i`` depends on seed, epoch and position ``first + i``."""
    counters = DRAWS // DRAWS_PER_COUNTER
    # The high key word keeps these draws apart from the ones that shuffle the plan.
    generator = np.random.Philox(
        key=[seed, (1 << 32) + epoch], counter=[first_position * counters, 0, 0, 0]
    )
    raw = generator.random_raw(count * DRAWS).reshape(count, DRAWS)
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53)


def _random_crops(config: AugmentConfig, draws: Floats, widths: Ints, heights: Ints) -> Ints:
    """``(B, 4)`` top, left, height, width."""
    area = (widths * heights)[:, None] * _between(config.crop_scale, draws[:, :CROP_TRIES])
    log_ratio = np.log(config.crop_ratio)
    ratio = np.exp(_between((log_ratio[0], log_ratio[1]), draws[:, CROP_TRIES : 2 * CROP_TRIES]))
    tried_w = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    tried_h = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (tried_w > 0) & (tried_h > 0) & (tried_w <= widths[:, None]) & (
        tried_h <= heights[:, None]
    )  # fmt: skip
    first_fit = fits.argmax(axis=1)[:, None]
    crop_w = np.take_along_axis(tried_w, first_fit, axis=1)[:, 0]
    crop_h = np.take_along_axis(tried_h, first_fit, axis=1)[:, 0]
    top = np.floor(draws[:, 2 * CROP_TRIES] * (heights - crop_h + 1)).astype(np.int64)
    left = np.floor(draws[:, 2 * CROP_TRIES + 1] * (widths - crop_w + 1)).astype(np.int64)

    central_w = np.minimum(widths, np.rint(heights * config.crop_ratio[1]).astype(np.int64))
    central_h = np.minimum(heights, np.rint(widths / config.crop_ratio[0]).astype(np.int64))
    central = np.stack(
        [(heights - central_h) // 2, (widths - central_w) // 2, central_h, central_w], axis=1
    )
    drawn = np.stack([top, left, crop_h, crop_w], axis=1)
    return np.where(np.any(fits, axis=1)[:, None], drawn, central)


def _between(bounds: tuple[float, float], draws: Floats) -> Floats:
    return bounds[0] + (bounds[1] - bounds[0]) * draws
