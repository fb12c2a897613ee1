"""``python -m train.fewshot CKPT``: new classes told apart after a few photographs of each."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from shards.commands import HELP, run
from shards.errors import UserError
from train.runs.interrupt import importing


def _shots(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        shots = tuple(int(each) for each in value.split(","))
    except ValueError:
        shots = ()
    if not shots or min(shots) < 1 or len(set(shots)) < len(shots):
        raise click.BadParameter(f"{value!r} is no list of different numbers from 1 on: 1,5,10")
    return tuple(sorted(shots))


@click.command(context_settings=HELP)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--shots", default="1,5,10", callback=_shots, help="Photographs of each class to learn from."
)
@click.option("--episodes", type=click.IntRange(2), default=200, help="Draws for each of --shots.")
@click.option("--ways", type=click.IntRange(2), help="Classes of an episode.  [default: 5, or all]")
@click.option("--queries", type=click.IntRange(1), default=15, help="Photographs to name, a class.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the draws.")
@click.option(
    "--classes",
    multiple=True,
    metavar="A,B|@FILE",
    help="The new classes.  [default: those that the run held out]",
)
@click.option("--shards", metavar="FOLDER", help="Shard set.  [default: that of the run]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder.  [default: fewshot, beside CHECKPOINT]"
)
def main(
    checkpoint: Path,
    shots: tuple[int, ...],
    episodes: int,
    ways: int | None,
    queries: int,
    seed: int,
    classes: tuple[str, ...],
    shards: str | None,
    out: Path | None,
) -> None:
    """Name photographs of classes that CHECKPOINT's network never saw, after a few of each.

    CHECKPOINT is a .pt file, or a run folder for its best one. Features of all photographs of the new
    classes, whatever their split, are the pool that episodes are drawn from; which directions matter
    is learned from the known classes' training photographs. docs/few-shots.md tells more. What was stopped goes on with the same command.
    """
    with importing():
        from loaders.subset import read_names
        from train.config.grid import digest_of
        from train.engine.logistic import Samples
        from train.inference.trained import open_trained
        from train.novelty.bank import FeatureBank
        from train.novelty.classes import novel_classes
        from train.novelty.episodes import Episodes
        from train.novelty.feature_space import space_of, without
        from train.studies.fewshot import Setting, measure

    with open_trained(checkpoint, shards) as trained:
        names = novel_classes(trained.saved, read_names(classes))
        if ways is not None and ways > len(names):
            raise UserError(f"--ways {ways}, and there are {len(names)} new classes; choose fewer")
        bank = FeatureBank(trained)
        pool = bank.of_classes(names)
        known = without(bank.of_split("train", trained.saved.config.train_subset), pool.labels)
        if not len(known):
            raise UserError("all classes of the train split are new; leave some out of --classes")
        pool = Samples(space_of(known)(pool.features), pool.labels)
        setting = Setting(
            episodes=Episodes(pool, ways or min(5, len(names)), queries, seed),
            count=episodes,
            classes=names,
            digest=digest_of([bank.digest, "roots, whitened", sorted(set(known.labels.tolist()))]),
            folder=out or trained.file.parent / "fewshot",
            command=f"python -m train.fewshot {shlex.join(sys.argv[1:])}",
        )
        setting.episodes.check(shots[-1], trained.saved.class_names)
    measure(setting, shots)


if __name__ == "__main__":
    run(main, "python -m train.fewshot")
