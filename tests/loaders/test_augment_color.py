"""Colour as one matrix: what each factor does, and DALI's ``color_twist`` as its twin."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from loaders.augment import color_matrices

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Colors = npt.NDArray[np.float32]
LUMA = (0.299, 0.587, 0.114)
"""The first row of NTSC's YIQ matrix."""


def colored(
    rgb: list[float], *, brightness: float = 1, contrast: float = 1, saturation: float = 1,
    hue: float = 0,
) -> Floats:  # fmt: skip
    factors = np.array([[brightness, contrast, saturation, hue]], np.float32)
    matrix = color_matrices(factors)[0].astype(float)
    return np.asarray(matrix[:, :3] @ rgb + matrix[:, 3])


class TestColorMatrices:
    """Within 0.6 of 255: NTSC's matrix has three digits, and DALI's is the same."""

    def test_factors_of_one_change_nothing(self) -> None:
        np.testing.assert_allclose(colored([12, 200, 99]), [12, 200, 99], atol=1e-3)

    def test_brightness_scales(self) -> None:
        np.testing.assert_allclose(colored([10, 20, 30], brightness=1.5), [15, 30, 45], atol=1e-3)

    def test_contrast_turns_about_128(self) -> None:
        np.testing.assert_allclose(colored([128, 28, 228], contrast=0.5), [128, 78, 178], atol=1e-3)

    def test_no_saturation_is_the_luma_of_each_pixel(self) -> None:
        luma = 0.299 * 10 + 0.587 * 200 + 0.114 * 90
        np.testing.assert_allclose(colored([10, 200, 90], saturation=0), [luma] * 3, atol=0.6)

    @pytest.mark.parametrize("hue", [-120, 30, 180])
    def test_hue_keeps_grey_and_luma(self, hue: float) -> None:
        np.testing.assert_allclose(colored([90, 90, 90], hue=hue), [90, 90, 90], atol=0.6)
        luma = np.array([0.299, 0.587, 0.114])
        assert luma @ colored([10, 200, 90], hue=hue) == pytest.approx(
            luma @ [10, 200, 90], abs=0.3
        )

    def test_a_third_of_the_circle_turns_red_towards_green_as_torchvision_does(self) -> None:
        red = torch.tensor([200, 20, 20], dtype=torch.uint8)[:, None, None]
        reference = v2.functional.adjust_hue(red, 1 / 3).flatten().tolist()
        assert np.argmax(reference) == np.argmax(colored([200, 20, 20], hue=120)) == 1

    def test_a_full_circle_changes_nothing(self) -> None:
        np.testing.assert_allclose(colored([12, 200, 99], hue=360), [12, 200, 99], atol=1e-2)


def test_greyscale_has_the_weights_of_yiq() -> None:
    matrix = color_matrices(np.array([[1, 1, 0, 0]], np.float32))[0]
    np.testing.assert_allclose(matrix[:, :3], [LUMA] * 3, atol=2e-3)
    np.testing.assert_allclose(matrix[:, 3], 0, atol=1e-6)


@given(hue=st.floats(-180, 180))
def test_greyscale_is_the_same_at_any_hue(hue: float) -> None:
    plain, turned = color_matrices(np.array([[1, 1, 0, 0], [1, 1, 0, hue]], np.float32))
    np.testing.assert_allclose(plain, turned, atol=1e-6)


def test_greyscale_is_that_of_pillow_to_one_step() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    matrix = color_matrices(np.array([[1, 1, 0, 0]], np.float32))[0]
    ours = cv2.transform(image, matrix).astype(int)
    pillow = np.asarray(Image.fromarray(image).convert("L"), int)
    assert np.abs(ours - pillow[..., None]).max() <= 1


Twist = Callable[[Pixels, Colors], Pixels]
BATCH = 4


@pytest.fixture(scope="module")
def twist() -> Twist:
    """``twist(images, colors)``: DALI's operator on the CPU, on four images at a time."""
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    from loaders import dali as backend

    feed: list[npt.NDArray[np.generic]] = []
    pipeline = backend.dali.Pipeline(
        batch_size=BATCH, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_dynamic=True
    )
    with pipeline:
        data, *nodes = backend.fn.external_source(
            source=lambda: feed, num_outputs=5, layout=["HWC"]
        )
        named = dict(zip(backend.COLOR_FACTORS, nodes, strict=True))
        pipeline.set_outputs(backend.fn.color_twist(data, **named))
    pipeline.build()

    def run(images: Pixels, colors: Colors) -> Pixels:
        feed[:] = [images, *(np.ascontiguousarray(column) for column in colors.T)]
        (output,) = pipeline.run()
        return np.array(output.as_tensor())

    return run


def drawn_factors() -> st.SearchStrategy[list[float]]:
    """All that an AugmentConfig can lead to, its ends and 1 as often as what lies between."""
    factor = st.sampled_from([0.0, 1.0, 2.0]) | st.floats(0, 2, width=32)
    hue = st.sampled_from([-180.0, 0.0, 180.0]) | st.floats(-180, 180, width=32)
    return st.tuples(factor, factor, factor, hue).map(list)


@pytest.mark.dali
@given(factors=st.lists(drawn_factors(), min_size=BATCH, max_size=BATCH), seed=st.integers(0, 1000))
def test_color_twist_equals_the_matrix_to_one_step_at_any_strength(
    twist: Twist, factors: list[list[float]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (BATCH, 16, 16, 3), dtype=np.uint8)
    images[:, 0], images[:, 1] = 0, 255
    colors = np.array(factors, np.float32)
    wanted = np.stack(
        [cv2.transform(*pair) for pair in zip(images, color_matrices(colors), strict=True)]
    )
    assert np.abs(twist(images, colors).astype(int) - wanted).max() <= 1


@pytest.mark.dali
def test_greyscale_through_dali_has_equal_channels_to_one_step(twist: Twist) -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
    grey = twist(images, np.array([[1, 1, 0, 0]] * BATCH, np.float32)).astype(int)
    assert np.ptp(grey, axis=-1).max() <= 1
    assert np.abs(grey - (images @ np.array(LUMA))[..., None]).max() <= 1.5
