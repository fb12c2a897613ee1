"""One photograph in, one JPEG that every back end decodes out, or the reason why not."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from preprocess.encode import encode_jpeg
from preprocess.image import ImageOptions, StoredImage, store_image
from preprocess.rejected import RejectedImage

Pixels = npt.NDArray[np.uint8]
Photo = Callable[[np.random.Generator, int, int], Pixels]

WIDTH, HEIGHT = 160, 120
OPTIONS = ImageOptions(short_side=440)
SMALLER = ImageOptions(short_side=48)
LOSSY = 4.0
"""Mean difference of 255 allowed where the file itself is a JPEG of quality 92; up to 3.1 occurs.

A wrong turn, mirror image, colour order or inversion gives more than 20.
"""


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(payload: bytes) -> npt.NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(payload)).convert("RGB"), np.int16)


def mean_difference(stored: StoredImage, expected: npt.NDArray[Any]) -> float:
    """Of 255, from what the expected pixels become as a stored JPEG."""
    pixels = np.ascontiguousarray(expected, np.uint8)
    ideal = decode(encode_jpeg(pixels, 90, "420"))
    assert (stored.height, stored.width) == ideal.shape[:2]
    return float(np.abs(decode(stored.payload) - ideal).mean())


def write_cv2(extension: str, pixels: npt.NDArray[Any]) -> bytes:
    """Encode BGR or grey pixels with OpenCV, whose codecs are in its wheel."""
    ok, data = cv2.imencode(extension, pixels)
    assert ok
    return bytes(data)


def without_adobe(data: bytes) -> bytes:
    """Drop the APP14 segment."""
    at = data.index(b"\xff\xee\x00\x0eAdobe")
    return data[:at] + data[at + 16 :]


def grey(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels).convert("L")


def as_rgb(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def inks(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels).convert("CMYK")


def palette(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE)


def with_alpha(pixels: Pixels) -> Image.Image:
    alpha = np.linspace(0, 255, pixels.shape[1]).astype(np.uint8)
    return Image.fromarray(np.dstack([pixels, np.broadcast_to(alpha, pixels.shape[:2])]))


# Kind -> the file's bytes and the pixels it means; all but the first two are encoded anew.
KINDS: dict[str, Callable[[Pixels], tuple[bytes, Pixels]]] = {
    "baseline jpeg 420": lambda p: (save(Image.fromarray(p), "JPEG", quality=92), p),
    "baseline jpeg 444": lambda p: (save(Image.fromarray(p), "JPEG", quality=92, subsampling=0), p),
    "grey jpeg": lambda p: (save(grey(p), "JPEG", quality=92), as_rgb(grey(p))),
    "cmyk jpeg": lambda p: (save(inks(p), "JPEG", quality=92), as_rgb(inks(p))),
    "cmyk jpeg without adobe segment": lambda p: (
        without_adobe(save(Image.fromarray(255 - np.asarray(inks(p)), "CMYK"), "JPEG", quality=92)),
        as_rgb(inks(p)),
    ),
    "ycck jpeg": lambda p: (
        simplejpeg.encode_jpeg(255 - np.asarray(inks(p)), 92, "CMYK"),
        as_rgb(inks(p)),
    ),
    "rgb jpeg": lambda p: (rgb_jpeg(p), p),
    "progressive jpeg": lambda p: (
        save(Image.fromarray(p), "JPEG", quality=92, progressive=True),
        p,
    ),
    "png": lambda p: (save(Image.fromarray(p), "PNG"), p),
    "grey png": lambda p: (save(grey(p), "PNG"), as_rgb(grey(p))),
    "palette png": lambda p: (save(palette(p), "PNG"), as_rgb(palette(p))),
    "png with alpha": lambda p: (save(with_alpha(p), "PNG"), p),
    "grey png with alpha": lambda p: (save(with_alpha(p).convert("LA"), "PNG"), as_rgb(grey(p))),
    "1-bit png": lambda p: (
        save(Image.fromarray(p[..., 0] > 100), "PNG"),
        np.repeat((p[..., :1] > 100) * np.uint8(255), 3, axis=2),
    ),
    "16-bit png": lambda p: (write_cv2(".png", p[..., ::-1].astype(np.uint16) * 257), p),
    "16-bit grey png": lambda p: (
        write_cv2(".png", p[..., 0].astype(np.uint16) * 257),
        np.repeat(p[..., :1], 3, axis=2),
    ),
    "interlaced png": lambda p: (interlaced_png(p), p),
    "gif": lambda p: (save(palette(p), "GIF"), as_rgb(palette(p))),
    "animated gif": lambda p: (
        save(palette(p), "GIF", save_all=True, append_images=[palette(255 - p)]),
        as_rgb(palette(p)),
    ),
    "bmp": lambda p: (save(Image.fromarray(p), "BMP"), p),
    "tiff": lambda p: (save(Image.fromarray(p), "TIFF"), p),
    "webp": lambda p: (
        bytes(cv2.imencode(".webp", p[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])[1]),
        p,
    ),
}
PASSED_THROUGH = ("baseline jpeg 420", "baseline jpeg 444")


def rgb_jpeg(pixels: Pixels) -> bytes:
    """A JPEG whose components are R, G and B themselves, as its Adobe segment says."""
    unconverted = Image.merge("YCbCr", Image.fromarray(pixels).split())
    data = save(unconverted, "JPEG", quality=92, subsampling=0)
    assert data[2:4] == b"\xff\xe0"  # JFIF, which would say YCbCr
    behind = 4 + int.from_bytes(data[4:6], "big")
    return data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\x00" + data[behind:]


def interlaced_png(pixels: Pixels) -> bytes:
    """Adam7 by hand: neither Pillow nor OpenCV writes it."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)]  # fmt: skip
    lines = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, right in passes
        for row in pixels[top::down, left::right]
    )
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return png_of([(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")])


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.fixture
def pixels(photo: Photo, rng: np.random.Generator) -> Pixels:
    return photo(rng, WIDTH, HEIGHT)


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


class TestOrientation:
    @pytest.mark.parametrize("big_endian", [False, True], ids=["II", "MM"])
    @pytest.mark.parametrize("orientation", range(2, 9))
    def test_an_exif_turn_is_applied_as_pillow_applies_it(
        self, orientation: int, big_endian: bool, pixels: Pixels
    ) -> None:
        exif = Image.Exif()
        exif.endian = ">" if big_endian else "<"
        exif[0x0112] = orientation
        data = save(Image.fromarray(pixels), "JPEG", quality=92, exif=exif.tobytes())
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        stored = store_image(data, OPTIONS)
        assert (stored.how, (stored.width, stored.height)) == ("converted", upright.size)
        assert mean_difference(stored, np.asarray(upright)) < LOSSY
        assert Image.open(io.BytesIO(stored.payload)).getexif().get(0x0112, 1) == 1

    @pytest.mark.parametrize("orientation", [0, 1, 9, 500])
    def test_no_turn_and_nonsense_leave_the_file_as_it_is(
        self, orientation: int, pixels: Pixels
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = save(Image.fromarray(pixels), "JPEG", exif=exif)
        assert store_image(data, OPTIONS).payload == data

    def test_exif_that_cannot_be_parsed_counts_as_none(self, pixels: Pixels) -> None:
        data = save(Image.fromarray(pixels), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f nonsense")
        assert store_image(data, OPTIONS).payload == data

    def test_exif_behind_another_app1_segment_is_found(self, pixels: Pixels) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        data = save(Image.fromarray(pixels), "JPEG", exif=exif)
        xmp = b"http://ns.adobe.com/xap/1.0/\0<x/>"
        at = data.index(b"\xff\xe1")
        data = data[:at] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + data[at:]
        stored = store_image(data, OPTIONS)
        assert (stored.width, stored.height) == (HEIGHT, WIDTH)

    def test_a_turned_image_is_resized_by_its_upright_sides(self, pixels: Pixels) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        stored = store_image(save(Image.fromarray(pixels), "JPEG", exif=exif), SMALLER)
        assert (stored.how, stored.width, stored.height) == ("resized", 48, 64)

    def test_a_turned_png_is_upright_once(self, pixels: Pixels) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        data = save(Image.fromarray(pixels), "PNG", exif=exif)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert mean_difference(store_image(data, OPTIONS), np.asarray(upright)) < LOSSY


def bomb_jpeg() -> bytes:
    """A header that promises 65,000 x 65,000 pixels."""
    frame = struct.pack(">BHHB", 8, 65_000, 65_000, 3) + bytes([1, 0x22, 0, 2, 17, 1, 3, 17, 1])
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xd9"


def bomb_png() -> bytes:
    return png_of(
        [(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)), (b"IEND", b"")]
    )


def wounded(data: bytes, wounds: random.Random) -> bytes:
    """Flip a bit, cut, drop, insert or overwrite something, anywhere behind the first marker."""
    at = wounds.randrange(2, len(data))
    few = wounds.randbytes(wounds.randrange(1, 60))
    marker = bytes([0xFF, wounds.choice([0xD9, 0xD0, 0xD4, 0x00, 0xC0, 0xDA, 0xE0])])
    flipped = bytes([data[at] ^ 1 << wounds.randrange(8)])
    return wounds.choice(
        [
            data[:at] + flipped + data[at + 1 :],
            data[:at],
            data[:at] + data[at + len(few) :],
            data[:at] + few + data[at:],
            data[:at] + few + data[at + len(few) :],
            data[:at] + marker + data[at:],
        ]
    )


def is_whole(decode_it: Callable[..., object], *args: Any, **options: Any) -> bool:
    try:
        decode_it(*args, **options)
    except (ValueError, RejectedImage):
        return False
    return True


class TestRejected:
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty file"),
            (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not an image"),
            (b"plain text", "not an image"),
            (b"\xff\xd8\xff", "damaged JPEG header"),
            (bytes(1000), "not an image"),
            (b'<?xml version="1.0"?><svg width="9" height="9"></svg>', "unsupported image"),
        ],
        ids=["empty", "html", "text", "jpeg magic only", "zeros", "svg"],
    )
    def test_what_is_no_photograph_is_rejected_with_its_reason(
        self, data: bytes, reason: str
    ) -> None:
        with pytest.raises(RejectedImage, match=reason):
            store_image(data, OPTIONS)

    @pytest.mark.parametrize("options", [OPTIONS, SMALLER], ids=["kept size", "resized"])
    @pytest.mark.parametrize("kept", [0.1, 0.6, 0.97])
    @pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
    def test_a_truncated_jpeg_is_rejected(
        self, kept: float, progressive: bool, options: ImageOptions, pixels: Pixels
    ) -> None:
        data = save(Image.fromarray(pixels), "JPEG", progressive=progressive)
        with pytest.raises(RejectedImage, match="damaged JPEG"):
            store_image(data[: int(len(data) * kept)], options)

    def test_a_jpeg_that_lacks_only_its_end_marker_is_rejected(self, pixels: Pixels) -> None:
        data, _ = KINDS["baseline jpeg 420"](pixels)
        with pytest.raises(RejectedImage, match="damaged JPEG: premature end"):
            store_image(data[:-2], OPTIONS)

    def test_an_early_end_marker_is_rejected(self, pixels: Pixels) -> None:
        data, _ = KINDS["baseline jpeg 420"](pixels)
        middle = len(data) * 2 // 3
        with pytest.raises(RejectedImage, match="damaged JPEG"):
            store_image(data[:middle] + b"\xff\xd9" + data[middle:], OPTIONS)

    def test_garbage_in_the_middle_of_a_jpeg_is_rejected(
        self, pixels: Pixels, rng: np.random.Generator
    ) -> None:
        data, _ = KINDS["baseline jpeg 420"](pixels)
        middle = len(data) * 2 // 3
        with pytest.raises(RejectedImage, match="damaged JPEG"):
            store_image(data[:middle] + rng.bytes(300) + data[middle + 300 :], OPTIONS)

    @pytest.mark.parametrize("count", [150, pytest.param(20_000, marks=pytest.mark.slow)])
    def test_the_cheap_proofs_reject_exactly_what_a_full_decode_rejects(
        self, count: int, pixels: Pixels
    ) -> None:
        wounds = random.Random(0)
        whole = [
            save(Image.fromarray(pixels), "JPEG", quality=quality, subsampling=sub, **more)
            for quality in (40, 92)
            for sub in (0, 1, 2)
            for more in ({}, {"restart_marker_blocks": 3}, {"optimize": True})
        ]
        outcomes: Counter[bool] = Counter()
        for _ in range(count):
            data = wounded(wounds.choice(whole), wounds)
            expected = is_whole(simplejpeg.decode_jpeg, data)
            for statistics in (True, False):
                found = is_whole(store_image, data, OPTIONS, statistics=statistics)
                assert found == expected, data.hex()
            outcomes[expected] += 1
        assert min(outcomes[True], outcomes[False]) > count / 20

    @pytest.mark.parametrize("kind", ["png", "gif", "bmp", "tiff", "webp", "interlaced png"])
    def test_other_kinds_cut_short_are_rejected(self, kind: str, pixels: Pixels) -> None:
        data, _ = KINDS[kind](pixels)
        with pytest.raises(RejectedImage):
            store_image(data[: len(data) * 2 // 3], OPTIONS)

    @pytest.mark.parametrize("bomb", [bomb_jpeg(), bomb_png()], ids=["jpeg", "png"])
    def test_a_bomb_is_rejected_by_its_header_alone(self, bomb: bytes) -> None:
        with pytest.raises(RejectedImage, match="too large: more than 178956970 pixels"):
            store_image(bomb, OPTIONS)

    def test_reasons_do_not_differ_by_byte_counts(self, pixels: Pixels) -> None:
        data, _ = KINDS["baseline jpeg 420"](pixels)
        reasons = set()
        for cut in (100, 200, 300):
            with pytest.raises(RejectedImage) as caught:
                store_image(data[:-cut], OPTIONS)
            reasons.add(str(caught.value))
        assert len(reasons) == 1

    @given(
        magic=st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xc0", b"BM", b"II*\0",
                               b"MM\0*", b"RIFF\0\0\0\0WEBPVP8 ", b"\x89PNG\r\n\x1a\n"]),
        rest=st.binary(max_size=200),
    )  # fmt: skip
    def test_any_bytes_are_stored_or_rejected_but_never_raise_otherwise(
        self, magic: bytes, rest: bytes
    ) -> None:
        try:
            stored = store_image(magic + rest, OPTIONS)
        except RejectedImage:
            return
        assert decode(stored.payload).shape == (stored.height, stored.width, 3)


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
