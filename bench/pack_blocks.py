"""The blocks that `bench pack` times: packing, the same as a command, bare decoding, the Pillow loop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import simplejpeg

from bench.memory import tree_pss
from bench.stock_pillow import last_line
from bench.timing import WARM_UP
from preprocess.catalog import Catalog
from preprocess.discover import read_catalog
from preprocess.folder_layout import EXTENSIONS
from preprocess.image import ImageOptions
from preprocess.pack import pack
from shards.errors import JobError, UserError
from shards.settings import CODE_ROOT

PHOTOS, MAX_BYTES = 4000, 2**29
"""A repeat takes seconds, its bytes fit, and what a set costs beside its photographs weighs little."""
LOOP_PHOTOS, WARM_UP_PHOTOS = 800, 40
"""The loops do every so many'th: theirs is a rate for each photograph alone."""
LONGEST_SIDE = 2**15
"""No photograph that packing accepts has a longer shorter side [px]: all pass through."""
SAMPLE_EVERY_S = 0.05
LOOP = Path(__file__).with_name("pillow_loop.py")

PACKING, COMMAND = "hyphae, processes running", "hyphae, the whole command"
STOCK, OWN = "one-process loop, stock Pillow", "one-process loop, PIL of here"
PASSED, BARE = "hyphae, passed through", "bare decode"
MEMORY = "peak of all packing processes"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRequest:
    """What is packed, and how."""

    data: Path
    short_side: int = 256
    quality: int = 90
    workers: int
    repeats: int = 5

    def image(self) -> ImageOptions:
        """As packing wants it.

        Raises:
            UserError: A size or quality that cannot be.
        """
        try:
            return ImageOptions(short_side=self.short_side, quality=self.quality)
        except ValueError as error:
            raise UserError(str(error)) from None


