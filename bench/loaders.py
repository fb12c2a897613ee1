"""Loader speed: every back end over the same shards with the same augmentation, beside its ceiling.

``read only`` copies the stored bytes, ``decode`` also decodes them, both with as many threads as
the back ends have; no loader that decodes whole images on the CPU can be faster than ``decode``.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from bench.request import Request, fitting_batch, images_per_epoch
from bench.result import Result, Section, not_measured
from bench.timing import Subject, in_turns, rate
from loaders.augment import AugmentConfig
from loaders.batch import Loader
from loaders.config import Backend, LoaderConfig, Read, Resample
from loaders.factory import create_loader
from loaders.opencv import decode
from loaders.plan import Sampling
from loaders.planned import PlannedSplit
from preprocess.csv_layout import IMAGE_FOLDER
from shards.errors import ShardError, UserError
from shards.format import Manifest
from shards.reader import ShardSet, Split
from train.config.device import choose_device

CPU_BATCH, GPU_BATCH = 32, 128
CEILING = "decode"
PIECE = 8
"""Images a task of the bare threads."""

Work = Callable[[Split, int], object]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A back end with the resampling that it is measured with."""

    name: str
    backend: Backend
    resample: Resample
    originals: bool = False
    read: Read = "planned"
    sampling: Sampling = "csv"


CONTESTANTS = (
    Contestant("opencv linear", "opencv", "linear"),
    Contestant("opencv antialias", "opencv", "antialias"),
    Contestant("dali linear", "dali", "linear"),
    Contestant("dali-cpu linear", "dali-cpu", "linear"),
    Contestant("torchvision DataLoader", "torchvision", "antialias"),
    Contestant("torchvision, original files", "torchvision", "antialias", originals=True),
    Contestant("webdataset linear", "webdataset", "linear", sampling="natural"),
    Contestant(
        "dali-cpu, shard by shard", "dali-cpu", "linear", read="sequential", sampling="natural"
    ),
)


def measure_loaders(request: Request, originals: Path | None = None) -> Section:
    """Images a second of each back end that can run here, the others with the reason.

    Raises:
        UserError: The device or ``originals`` is not there.
        ShardError: The shard set is missing or damaged.
    """
    if originals is not None:
        originals = originals_root(originals, request.shards)
    device, _ = choose_device(request.device)
    config, warm_up = _configure(request, device)
    missing: list[Result] = []
    with ExitStack() as stack:
        subjects = _bare_subjects(config, request, stack)
        for contestant in CONTESTANTS:
            why_not = _obstacle(contestant, device, originals)
            if why_not is None:
                try:
                    loader = _open(contestant, config, originals)
                except ShardError:
                    raise
                except UserError as error:
                    why_not = error.message
            if why_not is not None:
                missing.append(not_measured(contestant.name, why_not))
                continue
            stack.callback(loader.close)
            subjects.append(_subject(contestant.name, loader, request, device, warm_up))
        values = in_turns(subjects, request.repeats, "loaders", request.budget_s)
    measured = {
        each.name: Result(name=each.name, repeats=values[each.name], note=each.note)
        for each in subjects
    }
    found = measured | {each.name: each for each in missing}
    order = ["read only", CEILING, *(each.name for each in CONTESTANTS)]
    return _section(config, request, tuple(found[name] for name in order))


def originals_root(folder: Path, shards: Path) -> Path:
    """Where the source paths of a shard set begin: ``folder``, or its ``merged_dataset``.

    Raises:
        UserError: The first photograph is in neither.
    """
    with ShardSet(shards).split("train") as split:
        first = str(split.metadata(0)["path"])
    for root in (folder, folder / IMAGE_FOLDER):
        if (root / first).is_file():
            return root
    raise UserError(f"no original photograph {folder / first}: give the folder that was packed")


def stored_form(shards: Path) -> str:
    """How a shard set keeps its photographs, in a few words."""
    options = Manifest.read(shards).options
    side = f"short side {options.get('short_side', 'unknown')}"
    raw = options.get("raw_share", 0)
    if raw == 1:
        return f"pixels, {side}"
    mixed = f", {raw:.0%} of them pixels" if raw else ""
    return f"JPEG {options.get('quality', '')}".strip() + f", {side}{mixed}"


