"""Have what was written put on the disk while more is being made, so that fsync finds little left."""

from __future__ import annotations

import ctypes

_WRITE = 2
"""SYNC_FILE_RANGE_WRITE of <fcntl.h>: start, do not wait."""


def start_storing(descriptor: int, offset: int, size: int) -> None:
    """Start to write a part of a file to the disk; a hint, whose failure nobody needs to know.

    Linux alone has the call, and Python does not wrap it. An error of the disk shows at fsync.

    References:
        sync_file_range(2)
    """
    if _sync_file_range is not None:
        _sync_file_range(
            ctypes.c_int(descriptor),
            ctypes.c_int64(offset),
            ctypes.c_int64(size),
            ctypes.c_uint(_WRITE),
        )


_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
