"""JPEGs, arrays and mixtures of both: what is stored, and what loaders make of it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders.augment import AugmentConfig
from loaders.config import LoaderConfig
from loaders.factory import create_loader
from loaders.opencv import decode
from preprocess.image import ImageOptions, store_image
from preprocess.jpeg_header import read_jpeg_header
from shards.errors import UserError
from shards.reader import ShardSet, is_array
from shards.verify import verify


def first_batch(shards: Path, backend: str, augment: AugmentConfig | None) -> np.ndarray:
    loader = create_loader(
        LoaderConfig(
            shards=shards, backend=backend, batch_size=8, image_size=48, augment=augment,
            resample="antialias" if augment is None else "linear",
        )
    )  # fmt: skip
    try:
        epoch = loader.epoch(0)
        images = next(epoch).images.numpy().astype(int)
        epoch.close()
        return images
    finally:
        loader.close()


def test_an_array_holds_the_pixels_that_a_jpeg_is_made_from(jpeg, rng, photo) -> None:
    data = jpeg(photo(rng, 90, 60))
    raw = store_image(data, ImageOptions(short_side=40), "raw")
    pixels = np.load(io.BytesIO(raw.payload))
    assert (raw.extension, pixels.shape, pixels.dtype) == ("npy", (40, 60, 3), np.uint8)
    as_jpeg = store_image(data, ImageOptions(short_side=40, quality=100, subsampling="444"))
    decoded = np.asarray(Image.open(io.BytesIO(as_jpeg.payload))).astype(int)
    assert np.abs(decoded - pixels).mean() < 1


def test_a_mixture_stores_about_the_wanted_share_and_always_the_same() -> None:
    options = ImageOptions(raw_share=0.3)
    paths = [f"Species {number % 7}/photo {number}.jpg" for number in range(3000)]
    forms = [options.store_of(path) for path in paths]
    assert forms.count("raw") == pytest.approx(900, abs=90)
    assert forms == [options.store_of(path) for path in paths]


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_every_stored_form_verifies_and_decodes(
    share: float, tiny_dataset: Path, tmp_path: Path, pack_set
) -> None:
    pack_set(tiny_dataset, tmp_path / "set", raw_share=share)
    shard_set = ShardSet(tmp_path / "set")
    assert verify(shard_set, decode=True) == []
    with shard_set.split("train") as split:
        arrays = [is_array(split.payload(sample)) for sample in range(len(split))]
        shapes = [decode(split, sample).shape for sample in range(len(split))]
        assert shapes == [(each["height"], each["width"], 3) for each in split.samples]
    assert all(arrays) if share == 1 else 0 < sum(arrays) < len(arrays)


@pytest.mark.dali
@pytest.mark.parametrize("augment", [AugmentConfig(), None], ids=["train", "eval"])
def test_dali_and_opencv_agree_on_arrays(
    augment: AugmentConfig | None, tiny_dataset: Path, tmp_path: Path, pack_set
) -> None:
    pack_set(tiny_dataset, tmp_path / "set", raw_share=1.0)
    ours = first_batch(tmp_path / "set", "opencv", augment)
    theirs = first_batch(tmp_path / "set", "dali-cpu", augment)
    assert np.abs(ours - theirs).mean() < 0.4
    assert np.abs(ours - theirs).max() <= 20


@pytest.mark.dali
def test_dali_refuses_a_mixture_and_names_the_loader_that_takes_it(
    tiny_dataset: Path, tmp_path: Path, pack_set
) -> None:
    pack_set(tiny_dataset, tmp_path / "set", raw_share=0.5)
    with pytest.raises(UserError, match="--loader opencv"):
        first_batch(tmp_path / "set", "dali-cpu", None)
    assert len(first_batch(tmp_path / "set", "torchvision", None)) == 8


def test_the_longer_side_is_bounded_too(jpeg, rng, photo) -> None:
    data = jpeg(photo(rng, 400, 100))
    stored = store_image(data, ImageOptions(short_side=80, max_side=200))
    assert (stored.width, stored.height) == (200, 50)


@pytest.mark.parametrize("quality", [20, 50, 75, 85, 90, 95])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(quality: int, rng, photo) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo(rng, 64, 64)).save(buffer, "JPEG", quality=quality)
    assert read_jpeg_header(buffer.getvalue(), 10**6).quality == quality


def test_the_manifest_states_mean_size_and_quality_of_the_originals(
    tiny_dataset: Path, tiny_shards: Path
) -> None:
    manifest = ShardSet(tiny_shards).manifest
    sizes = []
    for split in manifest.splits:
        with ShardSet(tiny_shards).split(split) as opened:
            for sample in range(len(opened)):
                path = tiny_dataset / "merged_dataset" / opened.metadata(sample)["path"]
                with Image.open(path) as image:
                    turned = image.getexif().get(0x0112, 1) >= 5
                    sizes.append(image.size[::-1] if turned else image.size)
    widths, heights = np.mean(sizes, axis=0)
    assert manifest.originals["mean_width"] == pytest.approx(widths, abs=0.06)
    assert manifest.originals["mean_height"] == pytest.approx(heights, abs=0.06)
    assert 0 < manifest.originals["jpeg_share"] < 1
    assert 20 < manifest.originals["mean_jpeg_quality"] <= 100
