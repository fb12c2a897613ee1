"""Long runs and many loaders: memory, threads and open files stay where they were."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from loaders.augment import AugmentConfig
from loaders.config import LoaderConfig
from loaders.factory import create_loader

SLACK = 3e6
"""Bytes that allocators may still add after the warm-up. Measured: 0.2 MB at most; a batch leaked in
every epoch or cycle would be 5.5 MB in the shortest test here and 276 MB in the longest."""


def footprint() -> tuple[float, int, int]:
    """Resident bytes, threads, open files of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        float(pages * os.sysconf("SC_PAGE_SIZE")),
        threading.active_count(),
        len(os.listdir("/proc/self/fd")),
    )


def grown(work: Callable[[int], None], warm_up: int, times: int) -> tuple[float, int, int]:
    """By how much the footprint grows over ``times`` calls after ``warm_up`` of them."""
    for call in range(warm_up):
        work(call)
    before = footprint()
    for call in range(warm_up, warm_up + times):
        work(call)
    after = footprint()
    return after[0] - before[0], after[1] - before[1], after[2] - before[2]


def config_of(shards: Path) -> LoaderConfig:
    return LoaderConfig(
        shards=shards, backend="opencv", image_size=96, batch_size=10, threads=2,
        augment=AugmentConfig(),
    )  # fmt: skip


@pytest.mark.parametrize("epochs", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_epochs_leave_nothing_behind(epochs: int, tiny_shards: Path) -> None:
    with closing(create_loader(config_of(tiny_shards))) as loader:

        def epoch(number: int) -> None:
            for at, _ in enumerate(loader.epoch(number)):
                if number % 3 == 2 and at == 1:
                    break  # every third is left early

        memory, threads, files = grown(epoch, warm_up=20, times=epochs)
    assert (threads, files) == (0, 0)
    assert memory < SLACK


@pytest.mark.parametrize("cycles", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_opening_and_closing_leaves_nothing_behind(cycles: int, tiny_shards: Path) -> None:
    def cycle(number: int) -> None:
        with closing(create_loader(config_of(tiny_shards))) as loader:
            for at, _ in enumerate(loader.epoch(number)):
                if number % 2 and at == 1:
                    break

    memory, threads, files = grown(cycle, warm_up=10, times=cycles)
    assert (threads, files) == (0, 0)
    assert memory < SLACK
