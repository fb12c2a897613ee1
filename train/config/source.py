"""Where a run's shards are: a folder, or a URL or command that they are streamed from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loaders.fetch import COMMAND, Source, fetched_index, is_remote
from shards.errors import UserError
from shards.settings import require_path


@dataclass(frozen=True, slots=True)
class ShardSource:
    """A shard set that can be opened."""

    directory: Path
    """The set, or all of it but its tars."""
    url: str | None = None
    """Where the tars are streamed from. Never saved: it may hold a key, and a command could be
    anything."""

    def __str__(self) -> str:
        """For people, and for the run's record: without what may be a key."""
        if self.url is None:
            return str(self.directory.absolute())
        if self.url.startswith(COMMAND):
            return COMMAND + self.url.removeprefix(COMMAND).split()[0]
        return Source(self.url).address("")


@contextmanager
def shard_source(where: str | None) -> Iterator[ShardSource]:
    """What ``--shards`` names, else this machine's default; of a remote set the index is fetched.

    Raises:
        UserError: Nothing is named.
        ShardError: A remote set cannot be reached.
    """
    if where is not None and is_remote(where):
        with fetched_index(where) as index:
            yield ShardSource(index, where)
        return
    given = None if where is None else Path(where)
    yield ShardSource(require_path("shards_dir", given, "--shards SHARDS"))


def recorded_source(where: str | None, recorded: str) -> str:
    """What a run's record says, unless the command line says otherwise.

    Raises:
        UserError: The record names a URL or command, which is not followed from a file.
    """
    if where is not None:
        return where
    if is_remote(recorded):
        raise UserError(
            f"this run streamed its shards from {recorded}; name them again with --shards"
        )
    return recorded
