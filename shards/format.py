"""Shard format, version 1: names, sample record, manifest. ``docs/format.md`` describes it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import ShardError
from shards.plain import from_plain
from shards.sealed_json import digest, parse_object, seal, unseal

FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
MANIFEST_NAME = "manifest.json"
REJECTED_NAME = "rejected.csv"
WORK_NAME = ".pack"
"""Folder inside a shard set that holds a pack's unfinished work; gone once it is published."""

LABEL_DIGITS = 5
"""Digits of a ``.cls`` file: a fixed width lets DALI turn the bytes into an int by arithmetic."""

SAMPLE_DTYPE = np.dtype(
    [
        ("key", "<u4"),  # position in the split's catalogue; the tar member's name
        ("shard", "<u4"),
        ("offset", "<u8"),  # of the image's bytes in the tar
        ("size", "<u4"),  # of the image's bytes
        ("crc32", "<u4"),  # of the image's bytes
        ("label", "<u4"),
        ("repeats", "<u4"),  # rows of the split's CSV that name this photograph
        ("width", "<u4"),  # of the stored image, in pixels
        ("height", "<u4"),
    ]
)
"""One record a sample of ``<split>.samples.npy``, in stored order; its row is a sample's id."""


def key_name(key: int) -> str:
    """``42 -> '000000042'``: no space (DALI's index splits on it), no dot (it ends the key)."""
    return f"{key:09d}"


def shard_name(split: str, shard: int) -> str:
    """``('train', 3) -> 'train-000003.tar'``."""
    return f"{split}-{shard:06d}.tar"


def index_name(split: str, shard: int) -> str:
    """``('train', 3) -> 'train-000003.idx'``: the DALI index of that shard."""
    return f"{split}-{shard:06d}.idx"


def samples_name(split: str) -> str:
    """``'train' -> 'train.samples.npy'``."""
    return f"{split}.samples.npy"


def rows_name(split: str) -> str:
    """``'train' -> 'train.rows.npy'``: sample id of each CSV row, ``-1 - label`` if rejected."""
    return f"{split}.rows.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitInfo:
    """What one split holds."""

    rows: int
    """Rows of the CSV, repetitions counted (one a file where the data set is folders)."""
    files: int
    """Distinct files that the rows name."""
    samples: int
    """Files packed: ``files`` less the rejected ones."""
    shards: int
    """Shard numbers in use; a shard whose every file was rejected has no tar."""
    bytes: int
    """Bytes of all stored images."""

    @property
    def repetition(self) -> float:
        """Rows per distinct file."""
        return self.rows / self.files if self.files else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """A file of the set: its size in bytes and the SHA-256 of its content."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelStats:
    """Mean and standard deviation of the RGB channels, values in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """``manifest.json``: written last, so its presence says that the set is complete."""

    class_names: tuple[str, ...]
    """Names in label order."""
    splits: dict[str, SplitInfo]
    options: dict[str, Any]
    """Packing options: ``raw_share``, ``short_side``, ``quality``, ..."""
    source: dict[str, Any]
    """The input: its layout, and the digest of the catalogue."""
    versions: dict[str, str]
    """Of the codecs that shaped the bytes."""
    fingerprint: str
    """SHA-256 over options, source and versions: equal fingerprints mean equal bytes."""
    stored: dict[str, int]
    """How many images were ``passed_through``, ``resized``, ``converted``."""
    rejected: dict[str, int]
    """Images left out, by reason."""
    pixels: dict[str, PixelStats] = field(default_factory=dict)
    """Statistics of the training pixels, as the plans ``csv`` and ``natural`` show them."""
    originals: dict[str, float] = field(default_factory=dict)
    """The packed photographs as they were: mean width and height [px], share of JPEGs, and their
    mean quality, estimated from the quantisation tables."""
    files: dict[str, FileInfo] = field(default_factory=dict)
    """Every other file of the set."""
    sources: dict[str, int] = field(default_factory=dict)
    """Packed photographs that were added from elsewhere, by source."""
    format_version: int = FORMAT_VERSION

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def to_json(self) -> str:
        """Canonical text: the same content gives the same bytes. Carries its own SHA-256."""
        return seal(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str, where: Path) -> Manifest:
        """Parse and check a manifest.

        Raises:
            ShardError: Not JSON, another format version, changed since it was written, or sealed by
                another program with fields that make no set.
        """
        try:
            content = parse_object(text)
            version = content["format_version"]
        except (ValueError, KeyError):
            raise _damaged(where, "not a manifest") from None
        if version != FORMAT_VERSION:
            raise ShardError(
                f"{where} has format version {version!r}, this hyphae reads {FORMAT_VERSION}; "
                "pack the photographs again, or use the hyphae that wrote it"
            )
        try:
            content = unseal(content)
        except ValueError as error:
            raise _damaged(where, str(error)) from None
        try:
            manifest = from_plain(cls, content, "manifest")
            _check_counts(manifest)
        except (ValueError, OverflowError) as error:
            raise _damaged(where, str(error)) from None
        splits = {name: manifest.splits[name] for name in SPLITS if name in manifest.splits}
        return dataclasses.replace(manifest, splits=splits)

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """The manifest of a shard set.

        Raises:
            ShardError: No such folder, no shard set, an unfinished one, or a damaged manifest.
        """
        path = directory / MANIFEST_NAME
        if not directory.is_dir():
            raise ShardError(f"no shard folder {directory}; `make shards` packs one")
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise unreadable(path, error, "check the disk") from None
            return cls.from_json(text, path)
        if (directory / WORK_NAME).is_dir():
            raise ShardError(
                f"{directory} is an unfinished shard set; run the packing command again, "
                "it goes on where it stopped"
            )
        raise ShardError(f"{directory} is not a shard set: it has no {MANIFEST_NAME}")


