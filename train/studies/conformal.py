"""``python -m train.study conformal CKPT``: what prediction sets keep of their promise, and their size."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from shards.commands import HELP
from train.runs.interrupt import importing


def _coverages(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        coverages = tuple(float(each) for each in value.split(","))
    except ValueError:
        coverages = ()
    if not coverages or not all(0 < each < 1 for each in coverages):
        raise click.BadParameter(f"{value!r} is no list of numbers between 0 and 1: 0.8,0.9")
    return tuple(sorted(set(coverages)))


@click.command(context_settings=HELP)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--coverage",
    "coverages",
    default="0.8,0.9,0.95",
    callback=_coverages,
    help="Probabilities with which a set is to hold the right species.",
)
@click.option("--resplits", type=click.IntRange(2), default=200, help="Of val and test, at random.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the re-splits.")
@click.option("--no-store", is_flag=True, help="Leave the checkpoint as it is.")
@click.option("--shards", metavar="FOLDER", help="Shard set.  [default: that of the run]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder.  [default: conformal, beside CHECKPOINT]",
)
def main(
    checkpoint: Path,
    coverages: tuple[float, ...],
    resplits: int,
    seed: int,
    no_store: bool,
    shards: str | None,
    out: Path | None,
) -> None:
    """How often sets of species hold the right one, over random re-splits of val and test.

    CHECKPOINT is a .pt file, or a run folder for its best one. Scores of val are stored in the checkpoint,
    and `python -m train.predict --conformal 0.9` then gives such a set for each photograph.
    docs/unknown.md tells more.
    """
    with importing():
        from train.inference.trained import open_trained
        from train.novelty.bank import FeatureBank
        from train.studies.conformal_resplits import Request, run_study

    with open_trained(checkpoint, shards) as trained:
        run_study(
            FeatureBank(trained),
            Request(
                coverages=coverages,
                resplits=resplits,
                store=not no_store,
                seed=seed,
                folder=out or trained.file.parent / "conformal",
                command=f"python -m train.study {shlex.join(sys.argv[1:])}",
            ),
        )
