"""``pack.times``: when each photograph was last modified, as a published set was packed from it.

A photograph that is replaced by another of equal size shows by nothing else. The file is no part of
the set, whose bytes depend on no times: without it a set is as good, only unable to tell.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.errors import UserError
from shards.sealed_json import parse_object
from shards.writer import write_file

TIMES_NAME = "pack.times"
Times = dict[str, npt.NDArray[np.int64]]
"""For each split ``(files,)`` modification times [ns since 1970], in catalogue order."""


def write_times(directory: Path, times: Times) -> None:
    """Note the times beside a set."""
    content = {split: each.tolist() for split, each in times.items()}
    write_file(directory / TIMES_NAME, json.dumps(content).encode())


def read_times(directory: Path) -> Times | None:
    """The times noted beside a set; None where none are.

    Raises:
        UserError: The file is damaged.
    """
    path = directory / TIMES_NAME
    try:
        content = parse_object(path.read_bytes())
        return {split: np.array(each, np.int64) for split, each in content.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, OverflowError):
        raise UserError(f"{path} is damaged; delete it and run the same command again") from None
