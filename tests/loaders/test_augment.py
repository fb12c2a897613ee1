"""Augmentation as data: drawn like torchvision's, the same however an epoch is cut into batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from loaders.augment import (
    AugmentConfig,
    Transforms,
    draw_transforms,
    eval_resize_size,
    evaluation_transforms,
)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
SIDES = st.integers(1, 3000)
DRAWN = 4000


def draw(widths: Any, heights: Any, config: AugmentConfig | None = None, **at: int) -> Transforms:
    place = {"seed": 1, "epoch": 0, "first_position": 0} | at
    return draw_transforms(
        config or AugmentConfig(),
        widths=np.asarray(widths, np.int64),
        heights=np.asarray(heights, np.int64),
        image_size=64,
        **place,
    )


@given(
    sides=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=20),
    scale=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(lambda pair: tuple(sorted(pair))),
    seed=st.integers(0, 2**31),
)
def test_crops_lie_inside_their_image_and_are_not_empty(
    sides: list[tuple[int, int]], scale: tuple[float, float], seed: int
) -> None:
    widths, heights = np.array(sides).T
    crops = draw(widths, heights, AugmentConfig(crop_scale=scale), seed=seed).crops
    top, left, height, width = crops.T
    assert np.all((height >= 1) & (width >= 1) & (top >= 0) & (left >= 0))
    assert np.all((top + height <= heights) & (left + width <= widths))


def largest_gap(one: Floats, other: Floats) -> float:
    """Between two cumulative distributions: the Kolmogorov-Smirnov statistic."""
    points = np.sort(np.concatenate([one, other]))
    ranks = [
        np.searchsorted(np.sort(each), points, side="right") / len(each) for each in (one, other)
    ]
    return float(np.abs(ranks[0] - ranks[1]).max())


@pytest.mark.parametrize(("width", "height"), [(500, 333), (400, 400), (200, 900)])
def test_crops_are_distributed_as_those_of_torchvision(width: int, height: int) -> None:
    config = AugmentConfig()
    ours = draw(np.full(DRAWN, width), np.full(DRAWN, height), config).crops.astype(float)
    torch.manual_seed(0)
    reference = v2.RandomResizedCrop(64, scale=config.crop_scale, ratio=config.crop_ratio)
    image = torch.empty(3, height, width)
    drawn = [reference.make_params([image]) for _ in range(DRAWN)]
    theirs = np.array(
        [[each[name] for name in ("top", "left", "height", "width")] for each in drawn], float
    )
    quantities = {
        "area": lambda crops: crops[:, 2] * crops[:, 3],
        "ratio": lambda crops: crops[:, 3] / crops[:, 2],
        "top": lambda crops: crops[:, 0],
        "left": lambda crops: crops[:, 1],
    }
    for name, quantity in quantities.items():
        # 99.9 % of pairs of samples of one distribution stay below 1.95 sqrt(2 / n).
        assert largest_gap(quantity(ours), quantity(theirs)) < 1.95 * (2 / DRAWN) ** 0.5, name


@pytest.mark.parametrize(("width", "height"), [(2000, 10), (10, 2000), (1, 1)])
def test_where_no_crop_fits_it_is_central_as_in_torchvision(width: int, height: int) -> None:
    config = AugmentConfig(crop_scale=(0.9, 1.0))
    reference = v2.RandomResizedCrop(64, scale=config.crop_scale, ratio=config.crop_ratio)
    params = reference.make_params([torch.empty(3, height, width)])
    expected = [params[name] for name in ("top", "left", "height", "width")]
    assert draw([width], [height], config).crops.tolist() == [expected]


def test_flips_occur_with_their_probability() -> None:
    many = np.full(DRAWN, 100)
    share = draw(many, many, AugmentConfig(hflip_prob=0.3)).flips.mean()
    assert abs(share - 0.3) < 0.03
    assert not draw(many, many, AugmentConfig(hflip_prob=0)).flips.any()
    assert draw(many, many, AugmentConfig(hflip_prob=1)).flips.all()


def test_colour_factors_fill_their_ranges_evenly() -> None:
    many = np.full(DRAWN, 100)
    config = AugmentConfig(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1)
    colors = draw(many, many, config).colors
    assert colors is not None
    lows, highs = [0.6, 0.7, 0.8, -36.0], [1.4, 1.3, 1.2, 36.0]
    evenly = (np.arange(DRAWN) + 0.5) / DRAWN
    for values, low, high in zip(colors.T.astype(float), lows, highs, strict=True):
        assert largest_gap((values - low) / (high - low), evenly) < 1.95 * (2 / DRAWN) ** 0.5


def test_draws_of_crop_flip_and_colour_are_not_correlated() -> None:
    many = np.full(DRAWN, 1000)
    drawn = draw(many, many)
    assert drawn.colors is not None
    columns = np.column_stack([drawn.crops[:, 2:], drawn.flips, drawn.colors])
    correlations = np.corrcoef(columns.T) - np.eye(7)
    correlations[0, 1] = correlations[1, 0] = 0  # height and width share their area
    assert np.abs(correlations).max() < 0.08


def test_strength_zero_is_the_identity() -> None:
    nothing = AugmentConfig(
        crop_scale=(1, 1), crop_ratio=(1, 1), hflip_prob=0,
        brightness=0, contrast=0, saturation=0, hue=0,
        grayscale_prob=0, erase_prob=0, mixup_prob=0, cutmix_prob=0,
    )  # fmt: skip
    drawn = draw([80, 300], [80, 300], nothing)
    assert drawn.crops.tolist() == [[0, 0, 80, 80], [0, 0, 300, 300]]
    assert not drawn.flips.any()
    assert drawn.colors is None
    assert drawn.erasures is None
    assert not nothing.has_color


def test_the_baseline_has_neither_greyscale_nor_erasing_nor_mixing() -> None:
    baseline = AugmentConfig()
    assert baseline.grayscale_prob == baseline.erase_prob == 0
    assert baseline.mixup_prob == baseline.cutmix_prob == 0


def test_switching_an_augmentation_on_moves_no_other_draw() -> None:
    sides = np.full(50, 300)
    plain = draw(sides, sides)
    more = draw(sides, sides, AugmentConfig(grayscale_prob=0.5, erase_prob=0.5))
    np.testing.assert_array_equal(plain.crops, more.crops)
    np.testing.assert_array_equal(plain.flips, more.flips)
    assert plain.colors is not None
    assert more.colors is not None
    np.testing.assert_array_equal(plain.colors[:, [0, 1, 3]], more.colors[:, [0, 1, 3]])


def test_greyscale_is_saturation_0_with_its_probability() -> None:
    many = np.full(DRAWN, 100)
    colors = draw(many, many, AugmentConfig(grayscale_prob=0.2)).colors
    assert colors is not None
    assert abs((colors[:, 2] == 0).mean() - 0.2) < 0.03
    alone = AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0, grayscale_prob=1)
    assert alone.has_color
    only_grey = draw([5, 6], [5, 6], alone).colors
    assert only_grey is not None
    assert only_grey.tolist() == [[1, 1, 0, 0]] * 2


class TestErasing:
    """Rectangles in the result, as torchvision's RandomErasing draws them."""

    def erasures(self, count: int, **options: Any) -> Ints:
        sides = np.full(count, 100)
        drawn = draw(sides, sides, AugmentConfig(**{"erase_prob": 1} | options)).erasures
        assert drawn is not None
        return drawn

    @given(
        scale=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(lambda pair: sorted(pair)),
        ratio=st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)).map(lambda pair: sorted(pair)),
    )
    def test_rectangles_lie_inside_the_result_and_are_not_empty(
        self, scale: list[float], ratio: list[float]
    ) -> None:
        top, left, height, width = self.erasures(
            50, erase_scale=tuple(scale), erase_ratio=tuple(ratio)
        ).T
        assert np.all((height >= 1) & (width >= 1) & (top >= 0) & (left >= 0))
        assert np.all((top + height <= 64) & (left + width <= 64))

    def test_the_probability_is_kept_and_the_others_have_none(self) -> None:
        erasures = self.erasures(DRAWN, erase_prob=0.3)
        erased = erasures.any(axis=1)
        assert abs(erased.mean() - 0.3) < 0.03
        assert np.all(erasures[erased, 2:] > 0)

    def test_area_and_ratio_are_distributed_as_those_of_torchvision(self) -> None:
        # Few of these are too long for the image, which torchvision draws again.
        config = {"erase_scale": (0.02, 0.2), "erase_ratio": (0.5, 2.0)}
        ours = self.erasures(DRAWN, **config).astype(float)
        torch.manual_seed(0)
        reference = v2.RandomErasing(1, config["erase_scale"], config["erase_ratio"])
        image = torch.empty(3, 64, 64)
        drawn = [reference.make_params([image]) for _ in range(DRAWN)]
        theirs = np.array([[each[name] for name in "ijhw"] for each in drawn], float)
        for name, quantity in {
            "area": lambda boxes: boxes[:, 2] * boxes[:, 3],
            "ratio": lambda boxes: boxes[:, 2] / boxes[:, 3],
            "top": lambda boxes: boxes[:, 0],
            "left": lambda boxes: boxes[:, 1],
        }.items():
            assert largest_gap(quantity(ours), quantity(theirs)) < 1.95 * (2 / DRAWN) ** 0.5, name


