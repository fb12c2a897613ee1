"""Draw a data set of mushrooms in the Kaggle layout, for the demo and the tests.

The project ships no photographs, so it draws some: real species in cartoon form. The set has what the pipeline is built for: a long tail of classes that ``train.csv`` balances by
repeating rows, names with spaces, mixed extensions, and sizes on both sides of 440 px.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from preprocess.demo_drawing import SPECIES, Image, draw_photo
from shards.machine import allowed_cores
from shards.workers import process_pool

__all__ = ["SPECIES", "DemoSummary", "draw_demo_data", "num_demo_photos"]

Split = Literal["train", "val", "test"]

KAGGLE_ROOT, PHOTOS, MARKER = "/kaggle/working/merged_dataset", "merged_dataset", "demo_data.json"
PHOTOS_PER_WORKER = 50  # fewer would be drawn while the process starts
DRAWING = 1  # raise it whenever the same arguments give other bytes than before


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What a finished demo data set holds."""

    classes: int
    train_files: int
    train_rows: int
    """Rows of ``train.csv``: more than its files, because it repeats them."""
    val_files: int
    test_files: int
    drawn: int
    """Photos that this call drew; the others were there from an interrupted or earlier one."""

    def __str__(self) -> str:
        return (
            f"{self.classes} species, {self.train_files} training photos in {self.train_rows} rows, "
            f"{self.val_files} for validation, {self.test_files} for test"
        )


@dataclass(frozen=True, slots=True)
class _Photo:
    label: int
    index: int
    split: Split

    @property
    def path(self) -> str:
        """``<Species name>/<file>``, as untidy as the files of many cameras."""
        serial = 7 * self.label + self.index
        extension = ".png" if serial % 23 == 7 else ".jpeg" if serial % 9 == 4 else ".jpg"
        extension = extension if serial else ".JPG"
        separator = "_" if serial % 5 else " "
        return f"{SPECIES[self.label].name}/IMG{separator}{self.index:04d}{extension}"


def draw_demo_data(
    out: Path,
    *,
    seed: int = 0,
    train_files: int = 40,
    eval_files: int = 10,
    size: int = 320,
    progress: Callable[[int], object] = lambda photos: None,
) -> DemoSummary:
    """Draw ``merged_dataset/<Species name>/<file>`` and ``train.csv``, ``val.csv``, ``test.csv``.

    The same arguments give the same bytes, whatever the number of cores. The tables are written
    last, so an interrupted run is never taken for a complete one; calling again completes it.
    Large sets are drawn in processes, so a script calls this under ``if __name__ == "__main__"``.

    Args:
        out: Folder to fill; made if missing.
        seed: Seeds every photo on its own, and the order of the rows of ``train.csv``.
        train_files: Training photos of the largest class; the smallest has a third of them.
        eval_files: Photos of each class in ``val.csv``, and as many in ``test.csv``.
        size: Typical shorter side of a photo [px]; one photo in eight is half as large again.
        progress: Called with 1 after each photo, as ``tqdm.update`` wants it; the total is
            ``num_demo_photos(train_files, eval_files)``.

    Returns:
        Counts of what ``out`` now holds.

    Raises:
        FileExistsError: If ``out`` holds anything that is not from a call with these arguments.
        ValueError: If ``seed`` < 0, a number of files < 1, or ``size`` < 32.
    """
    arguments = {"seed": seed, "train_files": train_files, "eval_files": eval_files, "size": size}
    for name, least in {"seed": 0, "train_files": 1, "eval_files": 1, "size": 32}.items():
        if arguments[name] < least:
            raise ValueError(f"{name} must be at least {least}, got {arguments[name]}")
    _claim(out, arguments | {"drawing": DRAWING})
    for species in SPECIES:
        (out / PHOTOS / species.name).mkdir(parents=True, exist_ok=True)
    photos = list(_plan(train_files, eval_files))
    missing = [photo for photo in photos if not (out / PHOTOS / photo.path).exists()]
    for _ in photos[len(missing) :]:
        progress(1)
    for _ in _on_all_cores(partial(_draw_file, out, seed, size), missing):
        progress(1)
    num = _write_tables(out, photos, seed)
    num_train = len(photos) - num["val"] - num["test"]
    return DemoSummary(len(SPECIES), num_train, num["train"], num["val"], num["test"], len(missing))