def fingerprint(options: dict[str, Any], source: dict[str, Any], versions: dict[str, str]) -> str:
    """SHA-256 over everything that decides the bytes of a set."""
    return digest({"options": options, "source": source, "versions": versions})


def belongs(name: str, manifest: Manifest) -> bool:
    """Whether a set of these splits has a file of that name: a tar, an index or a table."""
    if name in {of(split) for split in manifest.splits for of in (samples_name, rows_name)}:
        return True
    parts = re.fullmatch(r"(\w+)-(\d{6,})\.(tar|idx)", name)
    split = manifest.splits.get(parts[1]) if parts else None
    return bool(parts and split and int(parts[2]) < split.shards)


def _check_counts(manifest: Manifest) -> None:
    """Raise :class:`ValueError` for counts that cannot be, or a file that the splits need."""
    for name, split in manifest.splits.items():
        if name not in SPLITS:
            raise ValueError(f"manifest.splits.{name} is none of {', '.join(SPLITS)}")
        for count, value in dataclasses.asdict(split).items():
            if value < 0:
                raise ValueError(f"manifest.splits.{name}.{count} is {value}, expected 0 or more")
        for table in (samples_name(name), rows_name(name)):
            if table not in manifest.files:
                raise ValueError(f"manifest.files has no {table}, which split {name} needs")
    for file in manifest.files:
        # A shard whose every photograph was rejected has neither of the two.
        stem, _, kind = file.rpartition(".")
        other = {"tar": "idx", "idx": "tar"}.get(kind)
        if other and f"{stem}.{other}" not in manifest.files:
            raise ValueError(f"manifest.files has {file}, but no {stem}.{other}")


def _damaged(manifest: Path, what: str) -> ShardError:
    return ShardError(f"{manifest} is damaged: {what}; {remedy(manifest.parent)}")


def unreadable(file: Path, error: OSError, otherwise: str) -> ShardError:
    """The error for a file of a set that the system does not give: packing mends no permissions."""
    what_to_do = "check its permissions" if isinstance(error, PermissionError) else otherwise
    return ShardError(f"cannot read {file}: {error.strerror}; {what_to_do}")


def remedy(directory: Path) -> str:
    """What to do about a damaged manifest of a folder."""
    return f"remove {directory} and pack again"
