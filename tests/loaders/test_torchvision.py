"""The torchvision back end: torchvision's own augmentation, or the plan's through Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from loaders.augment import ERASE_FILL, AugmentConfig, draw_transforms
from loaders.batch import Batch, Loader
from loaders.config import LoaderConfig
from loaders.factory import create_loader
from loaders.torchvision import apply_transforms, reference_transform
from preprocess.demo_data import draw_demo_data
from preprocess.discover import read_catalog
from preprocess.image import ImageOptions
from preprocess.pack import pack

SIZE = 64
PLAIN = AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0)
FULL = AugmentConfig(grayscale_prob=0.3, erase_prob=0.5)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 drawn mushrooms and more, in sizes on both sides of the crops that are taken of them."""
    data = tmp_path_factory.mktemp("drawn") / "mushrooms"
    draw_demo_data(data, train_files=2, eval_files=1, size=120)
    out = data.with_name("set")
    with ThreadPoolExecutor(2) as executor:
        pack(read_catalog(data), out, ImageOptions(), executor)
    return out


def config_of(shards: Path, **options: Any) -> LoaderConfig:
    settings: dict[str, Any] = {
        "shards": shards,
        "backend": "torchvision",
        "augment_by": "plan",
        "augment": FULL,
        "batch_size": 4,
        "image_size": SIZE,
        "threads": 1,
        "seed": 9,
    }
    return LoaderConfig(**settings | options)


def all_batches(loader: Loader, epochs: int) -> Iterator[Batch]:
    return chain.from_iterable(loader.epoch(epoch) for epoch in range(epochs))


def differences(one: LoaderConfig, other: LoaderConfig, epochs: int) -> tuple[int, float, int]:
    """Batches that were compared; mean and largest difference of their pixels, of 255."""
    total, largest, values, count = 0, 0, 0, 0
    with closing(create_loader(one)) as mine, closing(create_loader(other)) as wanted:
        assert mine.order_hash == wanted.order_hash
        for a, b in zip(all_batches(mine, epochs), all_batches(wanted, epochs), strict=True):
            assert a.ids.tolist() == b.ids.tolist()
            assert a.labels.tolist() == b.labels.tolist()
            difference = (a.images.int() - b.images.int()).abs()
            total += int(difference.sum())
            largest = max(largest, int(difference.max()))
            values += difference.numel()
            count += 1
    return count, total / values, largest


# Mean and largest difference of 255 from the OpenCV back end. Measured with Pillow 12.1, DALI 2.4
# and OpenCV 5 on 72 drawn mushrooms and on an epoch of flowers17 (952 images), both at 64 px:
#   torchvision  linear     0.36 to 0.37 / 1, with colour 0.33 to 0.39 / 4  (Pillow cuts off)
#                antialias  0.000 / 0,        with colour 0.03 to 0.04 / 1
#   dali-cpu     linear     0.11 to 0.12 / 1, with colour 0.13 to 0.15 / 4
#                antialias  0.14 to 0.16 / 25, with colour 0.16 to 0.19 / 33
TOLERANCES = [
    ("torchvision", "linear", PLAIN, 0.5, 1),
    ("torchvision", "linear", FULL, 0.5, 5),
    ("torchvision", "antialias", PLAIN, 0.01, 1),
    ("torchvision", "antialias", FULL, 0.1, 2),
    pytest.param("dali-cpu", "linear", FULL, 0.3, 5, marks=pytest.mark.dali),
    pytest.param("dali-cpu", "antialias", FULL, 0.3, 40, marks=pytest.mark.dali),
]
PARITY = pytest.mark.parametrize(("backend", "resample", "augment", "mean", "largest"), TOLERANCES)


@PARITY
def test_planned_batches_are_those_of_opencv(
    shards: Path, backend: Any, resample: Any, augment: AugmentConfig, mean: float, largest: int
) -> None:
    config = config_of(shards, backend=backend, resample=resample, augment=augment)
    count, found_mean, found_largest = differences(config, replace(config, backend="opencv"), 2)
    assert count == 12
    assert found_mean <= mean
    assert found_largest <= largest


