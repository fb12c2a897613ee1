"""Read what ``torch.save`` wrote and run nothing of it: tensors are built, all else becomes stubs.

A pickle is a program: it names functions and calls them. Here every name it can say stands for one
of the few functions of this module, or for :class:`Stub`, which accepts anything and does nothing.
So a file that holds objects of lightning, omegaconf or hydra loads without them, and a malicious one
does no harm.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shards.errors import UserError
from train.checkpoints.nesting import check_nesting

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
DATA = "data.pkl"
"""The pickle inside the archive; storages are the files ``data/0``, ``data/1``, ... beside it."""


class Stub:
    """An object of a class that is not looked up: takes whatever a pickle does to it, in silence."""

    def __init__(self, *_args: Any, **_named: Any) -> None: ...

    def __call__(self, *_args: Any, **_named: Any) -> Stub:
        """What a stub for a function gives."""
        return self

    def __setstate__(self, _state: Any) -> None: ...

    def __setitem__(self, _key: Any, _value: Any) -> None: ...

    def append(self, _value: Any) -> None:
        """As a list would, but nothing is kept."""

    def extend(self, _values: Any) -> None:
        """As a list would, but nothing is kept."""

    def add(self, _value: Any) -> None:
        """As a set would, but nothing is kept."""


def _tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> torch.Tensor:
    """What ``torch._utils._rebuild_tensor_v2`` does; torch refuses to look beyond the storage."""
    if not isinstance(storage, torch.Tensor):
        raise ValueError("a tensor without a storage")
    if math.prod(size) > storage.numel():  # with strides of 0 a few bytes would claim any memory
        raise ValueError(f"a tensor of shape {tuple(size)} in {storage.numel():,} stored numbers")
    return storage.as_strided(size, stride, offset)


def _parameter(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    """What ``torch._utils._rebuild_parameter`` makes, as a plain tensor."""
    return tensor


class _Fixed:
    """A function that a pickle can call; its attributes, unlike a plain function's, it cannot set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        """As the function."""
        return self._function(*args)

    def __setstate__(self, _state: Any) -> None:
        raise ValueError("a function is no object to be filled")


KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Fixed(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Fixed(_parameter),
    ("torch", "Size"): tuple,
}
"""All that a pickle can name; none of these can do harm, whatever the arguments."""


class _Kind:
    """The type of a storage: only named by a pickle, never called."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class StubUnpickler(pickle.Unpickler):
    """An unpickler that knows :data:`KNOWN` and nothing else.

    Args:
        content: The pickle.
        read_storage: The bytes of a storage by its key.
    """

    def __init__(self, content: bytes, read_storage: Callable[[str], bytes]) -> None:
        super().__init__(io.BytesIO(content))
        self._read_storage = read_storage
        self._storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """A name becomes a function of this module, or :class:`Stub`; nothing is imported."""
        if module == "torch" and name in STORAGES:
            return _Kind(STORAGES[name])
        return KNOWN.get((module, name), Stub)

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """``("storage", kind, key, device, elements)`` -> the storage as a flat tensor on the CPU."""
        _, kind, key, _, elements = pid
        if not isinstance(key, str):
            raise ValueError(f"a storage is named by a {type(key).__name__}")
        if not isinstance(kind, _Kind):
            raise ValueError(f"storage {key} is of an unknown type")
        if key not in self._storages:
            content = bytearray(self._read_storage(key))
            if len(content) != elements * kind.dtype.itemsize:
                raise ValueError(f"storage {key} has {len(content):,} bytes")
            self._storages[key] = (
                torch.frombuffer(content, dtype=kind.dtype)
                if content
                else torch.empty(0, dtype=kind.dtype)
            )
        return self._storages[key]


def pickle_name(archive: zipfile.ZipFile) -> str:
    """Where the pickle lies in an archive of ``torch.save``.

    Raises:
        ValueError: There is none, or several.
    """
    found = [
        name for name in archive.namelist() if name.count("/") == 1 and name.endswith(f"/{DATA}")
    ]
    if len(found) != 1:
        raise ValueError(
            f"an archive with {len(found)} files {DATA}, which torch.save never writes"
        )
    return found[0]


def load_inert(path: Path) -> Any:
    """The content of a file of ``torch.save``, with stubs in place of foreign objects.

    Args:
        path: A zip archive whose check sums were looked at
            (:func:`train.checkpoints.checkpoint.check_archive`).

    Raises:
        UserError: Its content is not what ``torch.save`` writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            data = pickle_name(archive)
            folder = data.removesuffix(DATA)
            if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
                raise ValueError("its numbers are not little-endian")
            if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                raise ValueError("it is compressed, which torch.save never does")
            content = archive.read(data)
            check_nesting(io.BytesIO(content), len(content))
            return StubUnpickler(content, lambda key: archive.read(f"{folder}data/{key}")).load()
    except Exception as error:  # a pickle can make Python raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged or not of torch.save: {reason}") from None
