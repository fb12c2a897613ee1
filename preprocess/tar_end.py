"""Whether a tar was read to its end."""

from __future__ import annotations

import tarfile
from pathlib import Path

END_BYTES = 2 * tarfile.BLOCKSIZE
"""Zeros that end a tar, at least."""
READ_BYTES = 1 << 20


def require_end(tar: Path, end: int) -> None:
    """Check that nothing is lost behind the last member that ``tarfile`` found.

    It takes any header that it cannot read, and any end of file, for the end of the tar. A tar ends
    with two blocks of zeros or more (POSIX ustar), and nothing else.

    Args:
        tar: The file.
        end: Where ``tarfile`` stopped [byte].

    Raises:
        tarfile.ReadError: What lies there is no end.
    """
    with tar.open("rb") as file:
        file.seek(end)
        marker = file.read(END_BYTES)
        if len(marker) < tarfile.BLOCKSIZE or (len(marker) < END_BYTES and not any(marker)):
            raise tarfile.ReadError("cut: no end marker")
        if any(marker[: tarfile.BLOCKSIZE]):
            raise tarfile.ReadError(f"damaged header at byte {end:,}")
        if any(marker) or any(map(any, iter(lambda: file.read(READ_BYTES), b""))):
            raise tarfile.ReadError(f"more behind its end at byte {end:,}; were tars joined?")
