"""Command-line options that several of the measurements share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

ARCH = "resnet18"
IMAGE_SIZE = 224
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def shards_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--shards``, which has a default everywhere."""
    return click.option(
        "--shards",
        type=click.Path(path_type=Path),
        help="Shard set.  [default: HYPHAE_SHARDS_DIR or local.toml, else a small drawn one]",
    )(function)


def options(
    *,
    repeats: int,
    image_size: bool = True,
    shards: bool = True,
    batch_size: bool = True,
    threads: bool = True,
) -> Decorator:
    """The options that the suites share."""
    shared: list[Decorator] = [
        click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps."),
        click.option(
            "--repeats", type=click.IntRange(2), default=repeats, help="Timed blocks of each."
        ),
        click.option(
            "--json", "json_file", type=click.Path(path_type=Path), help="Also write JSON here."
        ),
    ]
    if threads:
        shared.insert(
            0,
            click.option(
                "--threads",
                type=click.IntRange(1),
                help="Of the loaders, and on a CPU of the model.  [default: allowed cores]",
            ),
        )
    if batch_size:
        shared.insert(
            0,
            click.option(
                "--batch-size",
                type=click.IntRange(1),
                help="Images a batch.  [default: 8 to 32 on a CPU, 128 on a GPU]",
            ),
        )
    if shards:
        shared.append(shards_option)
    if image_size:
        shared.append(
            click.option(
                "--image-size",
                type=click.IntRange(16),
                default=IMAGE_SIZE,
                help="Side of the crops [px].",
            )
        )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(shared):
            function = option(function)
        return function

    return decorate


def arch_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--arch``, one of torchvision's names."""
    return click.option("--arch", default=ARCH, help="Any torchvision classification model.")(
        function
    )


def _archs(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    from train.scores.published import published_table

    if value == "all":
        return tuple(published_table())
    names = tuple(name.strip() for name in value.split(","))
    if "" in names:
        raise click.BadParameter(f"a name is missing between the commas of {value!r}")
    return names


def archs_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--arch``, several of torchvision's names."""
    return click.option(
        "--arch",
        default=ARCH,
        callback=_archs,
        help="Architectures, separated by commas; `all`: the five of the published table.",
    )(function)


def numbers(what: str, least: int = 1) -> Callable[..., tuple[int, ...]]:
    """A callback that takes numbers of something, from ``8,16``."""

    def parse(
        _context: click.Context, _option: click.Parameter, value: str | None
    ) -> tuple[int, ...]:
        try:
            found = tuple(int(each) for each in value.split(",")) if value else ()
        except ValueError:
            found = (least - 1,)
        if found and min(found) < least:
            at_least = f" of at least {least}" if least > 1 else ""
            raise click.BadParameter(
                f"{value!r} is not a number of {what}{at_least}, or several with commas"
            )
        return found

    return parse


def choices(*known: str) -> Callable[..., tuple[str, ...]]:
    """A callback that takes some of the known words, separated by commas."""

    def parse(
        _context: click.Context, _option: click.Parameter, value: str | None
    ) -> tuple[str, ...]:
        found = tuple(each.strip() for each in value.split(",")) if value else ()
        for each in found:
            if each not in known:
                raise click.BadParameter(f"{each!r} is not one of {', '.join(known)}")
        return found

    return parse
