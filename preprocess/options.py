"""Command-line options of everything that packs, as one object each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shards.errors import UserError
from shards.machine import allowed_cores
from shards.rejects import max_rejected_option
from shards.settings import refuse_code_folder, require_path
from shards.user_paths import USER_PATH, require_output_folder

if TYPE_CHECKING:
    from preprocess.image import ImageOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """Where to, how stored, and by whom."""

    out: Path | None
    image: ImageOptions
    workers: int
    seed: int
    max_rejected: float | None
    """Share of photographs that may be unusable, in [0, 1]; None where it is not given."""
    task: tuple[int, int] | None
    """The slice (i, n) to pack alone."""
    dask: str | None
    """Address of a scheduler."""

    def require_out(self) -> Path:
        """The folder for the shard set.

        Raises:
            UserError: None is given, or it is unfit.
        """
        from shards.format import MANIFEST_NAME

        out = require_path("shards_dir", self.out, "--out SHARDS")
        if ".." in out.parts:  # new/../photos is not there until new is made, and then is photos
            out = out.resolve()
        refuse_code_folder(out, "output folder")
        if not (out / MANIFEST_NAME).is_file():  # a finished set may lie on a read-only disk
            require_output_folder(out, "the shard set")
        return out.absolute() if self.dask else out


def raw_share_of(_context: click.Context, param: click.Parameter, value: str) -> float:
    """``jpeg``, ``raw`` or ``mix:P`` -> the share of images that are stored as arrays."""
    kind, _, share = value.partition(":")
    try:
        return {"jpeg": 0.0, "raw": 1.0}[value] if kind != "mix" else _probability(share)
    except (KeyError, ValueError):
        raise click.BadParameter(
            f"{value!r} is not jpeg, raw, or mix:P with P from 0 to 1", param=param
        ) from None


def slice_of(
    _context: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """``3/8`` -> ``(3, 8)``."""
    if value is None:
        return None
    try:
        index, count = map(int, value.split("/"))
    except ValueError:
        index, count = -1, 0
    if not 0 <= index < count:
        raise click.BadParameter(f"{value!r} is not I/N with I from 0 to N-1", param=param)
    return index, count


def patterns_of(
    _context: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """``train=a-*.tar`` -> ``{"a-*.tar": "train"}``."""
    from shards.format import SPLITS

    patterns = {}
    for value in values:
        split, _, pattern = value.partition("=")
        if split not in SPLITS or not pattern:
            raise click.BadParameter(
                f"{value!r} is not SPLIT=PATTERN with SPLIT one of {', '.join(SPLITS)}", param=param
            )
        patterns[pattern] = split
    return patterns


def address_of(_context: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A scheduler's address, if any; ``""`` is none, and not the wish to pack here."""
    if value is not None and not value.strip():
        raise click.BadParameter("the address is empty", param=param)
    return value


def _probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


_OPTIONS = (
    click.option("--out", type=USER_PATH, help="Folder for the shard set."),
    click.option(
        "--store",
        "raw_share",
        callback=raw_share_of,
        default="jpeg",
        metavar="jpeg|raw|mix:P",
        help="JPEGs, uint8 arrays (no decoding later, much larger), or arrays with probability P.",
    ),
    click.option(
        "--short-side",
        default=440,
        type=click.IntRange(max=65_535),
        help="Scale images down to this shorter side [px].",
    ),
    click.option(
        "--max-side", type=click.IntRange(max=65_535), help="And to this longer side [px]."
    ),
    click.option("--quality", default=90, help="JPEG quality of images that are encoded anew."),
    click.option(
        "--subsampling",
        type=click.Choice(["420", "422", "444"]),
        default="420",
        help="Of colour, in images that are encoded anew.",
    ),
    click.option(
        "--workers", type=click.IntRange(min=1), help="Processes.  [default: allowed cores]"
    ),
    click.option(
        "--seed",
        default=0,
        type=click.IntRange(0, 2**63 - 1),
        help="Of the stored order, and of a split made here.",
    ),
    max_rejected_option,
    click.option(
        "--task",
        callback=slice_of,
        metavar="I/N",
        help="Pack slice I of N (0 to N-1) alone; `python -m shards merge` then publishes.",
    ),
    click.option(
        "--dask",
        callback=address_of,
        metavar="ADDRESS",
        help="Pack on this Dask cluster: tcp://scheduler:8786.",
    ),
)


def pack_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command all options of packing; it receives them as ``options``."""

    @functools.wraps(function)
    def command(
        *,
        out: Path | None,
        raw_share: float,
        short_side: int,
        max_side: int | None,
        quality: int,
        subsampling: Any,
        workers: int | None,
        seed: int,
        max_rejected: float | None,
        task: tuple[int, int] | None,
        dask: str | None,
        **others: Any,
    ) -> None:
        from preprocess.image import ImageOptions

        try:
            image = ImageOptions(
                raw_share=raw_share,
                short_side=short_side,
                max_side=max_side,
                quality=quality,
                subsampling=subsampling,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        function(
            options=PackOptions(
                out=out,
                image=image,
                workers=workers or allowed_cores(),
                seed=seed,
                max_rejected=max_rejected,
                task=task,
                dask=dask,
            ),
            **others,
        )

    for option in reversed(_OPTIONS):
        command = option(command)
    return command
