"""``bench predict`` and ``bench resplits``: how quick answers are, and how good their probabilities."""

from __future__ import annotations

from pathlib import Path

import click

from shards.commands import HELP


@click.command(context_settings=HELP)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--split", default="test", help="To evaluate beside it.")
@click.option("--shards", metavar="FOLDER|URL", help="Shard set.  [default: that of the run]")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Turns; each takes others.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write JSON here.")
def predict(
    run: Path,
    photos: tuple[Path, ...],
    split: str,
    shards: str | None,
    repeats: int,
    json_file: Path | None,
) -> None:
    """How fast RUN's model answers for PHOTOS (files, folders), beside its evaluation, in turns.

    A turn evaluates the split and answers for as many photographs.
    """
    from bench.predict import measure_prediction
    from bench.session import Recorder
    from train.checkpoints.checkpoint import check_archive, checkpoint_file

    check_archive(checkpoint_file(run))  # before anything is said
    with Recorder(json_file) as session:
        session.show(measure_prediction(run, photos, split, repeats, shards))


@click.command(context_settings=HELP)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--shards", metavar="FOLDER|URL", help="Shard set.  [default: that of the run]")
@click.option("--count", type=click.IntRange(1), default=200, help="Of re-splits.")
def resplits(run: Path, shards: str | None, count: int) -> None:
    """Whether a temperature helps images that it was not fitted on, over halves of val and test."""
    from bench.resplits import outputs_of_run, resplit
    from train.scores.calibration import WELL_CALIBRATED

    outputs = outputs_of_run(run, shards)
    for name, images in (("as runs fit it", WELL_CALIBRATED), ("the likeliest one", 0)):
        click.echo(f"{name}: {resplit(outputs, count, images)}")
