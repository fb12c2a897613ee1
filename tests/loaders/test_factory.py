"""Which back end ``auto`` means, and what a loader may be asked for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from loaders.config import LoaderConfig
from loaders.factory import choose_backend, create_loader
from shards.errors import ShardError, UserError


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_without_cuda_auto_is_opencv(device: str) -> None:
    assert choose_backend(device) == ("opencv", "fastest decoder on a CPU")


def test_auto_opens_opencv_on_a_cpu(tiny_shards: Path) -> None:
    loader = create_loader(LoaderConfig(shards=tiny_shards, image_size=32))
    try:
        assert loader.name == "opencv"
    finally:
        loader.close()


def test_on_cuda_auto_is_dali_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert choose_backend("cuda:1")[0] == "dali"


def test_on_cuda_without_dali_auto_says_why_it_is_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    backend, reason = choose_backend("cuda")
    assert backend == "opencv"
    assert "DALI is not installed" in reason


def test_on_cuda_without_any_nvidia_package_auto_is_opencv(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with conda's torch: not even the parent package of ``nvidia.dali`` is there."""
    monkeypatch.setitem(sys.modules, "nvidia", None)
    monkeypatch.delitem(sys.modules, "nvidia.dali", raising=False)
    assert choose_backend("cuda")[0] == "opencv"


def test_an_unknown_back_end_gets_the_nearest_name(tiny_shards: Path) -> None:
    config = LoaderConfig(shards=tiny_shards, backend="opencl")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"unknown loader 'opencl'; did you mean 'opencv'\?"):
        create_loader(config)


def test_a_folder_that_is_no_shard_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="is not a shard set"):
        create_loader(LoaderConfig(shards=tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"prefetch": 0}, "prefetch must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"epoch_size": 0}, "epoch_size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 is not below world_size 2"),
        ({"image_size": 64, "resize_size": 63}, "resize_size 63 is below image_size 64"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_an_impossible_request_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoaderConfig(shards=Path("set"), **options)
