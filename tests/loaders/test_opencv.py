"""The CPU back end: exact partial decoding, memory that is used again, reading ahead."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loaders import opencv, readahead
from loaders.augment import AugmentConfig
from loaders.batch import Batch
from loaders.buffers import BatchRing, Scratch
from loaders.config import LoaderConfig
from loaders.decode import RegionDecoder
from loaders.jpeg_rows import find_rows
from loaders.opencv import OpenCVLoader
from preprocess.encode import FACTORS as ENCODER_FACTORS
from preprocess.encode import encode_jpeg
from shards.errors import ShardError
from shards.reader import Split

Pixels = npt.NDArray[np.uint8]
Photo = Callable[[np.random.Generator, int, int], Pixels]
PackSet = Callable[..., Any]
Open = Callable[..., OpenCVLoader]

SIZE = 64
NO_COLOR = AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0)


@pytest.fixture
def open_loader(tiny_shards: Path) -> Iterator[Open]:
    """``open_loader(...)`` for training, closed at the end of the test."""
    opened: list[OpenCVLoader] = []

    def make(**options: Any) -> OpenCVLoader:
        defaults: dict[str, Any] = {
            "shards": tiny_shards, "backend": "opencv", "image_size": SIZE, "batch_size": 4,
            "threads": 2, "augment": AugmentConfig(), "seed": 5,
        }  # fmt: skip
        opened.append(OpenCVLoader(LoaderConfig(**defaults | options)))
        return opened[-1]

    yield make
    for loader in opened:
        loader.close()


class OneImage(Split):
    """A split of one sample that was never packed."""

    def __init__(self, payload: bytes, width: int, height: int) -> None:
        self.samples = np.array([(width, height)], [("width", "u4"), ("height", "u4")])
        self._payload = memoryview(payload)

    def payload(self, sample: int) -> memoryview:
        return self._payload

    def describe(self, sample: int) -> str:
        return "sample 000000000"


def decoder_of(payload: bytes, width: int, height: int, **options: Any) -> RegionDecoder:
    scratch = Scratch(width * height, len(payload), SIZE)
    return RegionDecoder(OneImage(payload, width, height), scratch, **options)


class TestPartialDecoding:
    @given(
        width=st.integers(1, 90),
        height=st.integers(1, 90),
        edges=st.tuples(*[st.floats(0, 1)] * 4),
        subsampling=st.sampled_from(["444", "422", "420", "440"]),
    )
    def test_a_region_has_the_pixels_of_the_whole_image(
        self, photo: Photo, width: int, height: int, edges: tuple[float, ...], subsampling: str
    ) -> None:
        pixels = photo(np.random.default_rng(height), width, height)
        payload = simplejpeg.encode_jpeg(pixels, quality=85, colorsubsampling=subsampling)
        rows, columns = (sorted(int(each * side) for each in pair)
                         for pair, side in ((edges[:2], height - 1), (edges[2:], width - 1)))  # fmt: skip
        (top, bottom), (left, right) = rows, columns
        crop = [top, left, bottom - top + 1, right - left + 1]
        region = decoder_of(payload, width, height).region(0, crop, [SIZE, SIZE])
        whole = simplejpeg.decode_jpeg(payload)
        np.testing.assert_array_equal(region, whole[top : bottom + 1, left : right + 1])

    @given(
        width=st.integers(1, 90),
        height=st.integers(1, 330),  # more rows of blocks than there are restart markers
        edges=st.tuples(*[st.floats(0, 1)] * 2),
        subsampling=st.sampled_from(sorted(ENCODER_FACTORS)),
    )
    def test_rows_of_a_packed_jpeg_have_the_pixels_of_the_whole_image(
        self, photo: Photo, width: int, height: int, edges: tuple[float, float], subsampling: Any
    ) -> None:
        payload = encode_jpeg(photo(np.random.default_rng(height), width, height), 90, subsampling)
        top, bottom = sorted(int(edge * (height - 1)) for edge in edges)
        region = decoder_of(payload, width, height).region(
            0, [top, 0, bottom - top + 1, width], [SIZE, SIZE]
        )
        np.testing.assert_array_equal(region, simplejpeg.decode_jpeg(payload)[top : bottom + 1])

    @pytest.mark.parametrize(
        "options",
        [
            [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
            [cv2.IMWRITE_JPEG_RST_INTERVAL, 10],
            [cv2.IMWRITE_JPEG_RST_INTERVAL, 10, cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
            [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
            [cv2.IMWRITE_JPEG_OPTIMIZE, 1],
            [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411],
        ],
        ids=["markers inside rows", "after rows", "progressive with markers", "progressive",
             "own Huffman tables", "4:1:1"],
    )  # fmt: skip
    def test_other_ways_to_write_a_jpeg_are_no_exception(
        self, photo: Photo, rng: np.random.Generator, options: list[int]
    ) -> None:
        payload = cv2.imencode(".jpg", photo(rng, 150, 130), options)[1].tobytes()
        whole = simplejpeg.decode_jpeg(payload)
        decoder = decoder_of(payload, 150, 130)
        for at in range(1, 130, 3):
            for top, bottom in ((0, at), (at, 130)):
                region = decoder.region(0, [top, 0, bottom - top, 150], [SIZE, SIZE])
                np.testing.assert_array_equal(region, whole[top:bottom])

    def test_what_lies_below_the_region_is_not_decoded(
        self, photo: Photo, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        heights: list[int] = []
        decode = simplejpeg.decode_jpeg

        def spy(*args: Any, **options: Any) -> Any:
            heights.append(len(image := decode(*args, **options)))
            return image

        monkeypatch.setattr(simplejpeg, "decode_jpeg", spy)
        payload = simplejpeg.encode_jpeg(photo(rng, 100, 90))
        decoder = decoder_of(payload, 100, 90)
        for bottom in (20, 60, 90):
            decoder.region(0, [10, 0, bottom - 10, 100], [SIZE, SIZE])
        assert heights == [22, 62, 90]
        packed = decoder_of(encode_jpeg(photo(rng, 100, 90), 90, "420"), 100, 90)
        for top in (17, 18, 49, 50):
            packed.region(0, [top, 0, 80 - top, 100], [SIZE, SIZE])
        assert heights[3:] == [82, 66, 50, 34]  # they begin at multiples of 16, two rows before

    @pytest.mark.parametrize("move", [-1, 1])
    def test_markers_that_do_not_count_on_are_not_entered(
        self, photo: Photo, rng: np.random.Generator, move: int
    ) -> None:
        payload = bytearray(encode_jpeg(photo(rng, 100, 90), 90, "420"))
        sound = find_rows(memoryview(bytes(payload)), 90)
        assert sound is not None
        assert sound.entries is not None
        assert len(sound.entries) == 7
        payload[sound.entries[2] - 1] += move
        odd = find_rows(memoryview(payload), 90)
        assert odd is not None
        assert odd.entries is None

    def test_a_progressive_jpeg_is_decoded_whole(
        self, photo: Photo, rng: np.random.Generator
    ) -> None:
        file = io.BytesIO()
        Image.fromarray(photo(rng, 50, 40)).save(file, "JPEG", progressive=True)
        assert find_rows(memoryview(file.getvalue()), 40) is None

    def test_a_header_that_states_another_height_is_left_alone(
        self, photo: Photo, rng: np.random.Generator
    ) -> None:
        payload = memoryview(simplejpeg.encode_jpeg(photo(rng, 50, 40)))
        assert find_rows(payload, 40) is not None
        assert find_rows(payload, 41) is None

    @given(data=st.data())
    def test_no_bytes_can_upset_the_search_for_rows(
        self, photo: Photo, data: st.DataObject
    ) -> None:
        header = bytearray(encode_jpeg(photo(np.random.default_rng(0), 20, 20), 90, "420")[:640])
        for _ in range(data.draw(st.integers(0, 4))):
            header[data.draw(st.integers(2, len(header) - 1))] = data.draw(st.integers(0, 255))
        find_rows(memoryview(header)[: data.draw(st.integers(0, len(header)))], 20)
        find_rows(memoryview(b"\xff\xd8" + data.draw(st.binary(max_size=60))), 10)

    def test_an_array_is_viewed_in_the_map_and_not_copied(
        self, tiny_dataset: Path, pack_set: PackSet, tmp_path: Path
    ) -> None:
        pack_set(tiny_dataset, tmp_path / "raw", raw_share=1.0)
        loader = OpenCVLoader(LoaderConfig(shards=tmp_path / "raw", batch_size=4, threads=1))
        split = loader._planned.split
        region = loader._decoder.region(3, [5, 6, 40, 30], [SIZE, SIZE])
        assert region.shape == (40, 30, 3)
        assert np.shares_memory(region, np.frombuffer(split.payload(3), np.uint8))
        del region
        loader.close()


class TestReducedDecoding:
    def test_it_shrinks_where_the_crop_stays_as_large_as_the_result(
        self, photo: Photo, rng: np.random.Generator
    ) -> None:
        payload = simplejpeg.encode_jpeg(photo(rng, 301, 403))
        decoder = decoder_of(payload, 301, 403, reduced=True)
        for crop, size, expected in (
            ([0, 0, 403, 301], [64, 64], (100, 75)),
            ([7, 9, 203, 131], [64, 64], (101, 65)),
            ([7, 9, 203, 127], [64, 64], (203, 127)),
            ([200, 0, 203, 301], [24, 24], (25, 37)),
        ):
            assert decoder.region(0, crop, size).shape[:2] == expected

    def test_it_shows_the_same_part_of_the_photograph(
        self, photo: Photo, rng: np.random.Generator
    ) -> None:
        payload = simplejpeg.encode_jpeg(photo(rng, 400, 300))
        whole, reduced = (decoder_of(payload, 400, 300, reduced=each) for each in (False, True))
        for crop in ([0, 0, 300, 400], [33, 77, 140, 201], [160, 250, 140, 150]):
            exact, near = (
                cv2.resize(
                    decoder.region(0, crop, [64, 64]), (64, 64), interpolation=cv2.INTER_AREA
                )
                for decoder in (whole, reduced)
            )
            assert np.abs(exact.astype(int) - near).mean() < 4

    def test_it_is_off_by_default_and_changes_pixels_only_where_it_applies(
        self, open_loader: Open
    ) -> None:
        plain, small, large = (
            next(open_loader(augment=NO_COLOR, shuffle=False, **options).epoch(0)).images
            for options in (
                {"image_size": 16},
                {"image_size": 16, "reduced_decode": True},
                {"image_size": 16, "reduced_decode": False},
            )
        )
        assert torch.equal(plain, large)
        assert not torch.equal(plain, small)
        assert (plain.int() - small.int()).abs().float().mean() < 12


class TestRing:
    def test_a_batch_that_nobody_keeps_gives_its_memory_to_a_later_one(
        self, open_loader: Open
    ) -> None:
        loader = open_loader(batch_size=2, prefetch=2)
        addresses = [batch.images.data_ptr() for epoch in range(5) for batch in loader.epoch(epoch)]
        assert len(addresses) == 90
        # In work, handed over, and one that a thread is about to let go of.
        assert len(set(addresses)) <= loader._config.prefetch + 4

    @pytest.mark.parametrize(
        "keep",
        [
            lambda batch: batch.images,
            lambda batch: batch.images[1:, :, ::2],
            lambda batch: batch.images.numpy(),
            lambda batch: np.from_dlpack(batch.images),
            lambda batch: batch.images.permute(0, 2, 3, 1).view(len(batch), -1),
        ],
        ids=["images", "a slice", "an array", "dlpack", "a reshaped view"],
    )
    def test_whatever_shares_a_batchs_memory_keeps_it_unchanged(
        self, open_loader: Open, keep: Callable[[Batch], Any]
    ) -> None:
        loader = open_loader(batch_size=2, prefetch=1)
        kept, copies = [], []
        for batch in loader.epoch(0):
            kept.append(keep(batch))
            copies.append(np.asarray(kept[-1]).copy())
        del batch
        for epoch in range(1, 4):
            for later in loader.epoch(epoch):
                later.images.fill_(7)  # the caller may also write to what it was given
        for now, before in zip(kept, copies, strict=True):
            np.testing.assert_array_equal(now, before)

    def test_a_kept_batch_outlives_its_loader(self, open_loader: Open) -> None:
        loader = open_loader()
        batch = next(loader.epoch(0))
        copy = batch.images.clone()
        loader.close()
        assert torch.equal(batch.images, copy)

    def test_buffers_that_come_back_beyond_the_bound_are_freed(self) -> None:
        ring = BatchRing(2, 8, keep=3, pinned=False)
        many = [ring.take(2, 8) for _ in range(10)]
        addresses = {each.data_ptr() for each in many}
        del many
        again = [ring.take(count, 8) for count in (2, 1, 2)]
        assert {each.data_ptr() for each in again} <= addresses
        assert (len(ring._free), len(ring._lent)) == (0, 3)
        del again
        ring.clear()
        assert (len(ring._free), len(ring._lent)) == (0, 0)

    def test_a_short_batch_is_the_front_of_a_whole_buffer(self) -> None:
        ring = BatchRing(4, 8, keep=3, pinned=False)
        address = ring.take(4, 8).data_ptr()
        short = ring.take(1, 8)
        assert short.shape == (1, 8, 8, 3)
        assert short.data_ptr() == address

    def test_smaller_images_lie_in_the_same_buffers_without_a_gap(self) -> None:
        ring = BatchRing(4, 8, keep=3, pinned=False)
        address = ring.take(4, 8).data_ptr()
        small = ring.take(4, 6)
        assert small.shape == (4, 6, 6, 3)
        assert small.is_contiguous()
        assert small.data_ptr() == address


class TestThreads:
    def test_there_are_as_many_as_the_process_has_cores(
        self, open_loader: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(opencv, "allowed_cores", lambda: 3)
        assert len(open_loader(threads=None)._pool) == 3
        assert len(open_loader(threads=5)._pool) == 5

    def test_drawing_several_batches_at_once_changes_none(
        self, open_loader: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        together = list(open_loader().epoch(3, 2))
        monkeypatch.setattr(opencv, "DRAWN_TOGETHER", 1)
        for one, other in zip(together, open_loader().epoch(3, 2), strict=True):
            assert torch.equal(one.images, other.images)

    def test_opencv_outside_the_loaders_threads_is_left_as_it_was(self, open_loader: Open) -> None:
        list(open_loader().epoch(0))
        assert not cv2.ipp.useIPP_NotExact()


class TestReadAhead:
    def test_every_sample_is_announced_once_before_it_is_read(
        self, open_loader: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        announced: list[tuple[int, int]] = []
        monkeypatch.setattr(
            os, "posix_fadvise", lambda _, start, size, __: announced.append((start, size))
        )
        loader = open_loader(threads=1)
        for epoch in range(3):
            list(loader.epoch(epoch))
        loader.close()
        split = loader._planned.split
        stored = [(int(each["offset"]), int(each["size"])) for each in split.samples]
        assert sorted(announced) == sorted(stored)

    def test_a_set_larger_than_memory_is_announced_in_every_epoch(
        self, open_loader: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        announced: list[int] = []
        monkeypatch.setattr(os, "posix_fadvise", lambda _, start, *__: announced.append(start))
        monkeypatch.setattr(readahead, "available_memory", lambda: 1000)
        loader = open_loader()
        for epoch in range(2):
            list(loader.epoch(epoch))
        loader.close()
        assert len(announced) == 72

    def test_batches_pass_where_the_system_takes_no_advice(
        self, open_loader: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = [batch.ids.tolist() for batch in open_loader().epoch(0)]
        monkeypatch.delattr(os, "posix_fadvise")
        assert [batch.ids.tolist() for batch in open_loader().epoch(0)] == wanted

    def test_a_shard_that_is_gone_is_left_to_the_reader_to_name(
        self, shards_copy: Path, open_loader: Open
    ) -> None:
        loader = open_loader(shards=shards_copy)
        for shard in shards_copy.glob("train-*.tar"):
            shard.unlink()
        with pytest.raises(ShardError, match=r"cannot open shard .*train-"):
            list(loader.epoch(0))
