"""Files of a shard set from a URL, a command or a folder: whole, checked, and tried again.

A file is used only once all of it is here and has the size and the SHA-256 that the manifest states.
So a connection that breaks, a disk that flips bits or a proxy that answers with a login page cost
another attempt or end in an error, and never in samples that are missing or wrong.
"""

from __future__ import annotations

import hashlib
import http.client
import shlex
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from loaders.transfer import (
    CommandTransfer,
    FileTransfer,
    HttpTransfer,
    Transfer,
    describe,
    is_final,
)
from shards.errors import ShardError, UserError
from shards.format import MANIFEST_NAME, FileInfo, Manifest, remedy, rows_name, samples_name

ATTEMPTS = 4
FIRST_PAUSE = 0.5
"""Seconds before the second attempt; each further pause is twice as long."""
LARGEST_MANIFEST = 1 << 28
"""Bytes; of the one file whose size nothing states."""

NAME = "{name}"
"""Stands for the name of a file in a URL or command."""
COMMAND = "pipe:"

WHAT_ANSWERS = "this is where the shard set lies, and that no page to log in answers in its place"


class SourceClosed(Exception):
    """The source was closed while a file was under way."""


class Source:
    """Where the files of a shard set come from. Thread-safe.

    Args:
        where: ``https://host/set/``, or ``https://host/get?file={name}&key=...``;
            ``pipe:COMMAND {name}``, a shell command that writes the file to its output; or a folder.

    Raises:
        UserError: From the constructor, where it is none of these.
    """

    def __init__(self, where: str | Path) -> None:
        self._where = str(where)
        self._folder = where if isinstance(where, Path) else None
        if self._folder is None:
            _check_remote(self._where)
        self._closed = threading.Event()
        self._under_way: set[Transfer] = set()
        self._lock = threading.Lock()

    def address(self, name: str) -> str:
        """Where a file is, for messages: a URL without its query, which may hold a key."""
        address = self._place(name)
        if self._folder is not None or address.startswith(COMMAND):
            return address
        parts = urlsplit(address)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def fetch(self, name: str, expected: FileInfo | None = None) -> bytearray:
        """All of a file. An attempt that breaks off is continued by the next one.

        Args:
            name: Of the file, within the set.
            expected: Its size and SHA-256; None where the source's own word has to do.

        Raises:
            ShardError: It is not there, or did not come as expected; names the file and its address.
            SourceClosed: :meth:`close` was called.
        """
        content = bytearray()
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._closed.wait(FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                self._receive(name, content, expected)
                fault = _fault(content, expected)
                if fault is None:
                    return content
                reason = fault
                if expected is None or len(content) >= expected.bytes:
                    content.clear()  # nothing to go on with
            except (OSError, http.client.HTTPException) as error:
                reason = describe(error)
                if is_final(error):
                    break
            if self._closed.is_set():
                raise SourceClosed
        tries = f" ({attempt + 1} attempts)" if attempt else ""
        raise ShardError(
            f"cannot read {name} from {self.address(name)}: {reason}{tries}; check that the shard "
            "set is complete there and can be reached"
        )

    def close(self) -> None:
        """Cut what is under way, in other threads too; what they fetch raises SourceClosed.

        A server that has not answered yet is not waited for here, but its thread ends only when it
        answers, or after :data:`~loaders.transfer.TIMEOUT`.
        """
        self._closed.set()
        with self._lock:
            for transfer in self._under_way:
                transfer.cut()

    def _receive(self, name: str, content: bytearray, expected: FileInfo | None) -> None:
        """Append what the source sends from the end of ``content`` on."""
        limit = LARGEST_MANIFEST if expected is None else expected.bytes
        with closing(self._open(name, len(content))) as transfer:
            with self._lock:
                self._under_way.add(transfer)
            try:
                while not self._closed.is_set() and len(content) <= limit:
                    chunk = transfer.read()
                    if not chunk:
                        break
                    content += chunk
            finally:
                with self._lock:
                    self._under_way.discard(transfer)
        if self._closed.is_set():
            raise SourceClosed

    def _open(self, name: str, offset: int) -> Transfer:
        place = self._place(name)
        if self._folder is not None:
            return FileTransfer(place, offset)
        if place.startswith(COMMAND):
            return CommandTransfer(place.removeprefix(COMMAND), offset)
        return HttpTransfer(place, offset)

    def _place(self, name: str) -> str:
        if self._folder is not None:
            return str(self._folder / name)
        if self._where.startswith(COMMAND):
            return self._where.replace(NAME, shlex.quote(name))
        if NAME in self._where:
            return self._where.replace(NAME, name)
        return f"{self._where.rstrip('/')}/{name}"


def is_remote(where: str) -> bool:
    """Whether a shard set is named by a URL or command rather than by a folder."""
    return where.startswith(COMMAND) or "://" in where


@contextmanager
def fetched_index(where: str) -> Iterator[Path]:
    """A temporary folder with all of a remote shard set but its tars: a few MB.

    It opens as a shard set (:class:`~shards.reader.ShardSet`): class names, counts and sample
    tables are there; the images are not.

    Raises:
        ShardError: There is no shard set, or it cannot be reached.
        UserError: ``where`` is no URL or command.
    """
    with (
        closing(Source(where)) as source,
        tempfile.TemporaryDirectory(prefix="hyphae-index-") as name,
    ):
        folder = Path(name)
        (folder / MANIFEST_NAME).write_bytes(source.fetch(MANIFEST_NAME))
        try:
            manifest = Manifest.read(folder)
        except ShardError as error:
            here, there = str(folder / MANIFEST_NAME), source.address(MANIFEST_NAME)
            what, damaged, _ = error.message.partition(f"; {remedy(folder)}")
            advice = f"; check that {WHAT_ANSWERS}" if damaged else ""
            raise ShardError(what.replace(here, there) + advice) from None
        for split in manifest.splits:
            for table in (samples_name(split), rows_name(split)):
                (folder / table).write_bytes(source.fetch(table, manifest.files[table]))
        yield folder


def _check_remote(where: str) -> None:
    if where.startswith(COMMAND):
        if NAME not in where:
            raise UserError(
                f"the command {where!r} does not say which file it reads; write {NAME} where the "
                "name of a file goes, as in 'pipe:aws s3 cp s3://bucket/set/{name} -'"
            )
    elif not where.startswith(("http://", "https://")) or not urlsplit(where).netloc:
        raise UserError(
            f"cannot read shards from {where!r}; give a folder, http://, https://, or a command "
            "as in 'pipe:aws s3 cp s3://bucket/set/{name} -'"
        )


def _fault(content: bytearray, expected: FileInfo | None) -> str | None:
    """What is wrong with what arrived, None for nothing."""
    if expected is None:
        return None if len(content) <= LARGEST_MANIFEST else "it does not end"
    if len(content) < expected.bytes:
        return f"it ended after {len(content):,} of {expected.bytes:,} bytes"
    if len(content) > expected.bytes:
        return f"it is longer than the {expected.bytes:,} bytes of the manifest"
    if hashlib.sha256(content).hexdigest() != expected.sha256:
        return "its content is not what the manifest says (sha256)"
    return None