def num_demo_photos(train_files: int = 40, eval_files: int = 10) -> int:
    """Count the photos that ``draw_demo_data`` draws with these arguments."""
    return sum(1 for _ in _plan(train_files, eval_files))


def _plan(train_files: int, eval_files: int) -> Iterator[_Photo]:
    """Yield every photo once: a long tail of training photos, equal evaluation splits."""
    for label in range(len(SPECIES)):
        # A stride of 5 keeps species of one genus, neighbours in the table, apart in the tail.
        rank = label * 5 % len(SPECIES) / (len(SPECIES) - 1)
        counts: dict[Split, int] = {"train": max(1, round(train_files * 3**-rank))}
        counts |= {"val": eval_files, "test": eval_files}
        splits = [split for split, count in counts.items() for _ in range(count)]
        yield from (_Photo(label, index, split) for index, split in enumerate(splits))


def _on_all_cores(draw: Callable[[_Photo], None], photos: Sequence[_Photo]) -> Iterator[None]:
    """Draw the photos, yielding after each."""
    # Processes, as much of the work is many small steps under the interpreter lock.
    workers = min(allowed_cores(), len(photos) // PHOTOS_PER_WORKER)
    if workers < 2:
        yield from map(draw, photos)
        return
    pool = process_pool(workers)
    try:
        yield from pool.map(draw, photos, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _draw_file(out: Path, seed: int, size: int, photo: _Photo) -> None:
    """Draw and write one photo, from a random stream of its own."""
    key = np.random.SeedSequence((seed, photo.label, photo.index))
    rng = np.random.Generator(np.random.Philox(key))
    cv2.setNumThreads(1)  # a process a core
    image = draw_photo(SPECIES[photo.label], size, rng)
    _write(out / PHOTOS / photo.path, _encode(image, Path(photo.path).suffix, rng))


def _claim(out: Path, arguments: dict[str, int]) -> None:
    """Mark ``out`` as ours, or refuse it when it holds something else."""
    out.mkdir(parents=True, exist_ok=True)
    path, marker = out / MARKER, json.dumps(arguments)
    if path.exists():
        if (found := path.read_text()) != marker:
            why = f"holds demo data drawn with {found}, not {marker}"
            raise FileExistsError(f"{out} {why}; choose another folder or delete this one")
    elif found := min((p.name for p in out.iterdir() if p.name != f"{MARKER}.part"), default=""):
        why = f"is not empty (it holds {found!r}) and has no {MARKER} of an earlier run"
        raise FileExistsError(f"{out} {why}; choose a new or empty folder")
    _write(path, marker.encode())


def _write(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename: a file under its own name is complete."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _write_tables(out: Path, photos: Sequence[_Photo], seed: int) -> dict[Split, int]:
    """Write the tables, ``train.csv`` last and balanced by repetition; count their rows."""
    rows: dict[Split, list[_Photo]] = {"test": [], "val": [], "train": []}
    for photo in photos:
        rows[photo.split].append(photo)
    classes = [[p for p in rows["train"] if p.label == label] for label in range(len(SPECIES))]
    largest = max(map(len, classes))
    balanced = [photo for files in classes for photo in islice(cycle(files), largest)]
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(balanced))
    rows["train"] = [balanced[i] for i in order]
    for split, table in rows.items():
        lines = [f"{KAGGLE_ROOT}/{photo.path},{SPECIES[photo.label].name}\n" for photo in table]
        _write(out / f"{split}.csv", "".join(["image_path,label\n", *lines]).encode())
    return {split: len(table) for split, table in rows.items()}


def _encode(image: Image, suffix: str, rng: np.random.Generator) -> bytes:
    """Encode ``(H, W, 3)`` RGB as ``suffix`` says; JPEG at quality 75 to 95."""
    options = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 96))]
    return cv2.imencode(suffix, image[..., ::-1], options)[1].tobytes()
