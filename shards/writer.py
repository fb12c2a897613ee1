"""Samples -> a tar with its DALI index; parts -> a published set. Same input, same bytes."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from shards.early_storing import start_storing
from shards.format import (
    LABEL_DIGITS,
    MANIFEST_NAME,
    REJECTED_NAME,
    SAMPLE_DTYPE,
    FileInfo,
    Manifest,
    index_name,
    key_name,
    rows_name,
    samples_name,
    shard_name,
)

BLOCK = tarfile.BLOCKSIZE
NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What only writing meets: what is read meanwhile, for the content, fails otherwise."""
PIECE = 2**20
"""Bytes of a tar that are hashed and written at a time: still in the processor's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One photograph on its way into a shard."""

    key: int
    label: int
    repeats: int
    payload: bytes
    """The stored image, complete with its header."""
    extension: str
    """``jpg`` or ``npy``."""
    width: int
    height: int
    metadata: dict[str, Any]
    """Goes to the sample's ``.json``; holds at least ``path``, the source file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenShard:
    """What became of a shard: its records and its files, ready for the manifest."""

    records: npt.NDArray[np.void]
    """``(N,)`` of :data:`~shards.format.SAMPLE_DTYPE`."""
    files: dict[str, FileInfo]
    """The tar and its index; empty where there was no sample to write."""


def write_shard(directory: Path, split: str, shard: int, samples: Iterable[Sample]) -> WrittenShard:
    """Write one shard and its index; both appear under their names only when complete.

    A shard without samples is not written: a DALI index must not be empty.
    """
    records: list[tuple[int, ...]] = []
    index_lines: list[str] = []
    tar_path = directory / shard_name(split, shard)
    with atomic_file(tar_path) as file:
        with _TarWriter(file) as tar:
            for sample in samples:
                members = _members(sample)
                offsets = tar.add(members)
                index_lines.append(
                    " ".join(
                        f"{name.partition('.')[2]} {offset} {len(data)} {name}"
                        for (name, data), offset in zip(members, offsets, strict=True)
                    )
                )
                records.append(
                    (
                        sample.key,
                        shard,
                        offsets[0],
                        len(sample.payload),
                        zlib.crc32(sample.payload),
                        sample.label,
                        sample.repeats,
                        sample.width,
                        sample.height,
                    )
                )
    if not records:
        tar_path.unlink()
        return WrittenShard(records=np.empty(0, SAMPLE_DTYPE), files={})
    index = f"v1.2 {len(index_lines)}\n" + "\n".join(index_lines) + "\n"
    return WrittenShard(
        records=np.array(records, SAMPLE_DTYPE),
        files={
            tar_path.name: FileInfo(bytes=tar.size, sha256=tar.sha256.hexdigest()),
            index_name(split, shard): write_file(
                directory / index_name(split, shard), index.encode()
            ),
        },
    )


def publish(
    directory: Path,
    manifest: Manifest,
    records: dict[str, npt.NDArray[np.void]],
    rows: dict[str, npt.NDArray[np.int32]],
    rejected: Iterable[tuple[str, str, str]],
) -> Manifest:
    """Write the tables and, last, the manifest: from then on readers accept the set.

    Args:
        directory: Where the shards already are.
        manifest: Complete but for the tables written here, whose hashes are added.
        records: For each split, all its samples in stored order.
        rows: For each split, the sample id of every CSV row, ``-1 - label`` where rejected.
        rejected: ``(split, path, reason)`` of every image left out.
    """
    files = dict(manifest.files)
    for split, table in records.items():
        files[samples_name(split)] = write_file(directory / samples_name(split), npy_bytes(table))
        files[rows_name(split)] = write_file(directory / rows_name(split), npy_bytes(rows[split]))
    files[REJECTED_NAME] = write_rejected(directory, rejected)
    content = {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}
    complete = Manifest(**content | {"files": files})
    write_file(directory / MANIFEST_NAME, complete.to_json().encode())
    return complete


def write_rejected(directory: Path, rejected: Iterable[tuple[str, str, str]]) -> FileInfo:
    """``rejected.csv``: split, path and reason of every image left out."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["split", "path", "reason"])
    table.writerows(rejected)
    # A file name need not be UTF-8: such bytes are written as they are on disk.
    return write_file(directory / REJECTED_NAME, text.getvalue().encode(errors="surrogateescape"))


