"""Augmentation as data: every crop, flip, colour factor and rectangle, drawn before decoding.

The draws come from :mod:`loaders.uniform` by seed, epoch and position in the epoch, so a sample gets
the same augmentation on every back end, on any number of ranks, and after a resume. Back ends only
apply them: crop, resize, window, colour, flip, erase, in this order. ``docs/augmentation.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders.uniform import ERASE, IMAGE, Floats, between, log_between, uniform

Ints = npt.NDArray[np.int64]

CROP_TRIES = 10
"""As torchvision's RandomResizedCrop: rejected draws before it falls back to a central crop."""
CROP_PLACE, FLIP, COLOR, GRAYSCALE = 20, 22, 23, 27
"""First columns of the draws of :data:`~loaders.uniform.IMAGE`, behind those of the tries."""
MAX_ALPHA = 100.0
"""Of the Beta distributions of mixing; at 100 the weight stays within 0.5 +- 0.1."""
SATURATION = 2
"""Column of ``Transforms.colors``."""

EVAL_RESIZE = 440 / 384
"""Shorter side over crop size at evaluation, the baseline's own ratio."""

# NTSC, with the digits that DALI's color_twist uses; its inverse is the numeric one.
RGB_TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]], np.float64
)
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)
CONTRAST_CENTRE = 128.0

