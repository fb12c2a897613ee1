"""Random access to a shard set: sample id -> bytes, by memory map."""

from __future__ import annotations

import hashlib
import io
import mmap
import tarfile
import threading
import zlib
from array import array
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from shards.errors import ShardError
from shards.format import (
    SAMPLE_DTYPE,
    Manifest,
    SplitInfo,
    key_name,
    rows_name,
    samples_name,
    shard_name,
    unreadable,
)
from shards.sealed_json import parse_object

Verify = Literal["always", "first", "never"]
"""When a sample's crc32 is checked: at every read, at its first read by this process, or never."""

BLOCK = tarfile.BLOCKSIZE
NPY_MAGIC = b"\x93NUMPY"
NPY_PREFIX_BYTES = 10
"""Magic, version and, in the last two, the length of the header that follows."""


class SampleError(ShardError):
    """One sample that is damaged or does not decode; the rest of its set is of use."""


class ShardSet:
    """A published shard set.

    Raises:
        ShardError: From the constructor, where ``directory`` holds no complete set of this format.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self.manifest = Manifest.read(self.directory)

    def split(self, name: str, verify: Verify = "first") -> Split:
        """Open a split.

        Raises:
            ShardError: The set has no split of that name, or its sample table is damaged.
        """
        if name not in self.manifest.splits:
            found = ", ".join(self.manifest.splits)
            raise ShardError(f"{self.directory} has no split {name!r} (it has: {found})")
        return Split(self.directory, name, self.manifest, verify)


class Split:
    """The samples of one split. Thread-safe; survives a fork; the maps close with the object."""

    def __init__(
        self, directory: Path, name: str, manifest: Manifest, verify: Verify = "first"
    ) -> None:
        self.directory = directory
        self.name = name
        self.manifest = manifest
        self.info: SplitInfo = manifest.splits[name]
        self.samples = self._table(samples_name(name), SAMPLE_DTYPE)
        """``(N,)`` of :data:`~shards.format.SAMPLE_DTYPE`; a sample's id is its row."""
        if len(self.samples) != self.info.samples:
            raise ShardError(
                f"{directory / samples_name(name)} has {len(self.samples)} samples, "
                f"the manifest says {self.info.samples}; pack the set again"
            )
        for shard in np.unique(self.samples["shard"]).tolist():
            if shard_name(name, shard) not in manifest.files:
                raise ShardError(
                    f"{directory / samples_name(name)} has samples in {shard_name(name, shard)}, "
                    "which the manifest does not list; pack the set again"
                )
        # Indexing these costs a tenth of a record's field, and every read does it.
        self._shards, self._offsets, self._sizes = (
            array("q", self.samples[field].astype(np.int64).tobytes())
            for field in ("shard", "offset", "size")
        )
        self._verify = verify
        self._verified = bytearray(len(self.samples))
        self._maps: dict[int, mmap.mmap] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """``(N,)`` class of each sample."""
        return self.samples["label"].astype(np.int64)

    @property
    def repeats(self) -> npt.NDArray[np.int64]:
        """``(N,)`` how many CSV rows name each sample."""
        return self.samples["repeats"].astype(np.int64)

    @property
    def rows(self) -> npt.NDArray[np.int32]:
        """``(rows,)`` sample id of every CSV row in file order, ``-1 - label`` where rejected."""
        return self._table(rows_name(self.name), np.dtype("<i4"))

    def payload(self, sample: int) -> memoryview:
        """The stored bytes of a sample, without a copy; valid while this object is open.

        Raises:
            SampleError: The bytes do not match their crc32.
            ShardError: The shard is missing or cut short.
        """
        start, size = self._offsets[sample], self._sizes[sample]
        view = memoryview(self._map(self._shards[sample]))[start : start + size]
        if self._verify == "never" or (self._verify == "first" and self._verified[sample]):
            return view
        if len(view) != size or zlib.crc32(view) != self.samples["crc32"][sample]:
            raise SampleError(
                f"{self.describe(sample)} is damaged: crc32 does not match; delete that shard and "
                "pack again, which makes it anew; check the disk, and what else "
                f'`python -m shards verify "{self.directory}"` finds'
            )
        self._verified[sample] = True
        return view

    def place(self, sample: int) -> tuple[int, int, int]:
        """Where the stored bytes of a sample lie: number of the shard, offset, size."""
        return self._shards[sample], self._offsets[sample], self._sizes[sample]

    def metadata(self, sample: int) -> dict[str, Any]:
        """The sample's ``.json``: at least ``path``, its source file.

        Raises:
            SampleError: It is damaged.
            ShardError: The shard is missing or cut short.
        """
        record = self.samples[sample]
        tar = self._map(int(record["shard"]))
        # Members lie in a fixed order: image, label, json; each is a header and padded data.
        header = _padded(int(record["offset"]) + int(record["size"])) + 2 * BLOCK
        try:
            info = tarfile.TarInfo.frombuf(tar[header : header + BLOCK], "utf-8", "surrogateescape")
            content = parse_object(tar[header + BLOCK : header + BLOCK + info.size])
            content["path"]  # what every one has
        except (ValueError, KeyError, tarfile.TarError):
            raise SampleError(
                f"the .json of sample {key_name(int(record['key']))} of "
                f"{self.directory / shard_name(self.name, int(record['shard']))} is damaged; delete "
                "that shard and pack again, and check the disk"
            ) from None
        return content

    def describe(self, sample: int) -> str:
        """Shard, key and source path of a sample, for messages; never raises."""
        record = self.samples[sample]
        tar = self.directory / shard_name(self.name, int(record["shard"]))
        try:
            source = self.metadata(sample)["path"]
        except (ShardError, OSError):
            source = "unknown"
        return f"sample {key_name(int(record['key']))} of {tar} (source {source})"

    def close(self) -> None:
        """Release the memory maps; those that a batch still views go with the last view."""
        with self._lock:
            maps, self._maps = self._maps, {}
        for each in maps.values():
            try:
                each.close()
            except BufferError:  # a view is alive: the garbage collector closes the map later
                pass

    def __enter__(self) -> Split:
        """Use as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the maps."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Memory maps and locks do not travel to a worker process: it opens its own."""
        return {**self.__dict__, "_maps": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _map(self, shard: int) -> mmap.mmap:
        opened = self._maps.get(shard)
        if opened is not None:
            return opened
        with self._lock:
            if shard not in self._maps:
                self._maps[shard] = self._open(self.directory / shard_name(self.name, shard))
            return self._maps[shard]

    def _open(self, path: Path) -> mmap.mmap:
        expected = self.manifest.files[path.name].bytes
        try:
            with path.open("rb") as file:
                opened = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except PermissionError as error:
            raise unreadable(path, error, "") from None
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            why = getattr(error, "strerror", None) or error
            raise ShardError(f"cannot open shard {path}: {why}; pack the set again") from None
        if len(opened) != expected:
            raise ShardError(
                f"{path} has {len(opened)} bytes, the manifest says {expected}; pack the set again"
            )
        return opened

    def _table(self, name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        path = self.directory / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise unreadable(path, error, "pack the set again") from None
        # A wrong label or offset shows nowhere else, and hashing 3 MB takes 10 ms.
        if hashlib.sha256(data).hexdigest() != self.manifest.files[name].sha256:
            raise ShardError(f"{path} is damaged: sha256 does not match; pack the set again")
        table = np.load(io.BytesIO(data), allow_pickle=False)
        if table.dtype != dtype:
            raise ShardError(f"{path} holds {table.dtype}, expected {dtype}; pack the set again")
        return cast("npt.NDArray[Any]", table)


def is_array(payload: memoryview) -> bool:
    """Whether a stored image is an ``.npy`` file rather than a JPEG."""
    return payload[: len(NPY_MAGIC)] == NPY_MAGIC


def view_array(payload: memoryview) -> npt.NDArray[np.uint8]:
    """``(H, W, 3)`` uint8, read-only: a view of the stored ``.npy`` file.

    Raises:
        ValueError: It is another kind of array.
    """
    # np.load copies; the header is short and the data lie behind it as they are.
    length = int.from_bytes(payload[NPY_PREFIX_BYTES - 2 : NPY_PREFIX_BYTES], "little")
    shape, offset = _array_header(bytes(payload[: NPY_PREFIX_BYTES + length]))
    return np.frombuffer(payload, np.uint8, offset=offset).reshape(shape)


@lru_cache(maxsize=4096)
def _array_header(head: bytes) -> tuple[tuple[int, int, int], int]:
    """Shape of an array, and where its data begin; kept, because NumPy parses it as a program."""
    file = io.BytesIO(head)
    np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran or dtype != np.uint8 or len(shape) != 3:
        raise ValueError(f"an array of {dtype} {shape}, expected uint8 (H, W, 3)")
    return shape, file.tell()


def _padded(size: int) -> int:
    """``size`` rounded up to whole tar blocks."""
    return -(-size // BLOCK) * BLOCK
