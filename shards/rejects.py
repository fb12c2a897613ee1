"""How many photographs may be left out, and which of them count."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import click

from shards.commands import FiniteRange

DEFAULT_SHARE = 0.01
FEW = 3
FEW_SHARE = 0.1
"""Of a small set a few may be unusable, so that one in 50 does not stop it; but not one in 5."""

EXCLUDED = "excluded: "
"""How a reason begins that was the user's wish: such photographs are not held against the set."""


def num_allowed(files: int, max_rejected: float | None) -> int:
    """How many of ``files`` photographs may be unusable.

    Args:
        files: Photographs in all.
        max_rejected: Share in [0, 1], taken at its word; None for 1 %, or 3 photographs where that
            is more, but no more than one in ten.

    >>> [num_allowed(files, None) for files in (8, 20, 50, 1000)], num_allowed(50, 0.01)
    ([0, 2, 3, 10], 0)
    """
    if max_rejected is None:
        share = max(DEFAULT_SHARE * files, min(FEW, FEW_SHARE * files))
    else:
        share = max_rejected * files
    return math.floor(share + 1e-9)  # 0.29 * 100 is a little less than 29


def describe_too_many(reasons: Sequence[str], files: int, max_rejected: float | None) -> str | None:
    """What is wrong, if more photographs were rejected than may be; else None.

    Args:
        reasons: Of every photograph left out; wished exclusions do not count.
        files: Photographs in all.
        max_rejected: As in :func:`num_allowed`.
    """
    unwanted = [reason for reason in reasons if not reason.startswith(EXCLUDED)]
    allowed = num_allowed(files, max_rejected)
    if len(unwanted) <= allowed:
        return None
    if max_rejected is None:
        rule = f"the {allowed:,} that are allowed without --max-rejected"
    else:
        rule = f"--max-rejected {100 * max_rejected:g} (percent) allows"
    shown = ", ".join(f"{count:,} {each}" for each, count in Counter(unwanted).most_common(3))
    return f"{len(unwanted):,} of {files:,} photographs were rejected ({shown}), more than {rule}"


def _share_of(
    _context: click.Context, _param: click.Parameter, percentage: float | None
) -> float | None:
    return None if percentage is None else percentage / 100


def max_rejected_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--max-rejected``, in percent; the command gets a share, or None where it is not given."""
    return click.option(
        "--max-rejected",
        type=FiniteRange(0, 100),
        callback=_share_of,
        metavar="PERCENT",
        help="Percentage of photographs that may be unusable.  [default: 1, or up to 3 photographs "
        "of a small set]",
    )(function)
