"""The DALI back ends against a NumPy, OpenCV and torch reference, and how their epochs behave."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn.functional import interpolate

from loaders.augment import AugmentConfig, Transforms, color_matrices
from loaders.batch import Batch
from loaders.config import LoaderConfig
from loaders.planned import PlannedSplit
from preprocess.discover import read_catalog
from preprocess.image import ImageOptions
from preprocess.pack import pack
from shards.errors import ShardError, UserError
from shards.reader import ShardSet

pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")

from loaders import dali as backend

pytestmark = pytest.mark.dali

Pixels = npt.NDArray[np.uint8]
PHOTOS = 24
SIZE = 64
NO_COLOR = AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 photographs of varied sizes, all in train and all in val, smaller than the packing size.

    Their JPEGs pass through packing byte for byte, subsampled chroma and odd sides included.
    """
    root = tmp_path_factory.mktemp("photos")
    folder = root / "merged_dataset"
    rng = np.random.default_rng(7)
    rows = []
    for at in range(PHOTOS):
        species = f"Species {at % 3}"
        height, width = (int(side) for side in rng.integers(70, 240, 2))
        path = folder / species / f"{at:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), draw(rng, height, width), [cv2.IMWRITE_JPEG_QUALITY, 92])
        rows.append([f"/kaggle/working/merged_dataset/{species}/{path.name}", species])
    for split in ("train", "val", "test"):
        with (root / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["image_path", "label"], *rows])
    out = tmp_path_factory.mktemp("packed") / "shards"
    with ThreadPoolExecutor(2) as pool:
        pack(read_catalog(root), out, ImageOptions(), pool)
    return out


@pytest.fixture
def open_loader(shards: Path) -> Iterator[Callable[..., backend.DaliLoader]]:
    opened: list[backend.DaliLoader] = []

    def make(**options: Any) -> backend.DaliLoader:
        opened.append(backend.DaliLoader(config_of(shards, **options)))
        return opened[-1]

    yield make
    for loader in opened:
        loader.close()


def config_of(shards: Path, **options: Any) -> LoaderConfig:
    settings: dict[str, Any] = {
        "shards": shards,
        "backend": "dali-cpu",
        "batch_size": 5,
        "image_size": SIZE,
        "augment": AugmentConfig(),
        "threads": 2,
        "seed": 3,
    }
    return LoaderConfig(**settings | options)


def evaluation(**options: Any) -> dict[str, Any]:
    return {"split": "val", "augment": None, "shuffle": False, "resample": "antialias"} | options