ERASE_FILL = (124, 116, 104)
"""RGB of an erased rectangle: the mean pixel of ImageNet, the same whatever the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Strength of each augmentation. The defaults are the baseline's; 0 means none."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the crop over that of the image."""
    crop_ratio: tuple[float, float] = (0.7, 1.33)
    """Width over height of the crop."""
    hflip_prob: float = 0.5
    """Of a mirror image, left and right."""
    brightness: float = 0.4
    """The factor is drawn from [1 - x, 1 + x]."""
    contrast: float = 0.4
    """As for brightness."""
    saturation: float = 0.4
    """As for brightness."""
    hue: float = 0.1
    """Largest turn either way, as a share of the full circle: 0.1 is 36 degrees."""
    grayscale_prob: float = 0.0
    """Of saturation 0 in place of a drawn one."""
    erase_prob: float = 0.0
    """Of one rectangle filled with the mean pixel."""
    erase_scale: tuple[float, float] = (0.02, 0.33)
    """Area of the rectangle over that of the result."""
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    """Height over width of the rectangle, as torchvision has it."""
    mixup_prob: float = 0.0
    """Of an average with another image of the batch; each image has one kind of mixing at most."""
    mixup_alpha: float = 0.2
    """Both parameters of the Beta distribution of the image's own weight."""
    cutmix_prob: float = 0.0
    """Of a rectangle from another image of the batch."""
    cutmix_alpha: float = 1.0
    """Both parameters of the Beta distribution of the share that is kept."""

    def __post_init__(self) -> None:
        for what in ("crop", "erase"):
            low, high = scale = getattr(self, f"{what}_scale")
            if not 0 < low <= high <= 1:
                raise ValueError(f"{what} scale must lie in (0, 1] and rise, got {scale}")
            low, high = ratio = getattr(self, f"{what}_ratio")
            if not 0 < low <= high < np.inf:
                raise ValueError(f"{what} ratio must be positive and rise, got {ratio}")
        for name in (
            "hflip_prob", "brightness", "contrast", "saturation",
            "grayscale_prob", "erase_prob", "mixup_prob", "cutmix_prob",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must lie in [0, 0.5], got {self.hue}")
        if self.mixup_prob + self.cutmix_prob > 1:
            raise ValueError(
                "mixup_prob and cutmix_prob must not exceed 1 together, "
                f"got {self.mixup_prob} and {self.cutmix_prob}"
            )
        for name in ("mixup_alpha", "cutmix_alpha"):
            if not 0 < getattr(self, name) <= MAX_ALPHA:
                raise ValueError(f"{name} must lie in (0, {MAX_ALPHA}], got {getattr(self, name)}")

    @property
    def has_color(self) -> bool:
        """Whether any colour factor can differ from the identity."""
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        return any(strengths) or self.grayscale_prob > 0


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
    erasures: Ints | None
    """``(B, 4)`` top, left, height, width of the part of the result that is filled with
    :data:`ERASE_FILL`, all 0 for no part; None where no image has one."""

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
    in ``crop_ratio``, ten tries, then the largest central crop of an allowed ratio). Greyscale is
    saturation 0. Rectangles follow its RandomErasing, but one too long for the image is shortened.

    Args:
        config: Strengths.
        seed: With ``epoch``, the key of the generator.
        epoch: Which epoch.
        first_position: Place of the first sample in the epoch's order.
        widths: ``(B,)`` of the stored images [px].
        heights: ``(B,)`` of the stored images [px].
        image_size: Side of the result [px].
    """
    address = {"seed": seed, "epoch": epoch, "first_position": first_position}
    count = len(widths)
    draws = uniform(IMAGE, **address, count=count)
    erasures = None
    if config.erase_prob > 0:
        erasures = _random_erasures(config, uniform(ERASE, **address, count=count), image_size)
    return Transforms(
        image_size=image_size,
        crops=_random_crops(config, draws, widths, heights),
        sizes=np.full((count, 2), image_size),
        windows=np.zeros((count, 2), np.int64),
        flips=draws[:, FLIP] < config.hflip_prob,
        colors=_random_colors(config, draws) if config.has_color else None,
        erasures=erasures,
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
        erasures=None,
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


def _random_crops(config: AugmentConfig, draws: Floats, widths: Ints, heights: Ints) -> Ints:
    """``(B, 4)`` top, left, height, width."""
    area = (widths * heights)[:, None] * between(config.crop_scale, draws[:, :CROP_TRIES])
    ratio = log_between(config.crop_ratio, draws[:, CROP_TRIES : 2 * CROP_TRIES])
    tried_w = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    tried_h = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (tried_w > 0) & (tried_h > 0) & (tried_w <= widths[:, None]) & (
        tried_h <= heights[:, None]
    )  # fmt: skip
    first_fit = fits.argmax(axis=1)[:, None]
    crop_w = np.take_along_axis(tried_w, first_fit, axis=1)[:, 0]
    crop_h = np.take_along_axis(tried_h, first_fit, axis=1)[:, 0]
    top = _random_starts(draws[:, CROP_PLACE], heights - crop_h)
    left = _random_starts(draws[:, CROP_PLACE + 1], widths - crop_w)

    central_w = np.minimum(widths, np.rint(heights * config.crop_ratio[1]).astype(np.int64))
    central_h = np.minimum(heights, np.rint(widths / config.crop_ratio[0]).astype(np.int64))
    central = np.stack(
        [(heights - central_h) // 2, (widths - central_w) // 2, central_h, central_w], axis=1
    )
    drawn = np.stack([top, left, crop_h, crop_w], axis=1)
    return np.where(np.any(fits, axis=1)[:, None], drawn, central)


def _random_colors(config: AugmentConfig, draws: Floats) -> npt.NDArray[np.float32]:
    """``(B, 4)`` brightness, contrast, saturation, hue [degrees]."""
    signed = 2 * draws[:, COLOR : COLOR + 4] - 1
    strengths = [config.brightness, config.contrast, config.saturation, 360 * config.hue]
    colors = (signed * strengths + [1, 1, 1, 0]).astype(np.float32)
    colors[draws[:, GRAYSCALE] < config.grayscale_prob, SATURATION] = 0
    return colors


def _random_erasures(config: AugmentConfig, draws: Floats, image_size: int) -> Ints:
    """``(B, 4)`` top, left, height, width; all 0 where nothing is erased."""
    area = image_size**2 * between(config.erase_scale, draws[:, 1])
    ratio = log_between(config.erase_ratio, draws[:, 2])
    sides = np.sqrt(np.stack([area * ratio, area / ratio]))
    height, width = np.clip(np.rint(sides), 1, image_size).astype(np.int64)
    top = _random_starts(draws[:, 3], image_size - height)
    left = _random_starts(draws[:, 4], image_size - width)
    erased = draws[:, 0] < config.erase_prob
    return np.where(erased[:, None], np.stack([top, left, height, width], axis=1), 0)


def _random_starts(draws: Floats, room: Ints) -> Ints:
    """Evenly from 0 to ``room``, both included."""
    return np.floor(draws * (room + 1)).astype(np.int64)
