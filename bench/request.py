"""What every measurement is asked for, and the shard set that it runs on."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from preprocess.demo_data import draw_demo_data
from preprocess.discover import read_catalog
from preprocess.image import ImageOptions
from preprocess.pack import pack
from shards.machine import allowed_cores
from shards.reader import ShardSet
from shards.settings import KEYS, path_setting
from train.config.config import TrainConfig
from train.config.recipes import create_recipe
from train.config.resolve import Resolved, resolve

PACK_FILES = 40
"""As many where photographs are packed: a repeat is to take seconds."""
DEMO_FILES, DEMO_SIZE = 12, 440
"""Training photographs of the largest class, and their shorter side [px]: as large as packed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Settings that the suites share; each picks its own default where one is None."""

    shards: Path
    image_size: int
    batch_size: int | None = None
    threads: int | None = None
    """Of the loaders, and on a CPU of the model; by default the allowed cores."""
    repeats: int = 3
    block_s: float = 1.0
    """Least length of a timed block [s]."""
    budget_s: float = math.inf
    """Time of a section after which no further repeat begins, once there are two [s]."""
    device: str = "auto"

    def on(self, shards: Path) -> Request:
        """The same for another shard set."""
        return replace(self, shards=shards)

    @property
    def num_threads(self) -> int:
        """Threads or worker processes of a loader."""
        return self.threads or allowed_cores()

    def training(
        self, arch: str, *, cpu_batch: int, gpu_batch: int
    ) -> tuple[TrainConfig, Resolved]:
        """The baseline recipe with these settings, and what ``auto`` means here.

        Raises:
            UserError: The device is not there.
        """
        config = replace(
            create_recipe("baseline"),
            arch=arch,
            image_size=self.image_size,
            device=self.device,
            threads=self.threads,
        )
        resolved = resolve(config)
        default = cpu_batch if resolved.device.type == "cpu" else gpu_batch
        return replace(config, batch_size=self.batch_size or default), resolved


def images_per_epoch(shards: Path) -> int:
    """Training images of an epoch, repetitions counted.

    Raises:
        ShardError: There is no such shard set.
    """
    with ShardSet(shards).split("train") as split:
        return int(split.repeats.sum())


def fitting_batch(wanted: int, images: int, batches: int) -> int:
    """The batch size, made smaller where an epoch would not give so many batches of it."""
    return max(1, min(wanted, images // batches))


@contextmanager
def photographs(given: Path | None) -> Iterator[Path]:
    """``given``, else this machine's default, else drawn photographs that go away afterwards."""
    data = given or path_setting("data_dir")
    if data is not None:
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="hyphae-bench-") as folder:
        click.echo(
            f"no {KEYS['data_dir']} given (DATA, HYPHAE_DATA_DIR or local.toml): drawing a demo "
            "set, which takes some seconds; real photographs decode at another speed"
        )
        draw_demo_data(Path(folder), train_files=PACK_FILES, size=DEMO_SIZE)
        yield Path(folder)


@contextmanager
def shard_set(given: Path | None) -> Iterator[Path]:
    """``given``, else this machine's default, else a small drawn set that goes away afterwards.

    Raises:
        ShardError: There is no shard set where one was named.
    """
    directory = given or path_setting("shards_dir")
    if directory is not None:
        images_per_epoch(directory)  # says what is wrong before anything else is printed
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="hyphae-bench-") as folder:
        click.echo(
            f"no {KEYS['shards_dir']} given (--shards, HYPHAE_SHARDS_DIR or local.toml): "
            "drawing and packing a small demo set, which takes some seconds; "
            "real photographs decode at another speed"
        )
        yield _draw(Path(folder))


def _draw(folder: Path) -> Path:
    data, out = folder / "photographs", folder / "demo-shards"
    draw_demo_data(data, train_files=DEMO_FILES, eval_files=1, size=DEMO_SIZE)
    with ThreadPoolExecutor(allowed_cores()) as executor:
        pack(read_catalog(data), out, ImageOptions(), executor)
    return out
