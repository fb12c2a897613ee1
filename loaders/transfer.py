"""One attempt at receiving a file: over HTTP, from a shell command, or from a disk.

Each can begin at an offset, fails where nothing comes for :data:`TIMEOUT`, and can be cut short by
another thread.
"""

from __future__ import annotations

import http.client
import os
import selectors
import signal
import socket
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Protocol

TIMEOUT = 20.0
"""Seconds without a byte after which an attempt has failed."""
CHUNK = 1 << 18
"""Bytes received at a time, at most."""
RETRIED_CODES = (408, 429)
"""Answers of the 400s that say "later" rather than "no"."""


class Transfer(Protocol):
    """One attempt at a file, from an offset on."""

    def read(self) -> bytes:
        """Some more bytes; none at the end.

        Raises:
            OSError, HTTPException: It broke off.
        """
        ...

    def cut(self) -> None:
        """End it, so that a ``read`` that waits in another thread returns."""
        ...

    def close(self) -> None:
        """Release what it holds; nothing of it is left running."""
        ...


class FileTransfer:
    """A file on a disk."""

    def __init__(self, path: str, offset: int) -> None:
        self._file = open(path, "rb", buffering=0)
        self._file.seek(offset)

    def read(self) -> bytes:
        """Some more bytes; none at the end."""
        return self._file.read(CHUNK) or b""

    def cut(self) -> None:
        """Nothing to end: a read from a disk returns by itself."""

    def close(self) -> None:
        """Release what it holds."""
        self._file.close()


class HttpTransfer:
    """A GET request; redirects and the proxies of the environment are followed."""

    def __init__(self, url: str, offset: int) -> None:
        # Identity, which is urllib's default: the size is that of the file.
        request = urllib.request.Request(url)
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        try:
            self._response: http.client.HTTPResponse = urllib.request.urlopen(
                request, timeout=TIMEOUT
            )
        except urllib.error.HTTPError as error:
            error.close()
            raise
        self._lock = threading.Lock()
        starts = self._response.headers.get("Content-Range", "")
        continued = self._response.status == 206 and starts.startswith(f"bytes {offset}-")
        self._to_skip = 0 if continued else offset

    def read(self) -> bytes:
        """Some more bytes; none at the end."""
        while self._to_skip:  # a server without ranges begins at the beginning
            self._to_skip -= len(self._some(min(CHUNK, self._to_skip)))
        return self._some(CHUNK)

    def cut(self) -> None:
        """Shut the connection down."""
        with self._lock:
            if self._response.isclosed():
                return
            with suppress(OSError), socket.socket(fileno=os.dup(self._response.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Release what it holds."""
        with self._lock:
            self._response.close()

    def _some(self, count: int) -> bytes:
        chunk = self._response.read(count)
        if not chunk and (self._response.length or self._to_skip):
            raise http.client.IncompleteRead(chunk)  # which ``read`` with a count keeps to itself
        return chunk


class CommandTransfer:
    """A shell command in a session of its own, so that all it started can be ended."""

    def __init__(self, command: str, offset: int) -> None:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._to_skip = offset

    def read(self) -> bytes:
        """Some more bytes; none at the end."""
        while chunk := self._some():
            wanted = chunk[self._to_skip :]
            self._to_skip -= len(chunk) - len(wanted)
            if wanted:
                return wanted
        try:
            code = self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        if code:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines()
            raise OSError(f"the command ended with {code}{': ' + said[-1] if said else ''}")
        return b""

    def cut(self) -> None:
        """Kill the command and all that it started."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Release what it holds."""
        self.cut()
        self._process.wait()
        self._selector.close()
        self._output.close()
        self._errors.close()

    def _some(self) -> bytes:
        if not self._selector.select(TIMEOUT):
            raise TimeoutError
        return os.read(self._output.fileno(), CHUNK)


def is_final(error: Exception) -> bool:
    """Whether another attempt would end in the same way."""
    if isinstance(error, urllib.error.HTTPError):
        return 400 <= error.code < 500 and error.code not in RETRIED_CODES
    return isinstance(error, (FileNotFoundError, PermissionError, http.client.InvalidURL))


def describe(error: Exception) -> str:
    """What went wrong, in a few words for the user."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return describe(error.reason)
    if isinstance(error, TimeoutError):
        return f"nothing came for {TIMEOUT:g} s"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection broke off"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
