"""CSV files that somebody made, opened and read with one clear line for what is wrong with them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from shards.errors import UserError
from shards.user_paths import require_regular_file

HEAD_BYTES = 4096
"""Looked at to tell text from anything else."""

SHOWN_CHARACTERS = 80
"""Of a header that is quoted."""


class _Reader(Protocol):
    @property
    def line_num(self) -> int: ...


def open_csv(file: Path) -> IO[str]:
    """A CSV file for ``csv.reader``: UTF-8 with or without a mark, other bytes as surrogates.

    Raises:
        UserError: It is no regular file, or its first line is no such text.
    """
    if file.is_symlink() and not file.exists():
        raise UserError(
            f"{file} is no regular file: a link to {file.readlink()}, which is not there"
        )
    with require_regular_file(file).open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    line = head.partition(b"\n")[0]
    wide = len(line) > 3 and not (any(line[1::2]) and any(line[::2]))
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or wide:
        raise UserError(f'{file} is UTF-16, expected UTF-8; save it as "CSV UTF-8"')
    if b"\0" in line:
        raise UserError(f"{file} is no text file, expected CSV in UTF-8")
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


@contextmanager
def csv_errors(file: Path, reader: _Reader) -> Iterator[None]:
    """Turn what the reader cannot read, such as a field above its limit, into one line.

    Raises:
        UserError: File, line, and what the reader says of it.
    """
    try:
        yield
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: {error}") from None


def describe_header(columns: Sequence[str]) -> str:
    """The header as found, quoted and cut, and what separates it where that is no comma."""
    text = ",".join(columns)
    shown = text[:SHOWN_CHARACTERS] + ("..." if len(text) > SHOWN_CHARACTERS else "")
    for character, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(columns) == 1 and character in text:
            return f"{shown!r}, separated by {name} instead of commas"
    return repr(shown or "nothing")
