"""What is no whole photograph is rejected with its reason, and never raises otherwise."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from preprocess.image import ImageOptions, store_image
from preprocess.rejected import RejectedImage
from tests.preprocess.image_kinds import (
    KINDS,
    OPTIONS,
    SMALLER,
    Pixels,
    decode,
    png_of,
    save,
)


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
