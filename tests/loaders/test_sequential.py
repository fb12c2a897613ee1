"""Sequential reading: DALI's own reader and augmentation, with our ids, labels, ranks and epochs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loaders.augment import ERASE_FILL, AugmentConfig
from loaders.batch import Batch, Loader
from loaders.config import LoaderConfig
from loaders.factory import create_loader
from loaders.subset import Subset
from shards.errors import ShardError, UserError
from shards.format import index_name, shard_name
from shards.reader import ShardSet

pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")

from loaders.sequential import SequentialDaliLoader, define_sequential

pytestmark = pytest.mark.dali

TRAIN, BATCH, SIZE = 200, 16, 32
PLAIN = AugmentConfig(hflip_prob=0, brightness=0, contrast=0, saturation=0, hue=0)
STRONG = AugmentConfig(grayscale_prob=0.3, erase_prob=0.5)

Open = Callable[..., Loader]


def config_of(shards: Path, **options: Any) -> LoaderConfig:
    config = LoaderConfig(
        shards=shards, backend="dali-cpu", read="sequential", sampling="natural", threads=2,
        batch_size=BATCH, image_size=SIZE, augment=AugmentConfig(), seed=1, shuffle_buffer=50,
    )  # fmt: skip
    return replace(config, **options)


@pytest.fixture
def open_loader(several_shards: Path) -> Iterator[Open]:
    opened: list[Loader] = []

    def make(**options: Any) -> Loader:
        opened.append(create_loader(config_of(**{"shards": several_shards} | options)))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def shown(batches: list[Batch]) -> list[int]:
    return list(chain(*(batch.ids.tolist() for batch in batches)))


def pixels(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.images for batch in batches])


@pytest.mark.parametrize(
    "world_size", [1, 4, *(pytest.param(each, marks=pytest.mark.slow) for each in (2, 8))]
)
def test_every_sample_is_shown_once_over_all_ranks_in_as_many_steps(
    open_loader: Open, world_size: int
) -> None:
    ranks = [
        list(open_loader(rank=rank, world_size=world_size).epoch(1)) for rank in range(world_size)
    ]
    assert {len(batches) for batches in ranks} == {13}
    assert sorted(chain(*map(shown, ranks))) == list(range(TRAIN))


def test_without_the_last_batch_ranks_show_whole_ones_and_nothing_twice(open_loader: Open) -> None:
    options = {"world_size": 2, "batch_size": 48, "drop_last": True}
    ranks = [list(open_loader(rank=rank, **options).epoch(0)) for rank in range(2)]
    assert [[len(batch) for batch in batches] for batches in ranks] == [[24] * 4] * 2
    ids = list(chain(*map(shown, ranks)))
    assert len(set(ids)) == len(ids) == 192


def test_a_batch_keeps_the_contract(open_loader: Open, several_shards: Path) -> None:
    with ShardSet(several_shards).split("train") as split:
        for batch in open_loader(augment=STRONG).epoch(0):
            assert batch.images.shape == (len(batch), 3, SIZE, SIZE)
            assert batch.images.dtype == torch.uint8
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert batch.labels.tolist() == split.labels[batch.ids.numpy()].tolist()
            assert batch.labels.dtype == batch.ids.dtype == torch.int64


def test_images_may_come_smaller_in_the_same_order(open_loader: Open) -> None:
    loader = open_loader()
    small, whole = list(loader.epoch(1, 2, SIZE // 2)), list(loader.epoch(1, 2))
    assert [batch.images.shape[-1] for batch in small] == [SIZE // 2] * len(whole)
    assert shown(small) == shown(whole)
    assert torch.equal(pixels(small), pixels(list(open_loader(image_size=SIZE // 2).epoch(1, 2))))


def test_images_are_those_of_their_ids(
    open_loader: Open, tmp_path: Path, jpeg: Callable[..., bytes], pack_set: Callable[..., Any]
) -> None:
    """Of one colour each, so that no crop hides which photograph it is."""
    colors = np.random.default_rng(5).integers(0, 256, (80, 3), dtype=np.uint8)
    for number, color in enumerate(colors):
        path = tmp_path / "data" / f"class {number % 2}" / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(np.broadcast_to(color, (50, 60, 3)).copy()))
    pack_set(tmp_path / "data", tmp_path / "set")
    batches = list(open_loader(shards=tmp_path / "set", augment=PLAIN).epoch(0))
    with ShardSet(tmp_path / "set").split("train") as split:
        numbers = [int(split.metadata(id_)["path"][-6:-4]) for id_ in shown(batches)]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [n % 2 for n in numbers]
    means = pixels(batches).float().mean((2, 3))
    assert (means - torch.from_numpy(colors[numbers]).float()).abs().max() < 4


def test_epochs_differ_and_the_same_epoch_is_the_same_whatever_came_before(
    open_loader: Open,
) -> None:
    loader = open_loader(augment=STRONG)
    epochs = [list(loader.epoch(epoch)) for epoch in (0, 1)]
    again = list(open_loader(augment=STRONG, threads=1).epoch(1))
    assert shown(epochs[0]) != shown(epochs[1]) == shown(again)
    assert torch.equal(pixels(epochs[1]), pixels(again))
    other = list(open_loader(augment=STRONG, seed=2).epoch(1))
    assert shown(other) != shown(again)


def test_ranks_draw_their_own_augmentation(open_loader: Open) -> None:
    """Both read the same shard from its beginning if each is told to be alone."""
    options = {"shuffle": False, "augment": AugmentConfig(), "batch_size": 2}
    first = next(open_loader(**options).epoch(0))
    second = next(open_loader(rank=1, world_size=2, **options).epoch(0))
    assert not torch.equal(first.images[:1], second.images)


@pytest.mark.parametrize("first_step", [1, 12])
def test_an_epoch_from_a_later_step_on_is_the_rest_of_an_unbroken_one(
    open_loader: Open, first_step: int
) -> None:
    unbroken = list(open_loader(augment=STRONG).epoch(4))[first_step:]
    resumed = list(open_loader(augment=STRONG).epoch(4, first_step))
    assert shown(resumed) == shown(unbroken)
    assert torch.equal(pixels(resumed), pixels(unbroken))


def test_unshuffled_images_come_as_they_are_stored(open_loader: Open) -> None:
    assert shown(list(open_loader(shuffle=False).epoch(0))) == list(range(TRAIN))


def test_a_buffer_of_one_image_shuffles_whole_shards_alone(open_loader: Open) -> None:
    ids = np.array(shown(list(open_loader(shuffle_buffer=1).epoch(0))))
    gaps = np.flatnonzero(np.diff(ids) != 1)
    assert len(gaps) <= 3
    assert ids.tolist() != sorted(ids.tolist())


def test_a_kept_batch_stays_as_it_is_while_the_pipeline_runs_on(open_loader: Open) -> None:
    epoch = open_loader().epoch(0)
    kept = next(epoch)
    copy = kept.images.clone()
    list(epoch)
    assert torch.equal(kept.images, copy)


class TestAugmentation:
    def test_half_of_the_images_are_mirrored(self, open_loader: Open) -> None:
        def corners(hflip: float) -> torch.Tensor:
            augment = replace(
                PLAIN, crop_scale=(0.99, 1.0), crop_ratio=(0.4, 2.5), hflip_prob=hflip
            )
            images = pixels(list(open_loader(augment=augment).epoch(0))).float()
            return images[:, :, :3, :3].mean((1, 2, 3)) < images[:, :, :3, -3:].mean((1, 2, 3))

        # The test photographs have a dark corner at the top left.
        shares = [corners(each).float().mean().item() for each in (0.0, 0.5, 1.0)]
        assert shares[0] > 0.9
        assert 0.3 < shares[1] < 0.7
        assert shares[2] < 0.1

    def test_grayscale_takes_the_colour_of_as_many_as_asked_for(self, open_loader: Open) -> None:
        def gray(probability: float) -> float:
            augment = replace(PLAIN, grayscale_prob=probability)
            images = pixels(list(open_loader(augment=augment).epoch(0))).int()
            spread = (images.amax(1) - images.amin(1)).float().mean((1, 2))
            return (spread < 3).float().mean().item()

        assert gray(1.0) == 1
        assert 0.15 < gray(0.3) < 0.5

    def test_rectangles_have_the_areas_asked_for(self, open_loader: Open) -> None:
        augment = replace(PLAIN, erase_prob=0.5, erase_scale=(0.1, 0.2), erase_ratio=(0.5, 2.0))
        images = pixels(list(open_loader(augment=augment).epoch(0)))
        fill = torch.tensor(ERASE_FILL, dtype=torch.uint8)[None, :, None, None]
        shares = (images == fill).all(1).float().mean((1, 2))
        erased = shares[shares > 0.05]
        assert 0.35 < len(erased) / len(shares) < 0.65
        assert 0.08 < erased.min() < erased.max() < 0.23


def test_closing_early_leaves_no_thread(open_loader: Open) -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    list(open_loader().epoch(0))  # what DALI keeps for good
    before = threads()
    loader = open_loader()
    epoch = loader.epoch(0)
    next(epoch)
    assert threads() > before
    epoch.close()
    loader.close()
    deadline = time.monotonic() + 5
    while threads() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threads() <= before


class TestDamage:
    @pytest.fixture
    def broken(self, several_shards: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(several_shards, tmp_path / "set"))

    @pytest.mark.parametrize("name", [shard_name("train", 2), index_name("train", 2)])
    def test_a_file_that_is_missing_or_cut_short_is_named_at_once(
        self, open_loader: Open, broken: Path, name: str
    ) -> None:
        size = (broken / name).stat().st_size
        os.truncate(broken / name, size - 10)
        with pytest.raises(ShardError, match=f"{name} has [0-9,]+ bytes, the manifest says"):
            open_loader(shards=broken)
        (broken / name).unlink()
        with pytest.raises(ShardError, match=f"{name} is missing"):
            open_loader(shards=broken)

    def test_an_image_that_does_not_decode_ends_in_one_line(
        self, open_loader: Open, broken: Path
    ) -> None:
        with ShardSet(broken).split("train") as split:
            shard, offset, size = split.place(100)
        path = broken / shard_name("train", shard)
        data = bytearray(path.read_bytes())
        data[offset : offset + size] = bytes(size)
        path.write_bytes(data)
        with pytest.raises(
            ShardError, match=r"DALI could not read or decode.*shards verify"
        ) as error:
            list(open_loader(shards=broken).epoch(0))
        assert "\n" not in error.value.message


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"augment": None}, "is for training; evaluation reads by plan"),
            ({"sampling": "csv"}, "not sampling csv; use --sampling natural"),
            ({"subset": Subset(shots=2)}, "cannot leave out what 2 shots a class does"),
            ({"on_bad_sample": "skip"}, "cannot replace a bad sample"),
            ({"world_size": 3}, "batch size 16 must be a multiple of the 3 ranks"),
            ({"backend": "opencv"}, "is DALI's own reader, but the loader is opencv"),
            ({"backend": "dali"}, "decodes on a CUDA device, but the device is cpu"),
            ({"url": "http://host/set"}, "reads shards from a folder, not from a URL"),
        ],
    )
    def test_what_dalis_reader_cannot_do_is_refused(
        self, open_loader: Open, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            open_loader(**options)

    def test_arrays_are_refused(
        self, open_loader: Open, tiny_dataset: Path, tmp_path: Path, pack_set: Callable[..., Any]
    ) -> None:
        pack_set(tiny_dataset, tmp_path / "raw", raw_share=1.0)
        with pytest.raises(UserError, match=r"stores arrays.*takes JPEGs alone"):
            open_loader(shards=tmp_path / "raw")


@pytest.mark.parametrize("augment", [PLAIN, STRONG], ids=["plain", "strong"])
def test_the_gpu_graph_can_be_defined(several_shards: Path, augment: AugmentConfig) -> None:
    """A wrong argument, or a CPU operator behind a GPU one, raises here; building needs a GPU."""
    config = config_of(several_shards, augment=augment, device="cuda:0", backend="dali")
    shard, index = ([several_shards / name("train", 0)] for name in (shard_name, index_name))
    pipeline = define_sequential(config, "gpu", shard, index, seed=1)
    assert pipeline.exec_dynamic
    assert pipeline.device_id == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_sample_is_shown_once_on_a_gpu(open_loader: Open) -> None:
    batches = list(open_loader(backend="dali", device="cuda:0", augment=STRONG).epoch(0))
    assert sorted(shown(batches)) == list(range(TRAIN))
    assert batches[0].images.device.type == "cuda"


def test_the_order_hash_says_sequential_and_what_the_order_depends_on(open_loader: Open) -> None:
    hashes = [
        open_loader(**options).order_hash
        for options in (
            {},
            {"seed": 2},
            {"shuffle_buffer": 51},
            {"world_size": 2},
            {"read": "planned"},
        )
    ]
    assert len(set(hashes)) == len(hashes)
    assert [each.startswith("sequential-") for each in hashes] == [True] * 4 + [False]
    assert isinstance(open_loader(), SequentialDaliLoader)