@given(
    sides=st.lists(st.tuples(SIDES, SIDES), min_size=2, max_size=12),
    cut=st.integers(0, 12),
    first=st.integers(0, 2**40),
)
def test_draws_are_the_same_wherever_batches_begin(
    sides: list[tuple[int, int]], cut: int, first: int
) -> None:
    widths, heights = np.array(sides).T
    config = AugmentConfig(grayscale_prob=0.5, erase_prob=0.5)
    whole = draw(widths, heights, config, first_position=first)
    parts = [
        draw(widths[:cut], heights[:cut], config, first_position=first),
        draw(widths[cut:], heights[cut:], config, first_position=first + cut),
    ]
    for name in ("crops", "flips", "colors", "erasures"):
        joined = np.concatenate([getattr(part, name) for part in parts[: 1 + (cut < len(sides))]])
        np.testing.assert_array_equal(joined, getattr(whole, name))


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 1}, {"first_position": 8}])
def test_seed_epoch_and_position_each_give_other_draws(change: dict[str, int]) -> None:
    sides = np.full(8, 500)
    assert not (draw(sides, sides).crops == draw(sides, sides, **change).crops).all(axis=1).any()


def test_draws_are_the_same_on_every_machine() -> None:
    config = AugmentConfig(erase_prob=1)
    drawn = draw([500], [333], config, seed=12345, epoch=3, first_position=100)
    assert drawn.crops.tolist() == [[89, 251, 149, 152]]
    assert drawn.erasures is not None
    assert drawn.erasures.tolist() == [[6, 0, 20, 48]]