@pytest.mark.slow
@PARITY
def test_two_hundred_planned_batches_are_those_of_opencv(
    tmp_path: Path, pack_set: Any, backend: Any, resample: Any, augment: AugmentConfig,
    mean: float, largest: int,
) -> None:  # fmt: skip
    draw_demo_data(tmp_path / "mushrooms", train_files=10, eval_files=1, size=200)
    pack_set(tmp_path / "mushrooms", tmp_path / "set", short_side=440)
    config = config_of(
        tmp_path / "set", backend=backend, resample=resample, augment=augment, image_size=96,
        batch_size=6, threads=2,
    )  # fmt: skip
    count, found_mean, found_largest = differences(config, replace(config, backend="opencv"), 10)
    assert count == 200
    assert found_mean <= mean
    assert found_largest <= largest


def test_planned_batches_are_the_same_for_two_workers_and_after_a_resume(shards: Path) -> None:
    with closing(create_loader(config_of(shards))) as loader:
        unbroken = list(loader.epoch(1))
    with closing(create_loader(config_of(shards, threads=2))) as loader:
        resumed = list(loader.epoch(1, first_step=2))
    assert len(resumed) == len(unbroken) - 2
    for one, other in zip(resumed, unbroken[2:], strict=True):
        assert torch.equal(one.images, other.images)


def test_by_default_it_augments_as_torchvision_does(shards: Path) -> None:
    own = config_of(shards, augment_by="torchvision")
    assert LoaderConfig(shards=shards).augment_by == "torchvision"
    _, mean, _ = differences(own, replace(own, backend="opencv"), 1)
    assert mean > 10


def test_the_plan_has_nothing_to_do_with_evaluation(shards: Path) -> None:
    planned = config_of(shards, augment=None, split="val", shuffle=False)
    assert differences(planned, replace(planned, augment_by="torchvision"), 1)[1:] == (0, 0)


def test_crops_of_original_files_are_drawn_for_their_own_sizes(
    tiny_dataset: Path, tmp_path: Path, pack_set: Any
) -> None:
    pack_set(tiny_dataset, tmp_path / "set", short_side=40)  # the originals: 90 to 480
    config = config_of(
        tmp_path / "set",
        originals=tiny_dataset / "merged_dataset",
        augment=replace(PLAIN, crop_scale=(1, 1), crop_ratio=(0.1, 10), hflip_prob=0),
        resample="antialias",
        image_size=32,
    )
    _, mean, _ = differences(config, replace(config, originals=None), 1)
    # Measured: 7.6 for whole photographs, one of them turned at packing; 12.8 for parts of them.
    assert mean < 10


class TestTorchvisionsOwn:
    """Greyscale and erasing through torchvision's own transforms."""

    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 100, (80, 80, 3), dtype=np.uint8), "RGB"
    )

    def made(self, **strengths: float) -> torch.Tensor:
        config = LoaderConfig(
            shards=Path("set"), image_size=48, augment=replace(PLAIN, **strengths)
        )
        torch.manual_seed(0)
        pixels: torch.Tensor = reference_transform(config)(self.image)
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (3, 48, 48)
        return pixels

    def test_greyscale_has_three_equal_channels(self) -> None:
        pixels = self.made(grayscale_prob=1)
        assert torch.equal(pixels[0], pixels[1])
        assert torch.equal(pixels[0], pixels[2])

    def test_a_rectangle_is_filled_with_the_mean_pixel(self) -> None:
        filled = (self.made(erase_prob=1).permute(1, 2, 0) == torch.tensor(ERASE_FILL)).all(dim=2)
        rows, columns = filled.any(dim=1), filled.any(dim=0)
        assert filled.sum() == rows.sum() * columns.sum() > 0
        assert not filled.all()

    def test_neither_happens_by_default(self) -> None:
        pixels = self.made()
        assert not torch.equal(pixels[0], pixels[1])
        assert not (pixels.permute(1, 2, 0) == torch.tensor(ERASE_FILL)).all(dim=2).any()


def test_no_strength_and_a_crop_of_the_size_wanted_give_the_image_itself() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    side = np.array([SIZE])
    nothing = replace(PLAIN, crop_scale=(1, 1), crop_ratio=(1, 1), hflip_prob=0)
    transforms = draw_transforms(
        nothing, seed=0, epoch=0, first_position=0, widths=side, heights=side, image_size=SIZE
    )
    for resample in ("linear", "antialias"):
        made = apply_transforms(Image.fromarray(pixels), transforms, resample)  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.asarray(made), pixels)
