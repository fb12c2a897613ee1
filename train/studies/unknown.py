"""``python -m train.study unknown CKPT``: how well photographs of other species are recognised as such."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from shards.commands import HELP, FiniteRange
from train.runs.interrupt import importing


@click.command(context_settings=HELP)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--draws",
    type=click.IntRange(0),
    default=0,
    help="Of a probe: also leave out classes drawn at random, so many times, and fit the head anew.",
)
@click.option(
    "--leave-out",
    type=click.IntRange(1),
    help="Classes of a draw.  [default: as many as the run held out, or 5]",
)
@click.option(
    "--recall",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    help="Share of photographs of known species that are to pass.",
)
@click.option(
    "--score",
    type=click.Choice(["softmax", "logit", "energy", "mahalanobis", "neighbours"]),
    help="What predict is to go by.  [default: the one with the best AUROC on val]",
)
@click.option("--no-store", is_flag=True, help="Leave the checkpoint as it is.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the draws.")
@click.option("--shards", metavar="FOLDER", help="Shard set.  [default: that of the run]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder.  [default: unknown, beside CHECKPOINT]"
)
def main(
    checkpoint: Path,
    draws: int,
    leave_out: int | None,
    recall: float,
    score: str | None,
    no_store: bool,
    seed: int,
    shards: str | None,
    out: Path | None,
) -> None:
    """How well five scores tell species that CHECKPOINT's model does not know from those it does.

    CHECKPOINT is a .pt file, or a run folder for its best one. Classes that the run held out are the
    unknown ones. A threshold is chosen on val and stored in the checkpoint, and `python -m train.predict`
    then answers "not one of the known species". docs/unknown.md tells more.
    """
    with importing():
        from train.inference.trained import open_trained
        from train.novelty.bank import FeatureBank
        from train.studies.unknown_runs import Request, run_study

    with open_trained(checkpoint, shards) as trained:
        run_study(
            FeatureBank(trained),
            Request(
                draws=draws,
                leave_out=leave_out,
                recall=recall,
                score=score,
                store=not no_store,
                seed=seed,
                folder=out or trained.file.parent / "unknown",
                command=f"python -m train.study {shlex.join(sys.argv[1:])}",
            ),
        )