def _configure(request: Request, device: torch.device) -> tuple[LoaderConfig, int]:
    """The common configuration, and how many batches warm it up: one a worker."""
    warm_up = request.num_threads
    wanted = request.batch_size or (CPU_BATCH if device.type == "cpu" else GPU_BATCH)
    config = LoaderConfig(
        shards=request.shards,
        device=str(device),
        batch_size=fitting_batch(wanted, images_per_epoch(request.shards), 3 * warm_up),
        image_size=request.image_size,
        augment=AugmentConfig(),
        threads=request.num_threads,
        # As in every epoch of a run but its first.
        verify="never",
    )
    return config, warm_up


def _obstacle(contestant: Contestant, device: torch.device, originals: Path | None) -> str | None:
    """Why a back end is left out; None if it can run."""
    if contestant.backend == "dali" and device.type != "cuda":
        return "no CUDA device" if not torch.cuda.is_available() else f"--device {device}"
    if contestant.backend.startswith("dali") and importlib.util.find_spec("nvidia.dali") is None:
        return "DALI is not installed"
    if contestant.originals and originals is None:
        return "name their folder with --originals"
    return None


def _open(contestant: Contestant, config: LoaderConfig, originals: Path | None) -> Loader:
    return create_loader(
        replace(
            config,
            backend=contestant.backend,
            resample=contestant.resample,
            originals=originals if contestant.originals else None,
            read=contestant.read,
            sampling=contestant.sampling,
        )
    )


def _subject(
    name: str, loader: Loader, request: Request, device: torch.device, warm_up: int
) -> Subject:
    def block(repeat: int) -> float:
        # The same epoch for all at each repeat: the same images with the same crops.
        with closing(loader.epoch(repeat + 1)) as batches:
            counts = (len(batch) for batch in batches)
            for _ in islice(counts, warm_up):
                pass
            return rate(counts, min_s=request.block_s, device=device, round_to=warm_up)

    return Subject(name, block)


def _bare_subjects(config: LoaderConfig, request: Request, stack: ExitStack) -> list[Subject]:
    planned = PlannedSplit(config)
    stack.callback(planned.close)
    pool = stack.enter_context(ThreadPoolExecutor(request.num_threads))

    def subject(name: str, work: Work) -> Subject:
        def block(repeat: int) -> float:
            order = planned.plan.order(repeat + 1)
            pieces = (order[at : at + PIECE].tolist() for at in range(0, len(order), PIECE))
            with closing(_in_threads(pool, work, planned.split, pieces)) as counts:
                for _ in islice(counts, request.num_threads):
                    pass
                return rate(
                    counts,
                    min_s=request.block_s,
                    device=torch.device("cpu"),
                    round_to=request.num_threads,
                )

        return Subject(name, block)

    return [subject("read only", _read), subject(CEILING, decode)]


def _read(split: Split, sample: int) -> object:
    return np.frombuffer(split.payload(sample), np.uint8).copy()


def _in_threads(
    pool: ThreadPoolExecutor, work: Work, split: Split, pieces: Iterable[list[int]]
) -> Generator[int]:
    """Do pieces in parallel, a few ahead of the caller; yields the images of each."""

    def do(piece: list[int]) -> int:
        for sample in piece:
            work(split, sample)
        return len(piece)

    ahead: deque[Future[int]] = deque()
    try:
        for piece in pieces:
            ahead.append(pool.submit(do, piece))
            if len(ahead) > 2 * pool._max_workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()


def _section(config: LoaderConfig, request: Request, results: tuple[Result, ...]) -> Section:
    stored = stored_form(config.shards)
    notes = []
    wanted = request.batch_size
    if wanted is not None and config.batch_size < wanted:
        notes.append(f"batch {config.batch_size} instead of {wanted}: the epoch is too short")
    return Section(
        name="loaders",
        title=(
            f"loaders: {config.image_size} px, batch {config.batch_size}, {config.threads} threads, "
            f"the baseline's augmentation, page cache warm, {config.shards} ({stored})"
        ),
        results=results,
        reference=CEILING,
        settings={
            "image_size": config.image_size,
            "batch_size": config.batch_size,
            "threads": config.threads,
            "device": config.device,
            "shards": str(config.shards),
            "stored": stored,
        },
        notes=tuple(notes),
    )
