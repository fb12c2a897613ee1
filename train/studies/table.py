"""Tables of a study: aligned text for people, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from train.scores.intervals import Interval


def aligned(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines of a table: its columns, which all rows have, then the rows."""
    columns = list(rows[0])
    cells = [columns, *([row[name] for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The content of a CSV file; all rows have the columns of the first."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def with_interval(value: float, interval: Interval) -> str:
    """``0.9533 (0.9412 to 0.9640)``."""
    return f"{value:.4f} ({interval})"
