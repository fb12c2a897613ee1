"""What there is to pack: distinct photographs with label, split and repetition. No decoding."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MISSING = -1
"""The size of a file that is not there."""


class FileState(NamedTuple):
    """What is known of a file without opening it."""

    size: int
    """Bytes, :data:`MISSING` where there is none."""
    time: int = 0
    """When it was last modified [ns since 1970]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCatalog:
    """The distinct photographs of one split, in stored order."""

    paths: list[str]
    """Relative to the catalogue's root; bytes that are not UTF-8 as surrogates."""
    labels: npt.NDArray[np.int64]
    """``(files,)`` index into the class names."""
    repeats: npt.NDArray[np.int64]
    """``(files,)`` rows that name each file; at least 1."""
    sizes: npt.NDArray[np.int64]
    """``(files,)`` bytes of each file, :data:`MISSING` where there is none."""
    times: npt.NDArray[np.int64]
    """``(files,)`` when each file was last modified [ns since 1970]; a set does not depend on it."""
    rows: npt.NDArray[np.int32]
    """``(rows,)`` the file of each row, in the order of the CSV."""

    def __len__(self) -> int:
        """Number of distinct files."""
        return len(self.paths)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a photograph's bytes lie: a file, or a part of one (a member of a tar)."""

    file: Path
    offset: int = 0
    size: int | None = None
    """Bytes from ``offset`` on; None for all of them."""
    metadata: str = "{}"
    """A JSON object: what else is known of it, for the sample's ``.json``."""

    def read(self) -> bytes:
        """The photograph's bytes.

        Raises:
            OSError: It is not there, may not be read, or is no regular file (a pipe would wait
                for ever).
        """
        if not stat.S_ISREG(os.stat(self.file).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(self.file))
        with open(self.file, "rb", buffering=0) as file:
            if self.size is None:
                return file.readall()
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """A data set as found on disk."""

    root: Path
    """The folder that every path is relative to."""
    layout: str
    """``csv``, ``folders`` or ``webdataset``."""
    class_names: tuple[str, ...]
    """Sorted; the position is the label. For the mushroom set this is the published order."""
    splits: dict[str, SplitCatalog]
    notes: list[str] = field(default_factory=list)
    """What the user should know and need not mend."""
    origins: dict[str, Origin] = field(default_factory=dict)
    """By path: photographs that are no files of their own below ``root``, or were added to it."""
    excluded: dict[str, str] = field(default_factory=dict)
    """By path: training photographs to leave out, and why."""
    asked: dict[str, str] = field(default_factory=dict)
    """By option: what decided all this besides ``root``; named where it changes."""

    def origin(self, path: str) -> Origin:
        """Where a photograph's bytes lie."""
        return self.origins.get(path) or Origin(self.root / path)

    def digest(self) -> str:
        """SHA-256 over names, labels, repetitions, sizes, order and exclusions.

        It is what a pack depends on.

        Times are left out: the same photographs copied elsewhere are the same input.
        """
        hashed = hashlib.sha256("\0".join(self.class_names).encode(errors="surrogateescape"))
        for name, split in self.splits.items():
            hashed.update(f"\n{name}\n".encode())
            hashed.update("\0".join(split.paths).encode(errors="surrogateescape"))
            for column in (split.labels, split.repeats, split.sizes, split.rows):
                hashed.update(np.ascontiguousarray(column).astype("<i8").tobytes())
        known = {path: origin.metadata for path, origin in self.origins.items()}
        for further in (known, self.excluded):
            for path in sorted(further):
                text = f"\n{path}\0{further[path]}"
                hashed.update(text.encode(errors="surrogateescape"))
        return hashed.hexdigest()


def build_split(
    paths: list[str],
    labels: list[int],
    rows: npt.NDArray[np.int32],
    states: Sequence[FileState],
    *,
    shuffle_seed: int | None,
) -> SplitCatalog:
    """Count repetitions and, for training, put the files in a seeded random order.

    A stored random order gives sequential readers batches of mixed classes.
    """
    files = len(paths)
    order = np.arange(files) if shuffle_seed is None else _permutation(files, shuffle_seed)
    place = np.empty(files, np.int32)
    place[order] = np.arange(files, dtype=np.int32)
    repeats = np.bincount(rows, minlength=files)
    return SplitCatalog(
        paths=[paths[i] for i in order],
        labels=np.asarray(labels, np.int64)[order],
        repeats=repeats.astype(np.int64)[order],
        sizes=np.array([state.size for state in states], np.int64)[order],
        times=np.array([state.time for state in states], np.int64)[order],
        rows=place[rows],
    )


def name_with_hash(file: Path) -> str:
    """A table's name, and the start of the SHA-256 of its content: tells its versions apart."""
    return f"{file.name} ({hashlib.sha256(file.read_bytes()).hexdigest()[:12]})"


def list_states(root: Path, paths: list[str]) -> list[FileState]:
    """Size and time of each file, :data:`MISSING` where there is none; each folder is listed once."""
    found: dict[str, dict[str, FileState]] = {}
    states = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in found:
            found[folder] = _states_in(root / folder)
        states.append(found[folder].get(name, FileState(MISSING)))
    return states


def _states_in(folder: Path) -> dict[str, FileState]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: _state(entry) for entry in entries}
    except OSError:
        return {}


def _state(entry: os.DirEntry[str]) -> FileState:
    try:
        if entry.is_file():
            status = entry.stat()
            return FileState(status.st_size, status.st_mtime_ns)
    except OSError:  # a broken link
        pass
    return FileState(MISSING)


def _permutation(count: int, seed: int) -> npt.NDArray[np.int64]:
    """A random order that depends on ``seed`` alone, in every NumPy version (raw bits, sorted)."""
    return np.argsort(np.random.Philox(key=seed).random_raw(count), kind="stable")