@dataclass
class PackBlocks:
    """What is timed, and what it came across; every block does the whole set once."""

    request: PackRequest
    catalog: Catalog
    data: Path
    """The folder that the catalogue was read from."""
    work: Path
    notes: dict[str, str] = field(default_factory=dict)
    """By name of the result."""
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name of the result."""

    def __post_init__(self) -> None:
        splits = self.catalog.splits.values()
        self.files = [
            (path, int(label))
            for s in splits
            for path, label in zip(s.paths, s.labels, strict=True)
        ]
        self.bytes = sum(int(split.sizes.clip(0).sum()) for split in splits)
        self.notes |= {
            PACKING: "steady: without the start of Python and of the worker processes",
            COMMAND: "python -m preprocess, both starts included",
        }

    def pack(self, name: str, options: ImageOptions, executor: Executor) -> float:
        """Pack with processes that run already."""
        out = self.work / "set"
        start = time.perf_counter()
        manifest = pack(self.catalog, out, options, executor, max_rejected=1.0)
        seconds = time.perf_counter() - start
        shutil.rmtree(out)
        rejected = sum(manifest.rejected.values())
        self.details[name] = {"stored": manifest.stored, "rejected": rejected}
        if name == PASSED:
            passed = manifest.stored.get("passed_through", 0)
            self.notes[name] = f"{passed:,} of {len(self.files):,} byte for byte, all checked"
        return len(self.files) / seconds

    def command(self, watch: Callable[[int], None] | None = None) -> float:
        """Pack as a user does."""
        out = self.work / "set"
        options = {
            "--out": out,
            "--short-side": self.request.short_side,
            "--quality": self.request.quality,
            "--workers": self.request.workers,
            "--max-rejected": 100,
        }
        words = [str(word) for option in options.items() for word in option]
        start = time.perf_counter()
        _run([sys.executable, "-m", "preprocess", "pack", str(self.data), *words], watch)
        seconds = time.perf_counter() - start
        shutil.rmtree(out)
        return len(self.files) / seconds

    def peak_memory(self, repeat: int) -> float:
        """Peak of the command and all its processes together [MiB], from samples."""
        if repeat == WARM_UP:
            return 0.0
        peak = 0
        samples = 0

        def watch(pid: int) -> None:
            nonlocal peak, samples
            peak, samples = max(peak, tree_pss(pid)), samples + 1

        self.command(watch)
        self.notes[MEMORY] = (
            f"PSS of python -m preprocess, sampled every {SAMPLE_EVERY_S * 1e3:.0f} ms"
        )
        self.details.setdefault(MEMORY, {}).setdefault("samples", []).append(samples)
        return peak / 2**20

    def bare_decode(self, threads: ThreadPoolExecutor) -> Callable[[int], float]:
        """Decode what lies in memory, with as many threads as packing has processes."""
        origins = [self.catalog.origin(path) for path, _ in self.files]
        contents = [data for origin in origins if (data := _jpeg(origin.file)) is not None]
        if not contents:
            raise UserError(f"{self.request.data} holds no JPEG that decodes")
        of = "" if len(contents) == len(origins) else f" of the {len(contents):,} that are JPEGs"
        self.notes[BARE] = f"simplejpeg, {self.request.workers} threads, from memory{of}"

        def decode(data: bytes) -> None:
            simplejpeg.decode_jpeg(data, colorspace="RGB")

        def block(repeat: int) -> float:
            start = time.perf_counter()
            for _ in threads.map(decode, contents):
                pass
            return len(contents) / (time.perf_counter() - start)

        return block

    def loop(self, name: str, pil_folder: Path) -> Callable[[int], float]:
        """The loop over the Pillow that lies in ``pil_folder``."""
        request = self.work / "loop.json"

        def block(repeat: int) -> float:
            wanted = WARM_UP_PHOTOS if repeat == WARM_UP else LOOP_PHOTOS
            files = self.files[:: -(-len(self.files) // wanted)]
            out = self.work / "loop.tar"
            content = {
                "photos": [(str(self.catalog.origin(path).file), label) for path, label in files],
                "out": str(out),
                "short_side": self.request.short_side,
                "quality": self.request.quality,
            }
            request.write_text(json.dumps(content), encoding="utf-8")
            # -I and -S: neither this environment's packages nor PYTHONPATH.
            text = _run([sys.executable, "-I", "-S", str(LOOP), str(pil_folder), str(request)])
            out.unlink()
            done = json.loads(text)
            if Path(done["file"]).parents[1] != pil_folder:
                raise JobError(f"the loop imported {done['file']}, expected it in {pil_folder}")
            kind = "Pillow-SIMD" if ".post" in done["version"] else "Pillow"
            self.notes[name] = f"{kind} {done['version']}"
            if done["failed"]:
                self.notes[name] += f", {done['failed']:,} photographs failed"
            self.details[name] = {"pil": done["version"], "failed": done["failed"]}
            return float(done["photos"] / done["seconds"])

        return block


def _run(command: list[str], watch: Callable[[int], None] | None = None) -> str:
    """What a command prints; ``watch`` gets its process id again and again while it runs."""
    paths = [str(CODE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    ended = threading.Event()
    with subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:

        def watch_on() -> None:
            while watch is not None and not ended.wait(SAMPLE_EVERY_S):
                watch(process.pid)

        watcher = threading.Thread(target=watch_on)
        watcher.start()
        try:
            output, errors = process.communicate()
        except BaseException:
            process.terminate()  # or the context manager waits for its end
            raise
        finally:
            ended.set()
            watcher.join()
    if process.returncode:
        raise JobError(f"{' '.join(command[1:4])} failed: {last_line(errors)}")
    return output


def _jpeg(file: Path) -> bytes | None:
    """The content of a JPEG that decodes to RGB."""
    try:
        data = file.read_bytes()
        simplejpeg.decode_jpeg(data, colorspace="RGB")
    except (OSError, ValueError):
        return None
    return data


def sampled_catalog(data: Path, work: Path) -> tuple[Catalog, Path]:
    """What there is to pack, and its folder: links to as many photographs as a repeat should take.

    Of a large set an even sample; of a small one each photograph several times, under other names.
    """
    catalog = read_catalog(data, max_missing=1.0)
    files = [
        (catalog.origin(path).file.absolute(), int(label), int(size))
        for split in catalog.splits.values()
        for path, label, size in zip(split.paths, split.labels, split.sizes, strict=True)
        if size > 0
    ]
    if not files:
        raise UserError(f"{data} holds no photograph that is there")
    fitting = MAX_BYTES * len(files) // sum(size for _, _, size in files)
    wanted = max(1, min(PHOTOS, fitting))
    folder = work / "sample"
    for number in range(wanted):
        at = number * len(files) // wanted if wanted < len(files) else number % len(files)
        file, label, _ = files[at]
        name = f"{number:06d}{file.suffix if file.suffix.lower() in EXTENSIONS else '.jpg'}"
        (folder / f"{label:05d}").mkdir(parents=True, exist_ok=True)
        (folder / f"{label:05d}" / name).symlink_to(file)
    return read_catalog(folder), folder
