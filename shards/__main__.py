"""``python -m shards``: look into a shard set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from shards.commands import HELP, run
from shards.format import Manifest
from shards.machine import human_bytes
from shards.reader import ShardSet
from shards.settings import require_path


@click.group(context_settings=HELP)
def main() -> None:
    """Look into a shard set."""


@main.command()
@click.argument("shards", type=click.Path(path_type=Path), required=False)
def info(shards: Path | None) -> None:
    """Show what SHARDS holds: splits, classes, sizes, repetition, how it was made."""
    directory = require_path("shards_dir", shards, "SHARDS")
    click.echo(describe(directory, ShardSet(directory).manifest))


def describe(directory: Path, manifest: Manifest) -> str:
    """The table that ``info`` prints."""
    lines = [f"{directory}: {manifest.num_classes} classes, format {manifest.format_version}"]
    lines.append(
        f"{'split':<8}{'rows':>10}{'files':>9}{'rows/file':>11}{'samples':>9}{'rejected':>10}"
        f"{'shards':>8}{'size':>11}"
    )
    lines += [
        f"{name:<8}{each.rows:>10,}{each.files:>9,}{each.repetition:>11.2f}{each.samples:>9,}"
        f"{each.files - each.samples:>10,}{each.shards:>8}{human_bytes(each.bytes):>11}"
        for name, each in manifest.splits.items()
    ]
    lines.append("stored    " + _pairs(manifest.stored))
    if manifest.rejected:
        lines.append("rejected  " + _pairs(manifest.rejected) + " (see rejected.csv)")
    lines += [
        f"pixels    {plan}: mean ({_triple(each.mean)}), std ({_triple(each.std)})"
        for plan, each in manifest.pixels.items()
    ]
    lines.append("options   " + _pairs(manifest.options))
    lines.append("versions  " + _pairs(manifest.versions))
    return "\n".join(lines)


def _pairs(mapping: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in mapping.items())


def _triple(values: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


if __name__ == "__main__":
    run(main, "python -m shards")
