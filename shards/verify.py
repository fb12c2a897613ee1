"""Compare a shard set with its manifest, down to the single sample."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from shards.errors import ShardError
from shards.format import (
    MANIFEST_NAME,
    FileInfo,
    belongs,
    rows_name,
    samples_name,
    shard_name,
)
from shards.photo_times import TIMES_NAME
from shards.reader import ShardSet, Split, is_array, view_array

READ_BYTES = 1 << 22
SHOWN_SAMPLES = 3
EXTRAS = (MANIFEST_NAME, "pack.log", TIMES_NAME)
"""Files that a set may hold and the manifest does not list."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and what to do."""

    file: str
    what: str
    remedy: str


def verify(
    shard_set: ShardSet,
    *,
    decode: bool = False,
    threads: int = 1,
    on_file: Callable[[int], None] = lambda size: None,
) -> list[Problem]:
    """Check every file's size and SHA-256, every table, and where a shard is damaged its samples.

    The manifest's own SHA-256 was checked when the set was opened.

    Args:
        shard_set: The set.
        decode: Also decode every sample, strictly.
        threads: How many work at a time.
        on_file: Called with the bytes of each file that was checked.
    """
    directory, manifest = shard_set.directory, shard_set.manifest
    problems: list[Problem] = []
    with ThreadPoolExecutor(threads) as pool:
        names = sorted(manifest.files)
        checks = pool.map(lambda name: _check_file(directory / name, manifest.files[name]), names)
        wrong = {}
        for name, what in zip(names, checks, strict=True):
            on_file(manifest.files[name].bytes)
            if what is not None:
                wrong[name] = what
        for split_name in manifest.splits:
            try:
                split = shard_set.split(split_name, verify="never")
            except ShardError as error:
                table = samples_name(split_name)
                if table not in wrong:  # then the manifest says something else than the table
                    problems.append(Problem(table, error.message, _remedy(table)))
                continue
            with split:
                problems += _check_counts(split, wrong)
                problems += _check_samples(split, wrong, pool, decode)
    problems += [Problem(name, what, _remedy(name)) for name, what in wrong.items()]
    problems += [
        Problem(extra, "the manifest does not list it", _remedy(MANIFEST_NAME))
        if belongs(extra, manifest)
        else Problem(extra, "not part of the set", "delete it if it is not wanted")
        for extra in sorted(each.name for each in directory.iterdir())
        if extra not in manifest.files and extra not in EXTRAS
    ]
    return sorted(problems, key=lambda problem: problem.file)


def _check_file(path: Path, expected: FileInfo) -> str | None:
    """What is wrong with a file, None if nothing is."""
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            return f"has {size:,} bytes, expected {expected.bytes:,}"
        hashed = hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(READ_BYTES):
                hashed.update(data)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if hashed.hexdigest() == expected.sha256 else "sha256 does not match"


def _check_counts(split: Split, wrong: dict[str, str]) -> Iterator[Problem]:
    """Compare what the manifest says of a split with its tables, as far as these are whole."""
    samples = split.samples
    found = {"bytes": int(samples["size"].sum(dtype=np.int64))}
    if rows_name(split.name) not in wrong:
        found["rows"] = len(split.rows)
    for name, value in found.items():
        stated = getattr(split.info, name)
        if stated != value:
            what = f"says {stated:,} {name} of split {split.name}, its tables say {value:,}"
            yield Problem(MANIFEST_NAME, what, _remedy(MANIFEST_NAME))
    labels, classes = split.labels, split.manifest.num_classes
    if len(labels) and labels.max() >= classes:
        what = f"names {classes:,} classes, split {split.name} has label {labels.max()}"
        yield Problem(MANIFEST_NAME, what, _remedy(MANIFEST_NAME))


def _check_samples(
    split: Split, wrong: dict[str, str], pool: ThreadPoolExecutor, decode: bool
) -> Iterator[Problem]:
    """Name the damaged samples of damaged shards; with ``decode``, those that do not decode."""
    shards = split.samples["shard"]
    for shard in np.unique(shards).tolist():
        tar = shard_name(split.name, shard)
        samples = np.flatnonzero(shards == shard).tolist()
        if tar in wrong:
            if wrong[tar] == "sha256 does not match":
                damaged = [sample for sample in samples if not _crc_matches(split, sample)]
                wrong[tar] += f"; damaged: {_names(split, damaged)}"
        elif decode:
            decoded = pool.map(lambda sample: _decodes(split, sample), samples)
            bad = [sample for sample, fine in zip(samples, decoded, strict=True) if not fine]
            if bad:
                what = f"does not decode: {_names(split, bad)}"
                yield Problem(tar, what, "pack with this version of hyphae into a new folder")


def _crc_matches(split: Split, sample: int) -> bool:
    return bool(zlib.crc32(split.payload(sample)) == split.samples["crc32"][sample])


def _decodes(split: Split, sample: int) -> bool:
    """Whether a sample decodes without a complaint, to the size its record states."""
    payload = split.payload(sample)
    try:
        if is_array(payload):
            pixels = view_array(payload)
        else:
            pixels = simplejpeg.decode_jpeg(payload, strict=True)
    except ValueError:
        return False
    record = split.samples[sample]
    return bool(pixels.shape == (record["height"], record["width"], 3))


def _names(split: Split, samples: list[int]) -> str:
    if not samples:
        return "no image, only labels, metadata or padding"
    shown = ", ".join(split.describe(sample) for sample in samples[:SHOWN_SAMPLES])
    more = len(samples) - SHOWN_SAMPLES
    return shown + (f", and {more} more" if more > 0 else "")


def _remedy(name: str) -> str:
    if name.endswith((".tar", ".idx")):
        return f"delete {name} and run the packing command again: it makes that shard anew"
    return "remove the folder and run the packing command again"
