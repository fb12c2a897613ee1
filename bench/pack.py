"""Packing speed beside the obvious loop over Pillow, and beside bare decoding; and its memory.

Everything takes turns over the same photographs and writes into one temporary folder. The loops run
in processes of their own whose only foreign package is ``PIL``: stock Pillow, installed apart from
this environment, and the environment's own.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import PIL

from bench.memory import can_measure_memory
from bench.pack_blocks import (
    BARE,
    COMMAND,
    LONGEST_SIDE,
    MEMORY,
    OWN,
    PACKING,
    PASSED,
    STOCK,
    PackBlocks,
    PackRequest,
    sampled_catalog,
)
from bench.result import Result, Section, not_measured
from bench.stock_pillow import stock_pillow
from bench.timing import Subject, in_turns
from preprocess.executors import local_executor
from preprocess.image import ImageOptions
from shards.errors import UserError
from shards.machine import human_bytes

RATE = "photos/s"


def measure_pack(request: PackRequest) -> tuple[Section, Section, Section]:
    """Resizing beside the loops, passing through beside decoding, and peak memory.

    Raises:
        UserError: There are no photographs, or an option that cannot be.
        JobError: Packing failed.
    """
    options = request.image()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hyphae-bench-pack-")))
        catalog, data = sampled_catalog(request.data, work)
        blocks = PackBlocks(request, catalog, data, work)
        workers = stack.enter_context(local_executor(request.workers))
        threads = stack.enter_context(ThreadPoolExecutor(request.workers))
        subjects = {
            PACKING: lambda repeat: blocks.pack(PACKING, options, workers),
            COMMAND: lambda repeat: blocks.command(),
            PASSED: lambda repeat: blocks.pack(
                PASSED, ImageOptions(short_side=LONGEST_SIDE), workers
            ),
            BARE: blocks.bare_decode(threads),
            OWN: blocks.loop(OWN, Path(PIL.__file__).parents[1]),
        }
        missing = {}
        try:
            subjects[STOCK] = blocks.loop(STOCK, stock_pillow())
        except UserError as error:
            missing[STOCK] = not_measured(STOCK, error.message, RATE)
        if can_measure_memory():
            subjects[MEMORY] = blocks.peak_memory
        else:
            missing[MEMORY] = not_measured(MEMORY, "Linux alone counts shared pages", "MiB")
        values = in_turns(
            [Subject(name, block) for name, block in subjects.items()], request.repeats, "packing"
        )
    measured = {
        name: Result(
            name=name,
            repeats=repeats,
            unit="MiB" if name == MEMORY else RATE,
            note=blocks.notes.get(name, ""),
            details=blocks.details.get(name, {}),
        )
        for name, repeats in values.items()
    }
    return _sections(blocks, measured | missing)


def _ratio(name: str, one: Result, other: Result, unit: str, note: str = "") -> Result:
    """One result over another, turn by turn: what disturbs a turn disturbs both."""
    pairs = zip(one.repeats, other.repeats, strict=False)
    repeats = tuple(each / reference for each, reference in pairs)
    return Result(name=name, repeats=repeats, unit=unit, measured=False, note=note)


def _sections(blocks: PackBlocks, found: dict[str, Result]) -> tuple[Section, Section, Section]:
    request = blocks.request
    settings = {
        "data": str(request.data),
        "photos": len(blocks.files),
        "bytes": blocks.bytes,
        "workers": request.workers,
        "folder": str(blocks.work.parent),
    }
    about = (
        f"{len(blocks.files):,} photographs ({human_bytes(blocks.bytes)}), {request.workers} "
        f"workers, page cache warm, {request.data}"
    )
    sample = (f"links to the photographs of {request.data}: an even sample, or each several times",)
    resizing = [found[name] for name in (PACKING, COMMAND, STOCK, OWN)]
    resizing += [
        _ratio("hyphae / stock loop", found[PACKING], found[STOCK], "x"),
        _ratio("hyphae, the whole command / stock loop", found[COMMAND], found[STOCK], "x"),
        _ratio("loop with PIL of here / stock loop", found[OWN], found[STOCK], "x"),
    ]
    return (
        Section(
            name="pack_resize",
            title=(
                f"packing, resized: short side {request.short_side}, JPEG {request.quality}, {about}"
            ),
            results=tuple(resizing),
            settings=settings | {"short_side": request.short_side, "quality": request.quality},
            notes=(
                *sample,
                "the loops are timed without the start of Python; hyphae also hashes, indexes and "
                "syncs what it writes",
            ),
        ),
        Section(
            name="pack_through",
            title=f"packing, passed through with the strict check: {about}",
            results=(
                found[PASSED],
                found[BARE],
                _ratio("passed through / bare decode", found[PASSED], found[BARE], "share"),
            ),
            settings=settings,
            notes=sample,
        ),
        Section(
            name="pack_memory",
            title=f"packing, memory: short side {request.short_side}, {about}",
            results=(found[MEMORY],),
            settings=settings,
            notes=sample,
        ),
    )
