"""The results of a study, a file each: what is there is done, whatever ended the program.

A cell is a point of the study's grid, or a run of it. Its file is named by a digest of everything that
its result depends on, so a study that grows finds what it has, and no result is taken for another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from shards.commands import stop_on_signals
from shards.errors import Interrupted, UserError
from shards.progress import Progress
from shards.settings import refuse_code_folder
from shards.writer import write_file
from train.checkpoints.folder import held
from train.config.grid import digest_of

CELLS = "cells"
"""Folder of the results, in that of the study."""

Values = Mapping[str, Any]
Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Where the results of a study are."""

    folder: Path
    facts: Values
    """What all of them depend on, as plain data: checkpoint, shard set, options."""

    def file(self, values: Values) -> Path:
        """Of the result for these values."""
        readable = "-".join(f"{name}_{value}" for name, value in values.items())
        digest = digest_of([dict(self.facts), dict(values)])
        return self.folder / CELLS / f"{readable}-{digest}.json"

    def read(self, values: Values) -> Result | None:
        """The result, if it is there.

        Raises:
            UserError: Its file is damaged.
        """
        file = self.file(values)
        if not file.exists():
            return None
        try:
            return dict(json.loads(file.read_text(encoding="utf-8"))["result"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{file} is damaged; remove it, and the study makes it again") from None

    def write(self, values: Values, result: Result) -> None:
        """Keep a result; a kill leaves all of it or nothing."""
        file = self.file(values)
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"facts": dict(self.facts), "values": dict(values), "result": dict(result)}
        write_file(file, (json.dumps(content, indent=1) + "\n").encode())


def run_cells(
    cells: Cells, points: Sequence[Values], make: Callable[[Values], Result], command: str
) -> list[Result]:
    """The results of all points, in their order; what is not there yet is made.

    Args:
        cells: Where they are.
        points: Values of each cell; plain data.
        make: The result of a cell; plain data, too.
        command: What to type to go on.

    Raises:
        Interrupted: A signal asked to stop; the cells that are done are kept.
    """
    results = {at: found for at, each in enumerate(points) if (found := cells.read(each))}
    click.echo(f"{len(points)} cells, {len(results)} done; {cells.folder}")
    try:
        with (
            stop_on_signals(""),
            Progress("study", len(points), "cell", initial=len(results)) as progress,
        ):
            for at, values in enumerate(points):
                if at not in results:
                    results[at] = make(values)
                    cells.write(values, results[at])
                    progress.update(1)
    except Interrupted as stop:
        raise Interrupted(
            f"study stopped, {len(results)} of {len(points)} cells done; go on with: {command}",
            stop.exit_code,
        ) from None
    return [results[at] for at in range(len(points))]


@contextmanager
def study_folder(folder: Path) -> Iterator[None]:
    """Make the folder of a study, and keep other processes from it.

    Raises:
        UserError: It cannot be made, or another process is at work there.
    """
    refuse_code_folder(folder, "output folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create output folder {folder}: {error.strerror}; choose another"
        ) from None
    with held(folder):
        yield
