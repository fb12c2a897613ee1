"""One photograph in, one JPEG that every back end decodes out."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from preprocess.image import ImageOptions, store_image
from tests.preprocess.image_kinds import (
    HEIGHT,
    KINDS,
    LOSSY,
    OPTIONS,
    PASSED_THROUGH,
    SMALLER,
    WIDTH,
    Photo,
    Pixels,
    decode,
    mean_difference,
    save,
    write_cv2,
)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in PASSED_THROUGH])
def test_other_kinds_are_converted_to_the_pixels_they_mean(kind: str, pixels: Pixels) -> None:
    data, expected = KINDS[kind](pixels)
    stored = store_image(data, OPTIONS)
    assert (stored.how, stored.width, stored.height) == ("converted", WIDTH, HEIGHT)
    assert mean_difference(stored, expected) <= (LOSSY if "jpeg" in kind else 0)


@pytest.mark.parametrize("kind", PASSED_THROUGH)
def test_a_baseline_jpeg_that_fits_passes_through_byte_for_byte(kind: str, pixels: Pixels) -> None:
    data, _ = KINDS[kind](pixels)
    stored = store_image(data, OPTIONS)
    assert (stored.how, stored.payload) == ("passed_through", data)


def test_bytes_behind_the_end_of_a_jpeg_are_harmless(pixels: Pixels) -> None:
    data = KINDS["baseline jpeg 420"](pixels)[0] + b"SEFHe trailer of a telephone" * 9
    assert store_image(data, OPTIONS).payload == data


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_resized_to_the_short_side(kind: str, pixels: Pixels) -> None:
    data, expected = KINDS[kind](pixels)
    stored = store_image(data, SMALLER)
    small = Image.fromarray(np.ascontiguousarray(expected)).resize(
        (64, 48), Image.Resampling.BICUBIC
    )
    assert (stored.how, stored.width, stored.height) == ("resized", 64, 48)
    assert mean_difference(stored, np.asarray(small)) <= (LOSSY if "jpeg" in kind else 0)


@pytest.mark.parametrize("options", [OPTIONS, SMALLER], ids=["kept size", "resized"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_stored_image_is_a_baseline_jpeg_that_opencv_and_pillow_decode_alike(
    kind: str, options: ImageOptions, pixels: Pixels
) -> None:
    stored = store_image(KINDS[kind](pixels)[0], options)
    image = Image.open(io.BytesIO(stored.payload))
    assert (image.format, image.mode, "progressive" in image.info) == ("JPEG", "RGB", False)
    assert image.size == (stored.width, stored.height)
    by_opencv = cv2.imdecode(np.frombuffer(stored.payload, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(by_opencv, np.asarray(image))
    by_simplejpeg = simplejpeg.decode_jpeg(stored.payload, strict=False)
    np.testing.assert_array_equal(by_simplejpeg, np.asarray(image))


@pytest.mark.dali
def test_dali_decodes_every_stored_image_as_pillow_does(pixels: Pixels) -> None:
    from nvidia.dali import fn, pipeline_def

    payloads = [
        store_image(make(pixels)[0], options).payload
        for make in KINDS.values()
        for options in (OPTIONS, SMALLER)
    ]

    @pipeline_def(batch_size=len(payloads), num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> object:
        encoded = fn.external_source(
            source=lambda: [np.frombuffer(each, np.uint8) for each in payloads], batch=True
        )
        return fn.decoders.image(
            encoded, device="cpu", adjust_orientation=False, jpeg_fancy_upsampling=True
        )

    pipe = pipeline()
    pipe.build()
    (images,) = pipe.run()
    for at, payload in enumerate(payloads):
        np.testing.assert_array_equal(np.asarray(images[at]), decode(payload))


@given(width=st.integers(1, 300), height=st.integers(1, 300), short_side=st.integers(16, 80))
def test_the_short_side_shrinks_to_the_target_and_never_grows(
    width: int, height: int, short_side: int, photo: Photo
) -> None:
    pixels = photo(np.random.default_rng(1), width, height)
    stored = store_image(write_cv2(".png", pixels), ImageOptions(short_side=short_side))
    short = min(width, height)
    if short <= short_side:
        assert (stored.width, stored.height) == (width, height)
    else:
        assert min(stored.width, stored.height) == short_side
        assert abs(stored.width - width * short_side / short) <= 0.5
        assert abs(stored.height - height * short_side / short) <= 0.5
    assert decode(stored.payload).shape == (stored.height, stored.width, 3)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (1, 500), (16, 16)])
def test_small_and_narrow_images_keep_their_size(
    size: tuple[int, int], photo: Photo, rng: np.random.Generator, jpeg: Callable[..., bytes]
) -> None:
    stored = store_image(jpeg(photo(rng, *size)), OPTIONS)
    assert (stored.how, stored.width, stored.height) == ("passed_through", *size)


def test_a_jpeg_many_times_too_large_is_resized_as_well_as_a_decoded_one(
    photo: Photo, rng: np.random.Generator
) -> None:
    pixels = photo(rng, 801, 603)
    stored = store_image(save(Image.fromarray(pixels), "JPEG", quality=95), SMALLER)
    direct = Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC)
    assert (stored.width, stored.height) == (64, 48)
    assert mean_difference(stored, np.asarray(direct)) < LOSSY


@pytest.mark.parametrize("options", [OPTIONS, SMALLER], ids=["kept size", "resized"])
@pytest.mark.parametrize("size", [(160, 60), (360, 300)], ids=["every row", "every fourth row"])
def test_statistics_are_near_those_of_the_stored_pixels(
    size: tuple[int, int], options: ImageOptions, photo: Photo, rng: np.random.Generator
) -> None:
    stored = store_image(KINDS["baseline jpeg 420"](photo(rng, *size))[0], options)
    values = decode(stored.payload).reshape(-1, 3) / 255
    assert stored.mean is not None
    assert stored.mean_square is not None
    tolerance = 0.002 if stored.how == "passed_through" else 0.005
    np.testing.assert_allclose(stored.mean, values.mean(axis=0), atol=tolerance)
    np.testing.assert_allclose(stored.mean_square, (values**2).mean(axis=0), atol=tolerance)


def test_statistics_are_exactly_those_of_the_rows_they_look_at(
    photo: Photo, rng: np.random.Generator
) -> None:
    stored = store_image(
        write_cv2(".png", photo(rng, 200, 400)), ImageOptions(raw_share=1.0), "raw"
    )
    rows = np.load(io.BytesIO(stored.payload))[1::6] / 255  # 400 rows: from 1 to 397
    np.testing.assert_allclose(stored.mean or (), rows.mean(axis=(0, 1)), atol=1e-12)
    np.testing.assert_allclose(stored.mean_square or (), (rows**2).mean(axis=(0, 1)), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_does_not_depend_on_whether_statistics_are_wanted(
    kind: str, pixels: Pixels
) -> None:
    data, _ = KINDS[kind](pixels)
    stored = store_image(data, OPTIONS)
    without = store_image(data, OPTIONS, statistics=False)
    assert without == replace(stored, mean=None, mean_square=None)


def test_a_lower_quality_gives_a_smaller_file(pixels: Pixels) -> None:
    data, _ = KINDS["png"](pixels)
    low, high = (store_image(data, ImageOptions(quality=quality)) for quality in (50, 95))
    assert len(low.payload) < len(high.payload)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 15}, "short side must be at least 16 px, got 15"),
        ({"quality": 0}, "JPEG quality must be 1 to 100, got 0"),
        ({"quality": 101}, "JPEG quality must be 1 to 100, got 101"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageOptions(**options)
