"""One place that picks a back end; each is imported only when it is chosen."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import get_args

from loaders.batch import Loader
from loaders.config import Backend, LoaderConfig
from shards.errors import UserError, unknown_name


def create_loader(config: LoaderConfig) -> Loader:
    """Open a loader.

    Raises:
        UserError: The back end does not exist, cannot run here, or does not fit the device.
        ShardError: The shard set is missing, unfinished or damaged.
    """
    backend = config.backend
    if backend == "auto":
        backend = "webdataset" if config.url else choose_backend(config.device)[0]
        config = replace(config, backend=backend)
    _check_reading(config)
    if backend == "opencv":
        from loaders.opencv import OpenCVLoader

        return OpenCVLoader(config)
    if backend in ("dali", "dali-cpu"):
        from loaders.dali import DaliLoader  # which says so where DALI is missing

        if config.read == "planned":
            return DaliLoader(config)
        from loaders.sequential import SequentialDaliLoader

        return SequentialDaliLoader(config)
    if backend == "torchvision":
        from loaders.torchvision import TorchvisionLoader

        return TorchvisionLoader(config)
    if backend == "webdataset":
        from loaders.webdataset import WebDatasetLoader

        return WebDatasetLoader(config)
    if backend == "synthetic":
        from loaders.synthetic import SyntheticLoader

        return SyntheticLoader(config)
    raise UserError(unknown_name("loader", backend, get_args(Backend)))


def choose_backend(device: str) -> tuple[Backend, str]:
    """What ``auto`` stands for on a device, and why."""
    if not device.startswith("cuda"):
        return "opencv", "fastest decoder on a CPU"
    if not _has_dali():
        return "opencv", "DALI is not installed, so the CPU decodes; `make setup` installs it"
    return "dali", "decodes on the GPU"


def _check_reading(config: LoaderConfig) -> None:
    if config.url is not None and config.backend != "webdataset":
        raise UserError(
            f"loader {config.backend} reads shards from a folder, not from a URL or command; use "
            "--loader webdataset, or copy the shard set to a disk"
        )
    if config.read == "sequential" and config.backend not in ("dali", "dali-cpu"):
        raise UserError(
            f"--read sequential is DALI's own reader, but the loader is {config.backend}; use "
            "--loader dali or dali-cpu, or --loader webdataset, which always reads so"
        )


def _has_dali() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # not even the package around it
        return False
