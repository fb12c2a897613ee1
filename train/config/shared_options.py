"""Options that commands about results share; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def species_option(command: Command) -> Command:
    """Add ``--species``: the path of a species table, or None."""
    return click.option(
        "--species",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Species table: CSV with the columns of train/data/species.csv.  [default: that file]",
    )(command)


def places_option(help_text: str) -> Callable[[Command], Command]:
    """Add ``--places``: the paths of tables of place and date, as ``tables``."""
    return click.option(
        "--places",
        "tables",
        multiple=True,
        metavar="TABLE",
        type=click.Path(path_type=Path, dir_okay=False),
        help=help_text,
    )
