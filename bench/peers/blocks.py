"""The blocks that ``bench peers`` times: bare decoding, our loaders, those of other projects."""

from __future__ import annotations

import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any

import simplejpeg
import torch

from bench.peers.data import PeerData
from bench.peers.environments import environment_python
from bench.peers.process import PeerProcess
from bench.peers.rows import COLOR, Own, Peer
from bench.request import Request
from bench.timing import Subject, rate
from loaders.config import LoaderConfig
from loaders.factory import create_loader
from shards.errors import JobError, UserError

BATCH = 64
OPEN_TIMEOUT_S, BLOCK_TIMEOUT_S = 900.0, 120.0
"""Opening writes the photographs in the loader's own form, and compiles; a block is some seconds."""
EPOCH_IMAGES, STORED_EPOCH_IMAGES = 5_000, 1_000
"""Images in an epoch, for each worker and second of a block, so that it does not end before; the
second where a loader stores them all, which none of the fast ones does."""
WARM_UP_BATCHES = 4
"""For each worker: the two that it prepares ahead, and two after them."""
CEILING = "bare decode"
SERVE = Path(__file__).with_name("scripts") / "serve.py"


class PeerBlocks:
    """A peer's process and its blocks. After a failure they are nothing, and the reason is kept.

    Raises:
        UserError: From the constructor, where it is not installed.
        JobError: From the constructor, where it does not start.
    """

    def __init__(self, peer: Peer, data: PeerData, request: Request, work: Path) -> None:
        if peer.originals and data.originals is None:
            raise UserError("name the folder of the photographs with --originals")
        python = environment_python(peer.environment) if peer.environment else sys.executable
        work.mkdir()
        self.failed = ""
        self._request = request
        self._process = PeerProcess(
            [str(python), "-I", str(SERVE), peer.module], work.with_suffix(".log")
        )
        try:
            question = {"do": "open", "settings": _settings(peer, data, request, work)}
            answer = self._process.ask(question, OPEN_TIMEOUT_S)
        except BaseException:
            self._process.close(patience_s=0)
            raise
        self.versions: dict[str, str] = answer.get("versions", {})
        """Of the packages that it uses."""

    def block(self, repeat: int) -> float:
        """Images a second; NaN once it has failed."""
        if self.failed:
            return math.nan
        threads = self._request.num_threads
        question = {
            "do": "block",
            "epoch": repeat + 1,
            "min_s": self._request.block_s,
            "warm_up": WARM_UP_BATCHES * threads,
            "round_to": threads,
        }
        try:
            return _rate(self._process.ask(question, BLOCK_TIMEOUT_S))
        except JobError as error:
            self.failed = error.message
            self._process.close(patience_s=0)
            return math.nan

    def close(self) -> None:
        """End the process and its workers."""
        self._process.close()


def bare_decode(data: PeerData, request: Request, stack: ExitStack) -> Subject:
    """Threads that decode the stored JPEGs whole, from memory, and do nothing else."""
    pool = stack.enter_context(ThreadPoolExecutor(request.num_threads))
    contents = [file.read_bytes() for file in data.files]

    def decode(content: bytes) -> None:
        simplejpeg.decode_jpeg(content, colorspace="RGB")

    def block(repeat: int) -> float:
        images = 0
        start = time.perf_counter()
        while time.perf_counter() - start < request.block_s:
            images += sum(1 for _ in pool.map(decode, contents))
        return images / (time.perf_counter() - start)

    return Subject(CEILING, block, "threads; whole JPEGs, from memory")


def own_subject(own: Own, data: PeerData, request: Request, stack: ExitStack) -> Subject:
    """The ``opencv`` loader, in this process."""
    threads = request.num_threads
    loader = create_loader(
        LoaderConfig(
            shards=data.raw_shards if own.raw else data.jpeg_shards,
            backend="opencv",
            batch_size=batch_size(request),
            sampling="natural",
            epoch_size=_epoch_images(request, data, EPOCH_IMAGES),
            drop_last=True,
            image_size=request.image_size,
            augment=own.augment,
            resample=own.resample,
            threads=threads,
            verify="never",  # as in every epoch of a run but its first
        )
    )
    stack.callback(loader.close)

    def block(repeat: int) -> float:
        with closing(loader.epoch(repeat + 1)) as batches:
            counts = (len(batch) for batch in batches)
            for _ in islice(counts, WARM_UP_BATCHES * threads):
                pass
            return rate(counts, min_s=request.block_s, device=torch.device("cpu"), round_to=threads)

    return Subject(own.name, block, own.differs)


def batch_size(request: Request) -> int:
    """What is asked for, or the default."""
    return request.batch_size or BATCH


def _settings(peer: Peer, data: PeerData, request: Request, work: Path) -> dict[str, Any]:
    """All that a module of ``scripts`` is told."""
    files = data.originals if peer.originals else data.files
    assert files is not None
    return {
        "files": [str(file) for file in files],
        "labels": data.labels,
        "tars": [str(tar) for tar in data.tars],
        "work": str(work),  # an empty folder, for its own form of them
        "store": peer.store,
        "jpeg_quality": data.quality,
        "batch_size": batch_size(request),
        "workers": request.num_threads,
        "epoch_images": _epoch_images(request, data, EPOCH_IMAGES),
        "stored_epoch_images": _epoch_images(request, data, STORED_EPOCH_IMAGES),
        "image_size": request.image_size,
        "crop_scale": COLOR.crop_scale,
        "crop_ratio": COLOR.crop_ratio,
        "hflip_prob": COLOR.hflip_prob,
        "color_jitter": (COLOR.brightness, COLOR.contrast, COLOR.saturation, COLOR.hue),
    }


def _epoch_images(request: Request, data: PeerData, images: int) -> int:
    """Enough to warm up and to fill a block, and each photograph at least once."""
    filled = int(images * request.num_threads * request.block_s)
    warm = (WARM_UP_BATCHES + 2) * request.num_threads * batch_size(request)
    return max(filled, warm, len(data.files))


def _rate(answer: dict[str, Any]) -> float:
    try:
        return float(answer["images"] / answer["seconds"])
    except (KeyError, TypeError, ZeroDivisionError):
        raise JobError(f"answered {str(answer)[:80]}, expected images and seconds") from None
