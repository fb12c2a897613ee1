"""A photograph is stored upright, whatever its EXIF says and however it is broken."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from preprocess.image import store_image
from tests.preprocess.image_kinds import (
    HEIGHT,
    LOSSY,
    OPTIONS,
    SMALLER,
    WIDTH,
    Pixels,
    mean_difference,
    save,
)


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