def test_a_training_crop_is_resized_to_the_square_whole() -> None:
    drawn = draw([500, 90], [333, 100])
    assert drawn.sizes.tolist() == [[64, 64]] * 2
    assert drawn.windows.tolist() == [[0, 0]] * 2
    assert len(drawn) == 2


@given(width=st.integers(1, 700), height=st.integers(1, 700), crop=st.integers(1, 64))
def test_evaluation_geometry_is_that_of_torchvisions_resize_and_centre_crop(
    width: int, height: int, crop: int
) -> None:
    if max(width, height) > 20 * min(width, height):  # keeps the reference small
        return
    resize = eval_resize_size(crop)
    ours = evaluation_transforms(np.array([width]), np.array([height]), crop, resize)
    resized = v2.functional.resize(torch.empty(1, height, width, dtype=torch.uint8), [resize])
    assert ours.sizes.tolist() == [list(resized.shape[1:])]
    rows = torch.arange(resized.shape[1])[:, None].expand(*resized.shape[1:])
    columns = torch.arange(resized.shape[2])[None, :].expand(*resized.shape[1:])
    kept = v2.functional.center_crop(torch.stack([rows, columns]), [crop, crop])
    assert ours.windows.tolist() == [kept[:, 0, 0].tolist()]
    assert ours.crops.tolist() == [[0, 0, height, width]]
    assert ours.colors is None
    assert not ours.flips.any()


@pytest.mark.parametrize(("crop", "resize"), [(384, 440), (224, 257), (128, 147), (1, 1)])
def test_evaluation_resizes_as_440_is_to_384(crop: int, resize: int) -> None:
    assert eval_resize_size(crop) == resize


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_scale": (0, 1)}, "crop scale must lie in"),
        ({"crop_scale": (0.5, 0.4)}, "crop scale must lie in"),
        ({"crop_ratio": (-1, 1)}, "crop ratio must be positive"),
        ({"hflip_prob": 1.5}, "hflip_prob must lie in"),
        ({"brightness": -0.1}, "brightness must lie in"),
        ({"hue": 0.6}, r"hue must lie in \[0, 0.5\], got 0.6"),
        ({"grayscale_prob": 2}, r"grayscale_prob must lie in \[0, 1\], got 2"),
        ({"erase_prob": float("nan")}, r"erase_prob must lie in \[0, 1\], got nan"),
        ({"erase_scale": (0, 0.3)}, "erase scale must lie in"),
        ({"erase_ratio": (2, 1)}, "erase ratio must be positive and rise"),
        ({"mixup_alpha": 0}, r"mixup_alpha must lie in \(0, 100.0\], got 0"),
        ({"cutmix_alpha": 101}, r"cutmix_alpha must lie in \(0, 100.0\], got 101"),
        ({"mixup_prob": 0.6, "cutmix_prob": 0.5}, "must not exceed 1 together, got 0.6 and 0.5"),
    ],
)
def test_impossible_strengths_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**options)
