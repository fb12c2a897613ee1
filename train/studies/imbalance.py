"""``python -m train.study imbalance``: a long tail, and what the ways to deal with it are worth."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from shards.commands import HELP
from shards.errors import UserError
from shards.settings import path_setting
from train.config.options import field_options, given_fields, shards_option
from train.config.rebalance import REBALANCE
from train.config.settings import Layer, load_layers
from train.runs.interrupt import importing

DEFAULTS = Layer("the study", {"recipe": "probe", "imbalance": 100.0})
"""Weaker than every other place."""
OF_A_RUN = ("seed", "subset_seed")
OF_REBALANCE = tuple(REBALANCE["none"])


@click.command(context_settings=HELP | {"obj": DEFAULTS.values["recipe"]})
@shards_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the study.  [default: runs/imbalance-<digest of the request>]",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="A TOML file of fields that are the same in all runs.",
)
@click.option(
    "--rebalance",
    "words",
    metavar="LIST",
    default=",".join(REBALANCE),
    show_default=True,
    help="Ways to deal with the tail; docs/imbalance.md.",
)
@click.option(
    "--tails",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Long tails, each with its own order of classes, photographs and seed of training.",
)
@field_options
def main(
    shards: str | None,
    out: Path | None,
    config_file: Path | None,
    words: str,
    tails: int,
    **fields: Any,
) -> None:
    """Train on long tails in several ways, and compare the ways on test.

    Every field of `python -m train` may be given; the recipe is probe and --imbalance is 100 where
    nothing else is said. Each way sees the same tails. The same command goes on after a stop.
    """
    _refuse_own(fields)
    chosen = read_words(words)
    layers = [*load_layers(given_fields(fields), config_file), DEFAULTS]
    with importing():
        from shards.reader import ShardSet
        from train.config.grid import digest_of
        from train.config.source import shard_source
        from train.method.models import check_arch
        from train.studies.tail_runs import Setting, tail_points
        from train.studies.tail_table import report

    points = tail_points(chosen, tails, layers)
    check_arch(points[0].config.arch)
    with shard_source(shards) as source:
        fingerprint = ShardSet(source.directory).manifest.fingerprint
        digest = digest_of([fingerprint, [each.config.to_dict() for each in points]])
        setting = Setting(
            folder=out or (path_setting("log_dir") or Path("runs")) / f"imbalance-{digest}",
            source=source,
            fingerprint=fingerprint,
            command=f"python -m train.study {shlex.join(sys.argv[1:])}",
        )
        report(setting.run(points), setting.folder, points[0].config)


def read_words(text: str) -> tuple[str, ...]:
    """Ways to deal with a tail, as they are typed: ``none,logit-adjust``.

    Raises:
        UserError: One is unknown or there twice.
    """
    words = tuple(each.strip() for each in text.split(","))
    for at, word in enumerate(words):
        if word not in REBALANCE:
            raise UserError(f"--rebalance has {word!r}; known are {', '.join(REBALANCE)}")
        if word in words[:at]:
            raise UserError(f"--rebalance has {word} twice; drop one of them")
    return words


def _refuse_own(fields: Mapping[str, Any]) -> None:
    for names, why in (
        (OF_A_RUN, "each tail has its own; drop it, --tails says how many there are"),
        (OF_REBALANCE, "--rebalance decides it; drop one of the two"),
    ):
        for name in names:
            if fields.get(name) is not None:
                raise UserError(f"--{name.replace('_', '-')}: {why}")