def draw(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Smooth noise, hard-edged shapes and a little fine noise: what a photograph has of each."""
    coarse = rng.integers(0, 256, (max(2, height // 24), max(2, width // 24), 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(4):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        color = [int(value) for value in rng.integers(0, 256, 3)]
        cv2.circle(image, centre, int(rng.integers(8, 40)), color, -1)
    noisy = image + rng.normal(0, 6, image.shape)
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def reference(config: LoaderConfig, epoch: int = 0) -> Iterator[Pixels]:
    """``(B, S, S, 3)`` of each batch: full decode, slice, resize, window, colour matrix, flip."""
    planned = PlannedSplit(config)
    for batch in planned.plan.batches(epoch):
        transforms = planned.transforms(epoch, batch)
        yield np.stack(
            [
                transformed(full_decode(planned.split.payload(sample)), transforms, at, config)
                for at, sample in enumerate(batch.ids.tolist())
            ]
        )
    planned.close()


def full_decode(payload: memoryview) -> Pixels:
    decoded = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def transformed(image: Pixels, transforms: Transforms, at: int, config: LoaderConfig) -> Pixels:
    top, left, height, width = transforms.crops[at].tolist()
    region = image[top : top + height, left : left + width]
    size = transforms.sizes[at].tolist()
    if config.resample == "antialias":
        nchw = torch.from_numpy(region.copy()).permute(2, 0, 1)[None]
        resized = interpolate(nchw, size, mode="bilinear", antialias=True, align_corners=False)
        result = resized[0].permute(1, 2, 0).numpy()
    else:
        result = cv2.resize(region, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    top, left = transforms.windows[at].tolist()
    side = transforms.image_size
    result = result[top : top + side, left : left + side]
    if transforms.colors is not None:
        result = cv2.transform(result.copy(), color_matrices(transforms.colors)[at])
    return np.asarray(result[:, ::-1] if transforms.flips[at] else result, np.uint8)


def nhwc(batch: Batch) -> Pixels:
    return np.asarray(batch.images.permute(0, 2, 3, 1).cpu())


def differences(loader: backend.DaliLoader, config: LoaderConfig) -> tuple[float, int]:
    """Mean and largest difference from the reference over an epoch, of 255."""
    each = [
        np.abs(nhwc(batch).astype(np.int16) - wanted)
        for batch, wanted in zip(loader.epoch(0), reference(config), strict=True)
    ]
    flat = np.concatenate([part.ravel() for part in each])
    return float(flat.mean()), int(flat.max())


def same(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.ids, second.ids)
        and torch.equal(first.labels, second.labels)
        and torch.equal(first.images, second.images)
    )


# Pixels. Measured with DALI 2.4.0 on x86-64, here and on flowers17 at 128 and 224 px (mean / largest
# difference of 255): linear 0.12-0.15 / 1; linear and colour 0.16-0.18 / 4, since contrast and
# brightness enlarge the resampler's 1; antialias 0.11-0.16 / 1-15. The rest is room for versions.


@pytest.mark.parametrize(
    ("options", "mean", "largest"),
    [
        ({"augment": NO_COLOR}, 0.3, 2),
        ({"augment": AugmentConfig()}, 0.4, 5),
        (evaluation(resample="linear"), 0.3, 2),
        ({"augment": NO_COLOR, "resample": "antialias"}, 0.4, 20),
        (evaluation(), 0.4, 20),
        (evaluation(resize_size=SIZE), 0.4, 20),
    ],
    ids=["train", "train-color", "eval-linear", "train-antialias", "eval", "eval-no-margin"],
)
def test_dali_cpu_batches_equal_the_reference(
    open_loader: Callable[..., backend.DaliLoader],
    shards: Path,
    options: dict[str, Any],
    mean: float,
    largest: int,
) -> None:
    found = differences(open_loader(**options), config_of(shards, **options))
    assert found[0] <= mean
    assert found[1] <= largest


def test_color_twist_equals_the_color_matrices_to_one_step() -> None:
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (32, 40, 40, 3), dtype=np.uint8)
    low, high = [0.6, 0.6, 0.6, -36], [1.4, 1.4, 1.4, 36]
    colors = rng.uniform(low, high, (len(images), 4)).astype(np.float32)
    factors = [np.ascontiguousarray(column) for column in colors.T]
    pipeline = backend.dali.Pipeline(batch_size=len(images), num_threads=2, device_id=None)
    with pipeline:
        data, *nodes = backend.fn.external_source(
            source=lambda: [images, *factors], num_outputs=5, layout=["HWC"]
        )
        named = dict(zip(backend.COLOR_FACTORS, nodes, strict=True))
        pipeline.set_outputs(backend.fn.color_twist(data, **named))
    (output,) = pipeline.run()
    twisted = np.asarray(output.as_tensor()).astype(np.int16)
    wanted = np.stack(
        [cv2.transform(*pair) for pair in zip(images, color_matrices(colors), strict=True)]
    )
    assert np.abs(twisted - wanted).max() <= 1


# Epochs.


def test_batches_follow_the_contract(open_loader: Callable[..., backend.DaliLoader]) -> None:
    loader = open_loader()
    batches = list(loader.epoch(0))
    assert loader.name == "dali-cpu"
    assert loader.samples_per_epoch == PHOTOS
    assert len(batches) == loader.steps_per_epoch == 5
    for batch in batches:
        assert batch.images.shape == (len(batch), 3, SIZE, SIZE)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == batch.ids.dtype == torch.int64
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 4]
    assert torch.equal(torch.cat([batch.ids for batch in batches]).sort()[0], torch.arange(PHOTOS))


@pytest.mark.parametrize("prefetch", [1, 3, 40])
def test_every_epoch_is_complete_whatever_the_prefetch(
    open_loader: Callable[..., backend.DaliLoader], prefetch: int
) -> None:
    plain, other = open_loader(), open_loader(prefetch=prefetch)
    for epoch in range(3):
        pairs = zip(plain.epoch(epoch), other.epoch(epoch), strict=True)
        assert all(same(*pair) for pair in pairs)


def test_a_kept_batch_does_not_change(open_loader: Callable[..., backend.DaliLoader]) -> None:
    loader = open_loader(batch_size=2)
    epochs = (batch for epoch in range(3) for batch in loader.epoch(epoch))
    kept = [next(epochs) for _ in range(3)]
    before = [batch.images.clone() for batch in kept]
    for _ in range(20):
        next(epochs).images.fill_(0)  # the caller may also write to what it was given
    epochs.close()
    loader.close()
    assert all(torch.equal(batch.images, was) for batch, was in zip(kept, before, strict=True))


def test_resuming_gives_the_batches_of_an_unbroken_epoch(
    open_loader: Callable[..., backend.DaliLoader],
) -> None:
    whole = list(open_loader().epoch(2))
    resumed = list(open_loader().epoch(2, first_step=3))
    assert len(resumed) == 2
    assert all(same(*pair) for pair in zip(resumed, whole[3:], strict=True))
    assert list(open_loader().epoch(2, first_step=5)) == []


def test_the_next_epoch_is_fresh_after_a_break(
    open_loader: Callable[..., backend.DaliLoader],
) -> None:
    wanted = list(open_loader().epoch(1))
    loader = open_loader()
    for _ in loader.epoch(0):
        break
    assert all(same(*pair) for pair in zip(loader.epoch(1), wanted, strict=True))


def test_two_epochs_may_be_open_at_a_time(open_loader: Callable[..., backend.DaliLoader]) -> None:
    first, second = (list(open_loader().epoch(epoch)) for epoch in (0, 1))
    loader = open_loader()
    for mine, other, wanted, also in zip(
        loader.epoch(0), loader.epoch(1), first, second, strict=True
    ):
        assert same(mine, wanted)
        assert same(other, also)


def test_the_ranks_share_each_batch_and_an_empty_share_is_an_empty_batch(
    open_loader: Callable[..., backend.DaliLoader],
) -> None:
    # 24 = 23 + 1: rank 0 of 2 gets nothing of the last batch.
    options = {"batch_size": 23, "augment": AugmentConfig()}
    ranks = [list(open_loader(rank=rank, world_size=2, **options).epoch(0)) for rank in (0, 1)]
    whole = list(open_loader(**options).epoch(0))
    assert [[len(batch) for batch in batches] for batches in ranks] == [[11, 0], [12, 1]]
    assert ranks[0][1].images.shape == (0, 3, SIZE, SIZE)
    for *shares, batch in zip(*ranks, whole, strict=True):
        assert torch.equal(torch.cat([share.images for share in shares]), batch.images)
        assert torch.equal(torch.cat([share.labels for share in shares]), batch.labels)


# Failures.


@contextmanager
def damaged(shards: Path, sample: int, split: str = "val") -> Iterator[str]:
    """Zero the first half of a sample and give the name of its shard; undone at the end."""
    record = ShardSet(shards).split(split).samples[sample]
    path = shards / f"{split}-{int(record['shard']):06d}.tar"
    start, size = int(record["offset"]), int(record["size"])
    with path.open("r+b") as file:  # in place: a mapped file must not shrink
        file.seek(start)
        original = file.read(size)

        def put(data: bytes) -> None:
            file.seek(start)
            file.write(data)
            file.flush()

        put(bytes(size // 2))
        try:
            yield path.name
        finally:
            put(original)


def test_a_damaged_sample_is_named_after_the_batches_before_it(
    open_loader: Callable[..., backend.DaliLoader], shards: Path
) -> None:
    loader = open_loader(**evaluation())
    with damaged(shards, 12) as tar:
        epoch = loader.epoch(0)
        assert [len(next(epoch)) for _ in range(2)] == [5, 5]
        with pytest.raises(ShardError, match=rf"sample \d+ of .*{tar} .*crc32 does not match"):
            next(epoch)
    assert len(list(loader.epoch(0))) == 5, "the pipeline is of use again"


@pytest.mark.parametrize("consumed", [1, 2])
def test_a_sample_that_does_not_decode_is_named(
    open_loader: Callable[..., backend.DaliLoader], shards: Path, consumed: int
) -> None:
    loader = open_loader(**evaluation(verify="never"))
    with damaged(shards, 12) as tar:
        epoch = loader.epoch(0)
        assert [len(next(epoch)) for _ in range(2)] == [5, 5]
        with pytest.raises(ShardError, match=rf"sample 0*12 of .*{tar} .*does not decode"):
            next(epoch)
        # It may also be in a batch that nobody asks for any more.
        epoch = loader.epoch(0)
        assert [len(next(epoch)) for _ in range(consumed)] == [5] * consumed
        epoch.close()
    assert len(list(loader.epoch(0))) == 5, "a new pipeline takes over"


def test_dali_without_a_gpu_says_what_to_do(shards: Path) -> None:
    with pytest.raises(UserError, match="--loader opencv"):
        backend.DaliLoader(config_of(shards, backend="dali", device="cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(shards: Path) -> None:
    with pytest.raises(UserError, match="cuda:0 is not available"):
        backend.DaliLoader(config_of(shards, backend="dali", device="cuda:0"))


# The GPU graph: DALI checks types and devices where it is defined, which needs no GPU.


@pytest.mark.parametrize("options", [{}, {"augment": NO_COLOR}, evaluation()])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_graph_can_be_defined(
    shards: Path, options: dict[str, Any], device: backend.GraphDevice
) -> None:
    config = config_of(shards, backend="dali", device="cuda:0", **options)
    pipeline = backend.define_graph(config, device)
    assert pipeline.exec_dynamic
    assert pipeline.device_id == (0 if device == "gpu" else None)
    with pipeline:
        assert backend.graph(config, device, None).device == device


def test_a_cpu_operator_after_the_gpu_ones_is_refused(shards: Path) -> None:
    config = config_of(shards, backend="dali", device="cuda:0")
    with backend.define_graph(config, "gpu"):
        images = backend.graph(config, "gpu", None)
        with pytest.raises(RuntimeError, match="incompatible device"):
            backend.fn.flip(images, device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{}, evaluation()], ids=["train", "eval"])
def test_the_gpu_equals_the_cpu(
    open_loader: Callable[..., backend.DaliLoader], options: dict[str, Any]
) -> None:
    on_cpu = open_loader(**options)
    on_gpu = open_loader(**options | {"backend": "dali", "device": "cuda:0"})
    kept = list(on_gpu.epoch(0))
    before = [batch.images.clone() for batch in kept]
    list(on_gpu.epoch(1))
    for mine, was, wanted in zip(kept, before, on_cpu.epoch(0), strict=True):
        assert mine.images.is_cuda
        assert mine.labels.is_cuda
        assert mine.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(mine.images, was), "a kept batch changed"
        assert torch.equal(mine.ids.cpu(), wanted.ids)
        assert torch.equal(mine.labels.cpu(), wanted.labels)
        difference = np.abs(nhwc(mine).astype(np.int16) - nhwc(wanted))
        # Not measured yet: nvJPEG's inverse DCT rounds otherwise than libjpeg-turbo's.
        assert difference.mean() <= 1.0
        assert difference.max() <= 24
