"""Small photographs, a data set of them, the shard set it packs into, and commands to run."""

from __future__ import annotations

import csv
import gc
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import settings
from PIL import Image

from preprocess.discover import read_catalog
from preprocess.image import ImageOptions
from preprocess.pack import pack
from shards.format import Manifest

REPO = Path(__file__).resolve().parents[1]
# What `bench tune` found for this machine must not change what is tested, here or in a process.
os.environ["XDG_CONFIG_HOME"] = str(REPO / "tests" / "no-such-folder")
# Read when torch is loaded. Threads of OpenMP that wait otherwise keep their cores busy, which beside other
# tests on the same cores costs several times what the tests need.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As under nohup, or behind the & of a script: processes that tests start would ignore Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
CLASSES = ("Amanita muscaria", "Boletus edulis", "Cantharellus cibarius")
TRAIN_FILES = (12, 8, 4)
TRAIN_ROWS = 12  # of each class: repetition balances them, as in the published train.csv
EVAL_FILES = 2
SHORT_SIDE = 96

Pixels = npt.NDArray[np.uint8]
Photo = Callable[[np.random.Generator, int, int], Pixels]

# No database, no clock: the same examples everywhere, on a shared machine too.
settings.register_profile("hyphae", max_examples=25, deadline=None, derandomize=True)
settings.load_profile("hyphae")


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """``run`` ends a process, and leaves its signals as they end: ignored, for every child after it, too."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    yield
    sys.unraisablehook = hook
    for each, handler in handlers.items():
        signal.signal(each, handler)


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not _has("nvidia.dali"):
        for item in items:
            if item.get_closest_marker("dali"):
                item.add_marker(pytest.mark.skip(reason="nvidia.dali is not installed"))


def pytest_collection_finish() -> None:
    """What was imported for the tests is garbage to none of them: searching it took most of closing DALI."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries complain at the end that their objects are still there