def write_file(path: Path, data: bytes) -> FileInfo:
    """Write a small file atomically."""
    with atomic_file(path) as file:
        file.write(data)
    return FileInfo(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file for writing that takes its name only when complete and on the disk.

    What is there and no regular file (a device, a pipe, a link such as ``/dev/stdout``) is written to:
    a rename would put a file in its place.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        with path.open("wb") as file:
            yield file
        return
    # The process id keeps an orphaned writer of a killed run apart from its successor.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in NOT_WRITTEN and error.filename is None:
            error.filename = str(path)  # which a write to an open file does not say
        raise


def _members(sample: Sample) -> list[tuple[str, bytes]]:
    key = key_name(sample.key)
    return [
        (f"{key}.{sample.extension}", sample.payload),
        (f"{key}.cls", f"{sample.label:0{LABEL_DIGITS}d}".encode()),
        (f"{key}.json", json.dumps(sample.metadata, sort_keys=True).encode()),
    ]


def npy_bytes(table: npt.NDArray[Any]) -> bytes:
    """An array as the content of an ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, table, allow_pickle=False)
    return buffer.getvalue()


class _TarWriter:
    """Members one after another, hashed as they pass: no second pass over a shard of 100 MB."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._pieces: list[bytes] = []
        self._pending = 0
        self.sha256 = hashlib.sha256()
        self.size = 0

    def add(self, members: list[tuple[str, bytes]]) -> list[int]:
        """Append members and return the offset of the data of each."""
        offsets: list[int] = []
        for name, data in members:
            offsets.append(self.size + BLOCK)
            self._append(tar_header(name, len(data)), data, bytes(-len(data) % BLOCK))
        if self._pending >= PIECE:
            self._write()
        return offsets

    def __enter__(self) -> _TarWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Two empty blocks end a tar, which is filled up to whole records."""
        if kind is None:
            self._append(bytes(2 * BLOCK))
            self._append(bytes(-self.size % tarfile.RECORDSIZE))
            self._write()

    def _append(self, *pieces: bytes) -> None:
        self._pieces += pieces
        added = sum(map(len, pieces))
        self._pending += added
        self.size += added

    def _write(self) -> None:
        piece = b"".join(self._pieces)
        self._pieces, self._pending = [], 0
        self.sha256.update(piece)
        self._file.write(piece)
        start_storing(self._file.fileno(), self.size - len(piece), len(piece))


def tar_header(name: str, size: int) -> bytes:
    """The USTAR header of a file, as ``tarfile`` makes it, four times as fast.

    Owner, group and time are 0: same input, same bytes. USTAR has no PAX records, whose extra
    blocks confuse DALI's index (NVIDIA/DALI#3640).

    Args:
        name: ASCII, shorter than 100 characters.
        size: Below 8 GiB.
    """
    encoded, digits = name.encode("ascii"), b"%011o" % size
    header = bytearray(_HEADER)
    header[: len(encoded)] = encoded
    header[_SIZE] = digits
    checksum = _HEADER_SUM + sum(encoded) + sum(digits)
    header[_CHECKSUM] = b"%06o\0 " % checksum
    return bytes(header)


def _blank_header() -> bytearray:
    """The header of a file without name, size and checksum: zeros, but blanks for the checksum."""
    info = tarfile.TarInfo()
    info.mode = 0o644
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[_SIZE] = bytes(11)
    header[_CHECKSUM] = b" " * 8  # counted as blanks (POSIX pax, "ustar Interchange Format")
    return header


_SIZE, _CHECKSUM = slice(124, 135), slice(148, 156)
_HEADER = _blank_header()
_HEADER_SUM = sum(_HEADER)