def draw_photo(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """``(height, width, 3)`` RGB: smooth noise and a few shapes, without any symmetry."""
    coarse = rng.integers(40, 216, (5, 7, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (1 + int(rng.integers(1 + width // 4)), 1 + int(rng.integers(1 + height // 4)))
        colour = [int(each) for each in rng.integers(0, 256, 3)]
        cv2.ellipse(image, centre, axes, float(rng.integers(180)), 0, 360, colour, -1, cv2.LINE_AA)
    # A dark corner: a photograph that is mirrored or turned by mistake cannot pass for itself.
    image[: 1 + height // 6, : 1 + width // 6] = (10, 20, 30)
    noise = rng.normal(0, 1.5, image.shape)
    return np.asarray(np.clip(image + noise, 0, 255), np.uint8)


def encode_jpeg(pixels: Pixels, quality: int = 92) -> bytes:
    """A baseline YCbCr JPEG with 4:2:0 subsampling."""
    return bytes(simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def photo() -> Photo:
    """``photo(rng, width, height)`` draws an RGB image."""
    return draw_photo


@pytest.fixture(scope="session")
def jpeg() -> Callable[..., bytes]:
    """``jpeg(pixels, quality=92)`` encodes a baseline JPEG."""
    return encode_jpeg


def write_csv(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image_path", "label"])
        table.writerows((f"/kaggle/working/merged_dataset/{name}", label) for name, label in rows)


def _unusual_files(images: Path, rng: np.random.Generator) -> None:
    """Put in place of six ordinary train files what a real data set holds."""
    amanita, boletus = images / CLASSES[0], images / CLASSES[1]
    (amanita / "train 00.jpg").write_bytes(encode_jpeg(draw_photo(rng, 640, 480)))
    (amanita / "train 01.jpg").write_bytes(encode_jpeg(draw_photo(rng, 450, 620)))
    (amanita / "train 02.jpg").write_bytes(encode_jpeg(draw_photo(rng, 120, 90)))  # fits: 90 < 96
    Image.fromarray(draw_photo(rng, 150, 110)).convert("L").save(amanita / "train 03.jpg")
    Image.fromarray(draw_photo(rng, 130, 140)).save(boletus / "train 00.jpg", format="PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(draw_photo(rng, 160, 120)).save(boletus / "train 01.jpg", exif=exif)


def make_dataset(data: Path, seed: int = 0) -> Path:
    """The Kaggle layout: 24 train files in 36 rows, 6 val and 6 test files, three classes."""
    rng = np.random.default_rng(seed)
    images = data / "merged_dataset"
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    for name, train_files in zip(CLASSES, TRAIN_FILES, strict=True):
        (images / name).mkdir(parents=True)
        for split, files in (("train", train_files), ("val", EVAL_FILES), ("test", EVAL_FILES)):
            names = [f"{split} {number:02d}.jpg" for number in range(files)]
            for file in names:
                width, height = (int(each) for each in rng.integers(100, 220, 2))
                photo = encode_jpeg(draw_photo(rng, width, height))
                (images / name / file).write_bytes(photo)
            repeated = islice(cycle(names), TRAIN_ROWS if split == "train" else files)
            rows[split] += [(f"{name}/{file}", name) for file in repeated]
    _unusual_files(images, rng)
    for split, each in rows.items():
        order = rng.permutation(len(each))  # repeated rows do not stand side by side
        write_csv(data / f"{split}.csv", [each[at] for at in order])
    return data


class PackSet(Protocol):
    """Packs in this process."""

    def __call__(
        self,
        data: Path,
        out: Path,
        *,
        workers: int = 2,
        short_side: int = SHORT_SIDE,
        quality: int = 90,
        raw_share: float = 0.0,
        seed: int = 0,
        max_rejected: float = 0.01,
    ) -> Manifest: ...


def pack_dataset(
    data: Path,
    out: Path,
    *,
    workers: int = 2,
    short_side: int = SHORT_SIDE,
    quality: int = 90,
    raw_share: float = 0.0,
    seed: int = 0,
    max_rejected: float = 0.01,
) -> Manifest:
    catalog = read_catalog(data, seed=seed, max_missing=max_rejected)
    options = ImageOptions(short_side=short_side, quality=quality, raw_share=raw_share)
    with ThreadPoolExecutor(workers) as executor:
        return pack(catalog, out, options, executor, max_rejected=max_rejected)


@pytest.fixture(scope="session")
def pack_set() -> PackSet:
    """``pack_set(data, out, ...)``: read the catalogue and pack it with threads."""
    return pack_dataset


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set to read, never to change; :func:`dataset_copy` gives one to change."""
    return make_dataset(tmp_path_factory.mktemp("tiny dataset") / "mushrooms")


@pytest.fixture(scope="session")
def tiny_shards(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_dataset``, packed; to read, never to change."""
    out = tmp_path_factory.mktemp("tiny shards") / "set"
    pack_dataset(tiny_dataset, out)
    return out


@pytest.fixture
def dataset_copy(tiny_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dataset, tmp_path / "photographs"))


@pytest.fixture
def shards_copy(tiny_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards to break"))


@pytest.fixture(scope="session")
def gappy_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with two unusable train files: one cut short (Boletus), one no image (Amanita)."""
    data = make_dataset(tmp_path_factory.mktemp("gappy dataset") / "mushrooms")
    cut = data / "merged_dataset" / CLASSES[1] / "train 05.jpg"
    cut.write_bytes(cut.read_bytes()[:-400])
    (data / "merged_dataset" / CLASSES[0] / "train 07.jpg").write_text("<html>404</html>")
    return data


@pytest.fixture(scope="session")
def gappy_shards(gappy_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``gappy_dataset``, packed without the two."""
    out = tmp_path_factory.mktemp("gappy shards") / "set"
    pack_dataset(gappy_dataset, out, max_rejected=0.1)
    return out


class RunCommand(Protocol):
    """Runs ``python -m ARGS`` as a user would."""

    def __call__(
        self, *args: str | Path, env: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def command_environment() -> dict[str, str]:
    """The environment of a command: this repository's code, no per-machine defaults."""
    environment = {name: value for name, value in os.environ.items() if "HYPHAE_" not in name}
    return environment | {"PYTHONPATH": str(REPO)}


@pytest.fixture
def run_command(tmp_path: Path, command_environment: dict[str, str]) -> RunCommand:
    """``run_command("shards", "info", folder)``, run in ``tmp_path``."""

    def run(
        *args: str | Path, env: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *map(str, args)],
            cwd=tmp_path,
            env=command_environment | (env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
