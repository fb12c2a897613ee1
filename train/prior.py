"""``python -m train.prior CKPT --out FILE``: a prior by place and season, for ``train.predict --prior FILE``."""

from __future__ import annotations

from pathlib import Path

import click

from shards.commands import HELP, FiniteRange, run
from train.config.shared_options import places_option
from train.runs.interrupt import importing


@click.command(context_settings=HELP)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON file to write.  [default: prior.json, beside CHECKPOINT]",
)
@places_option(
    "CSV of file and any of latitude, longitude, date (columns as for packing's --add); `file` is the "
    "path of a sample in the shard set. For photographs that were packed without; may be repeated."
)
@click.option(
    "--cell",
    metavar="DEGREES",
    type=FiniteRange(0.01, 90),
    default=5.0,
    help="Side of the cells of latitude and longitude that places are counted in.",
)
@click.option("--shards", metavar="FOLDER", help="Shard set.  [default: that of the run]")
def main(
    checkpoint: Path, out: Path | None, tables: tuple[Path, ...], cell: float, shards: str | None
) -> None:
    """Count when and where each species was photographed, for the model of CHECKPOINT.

    CHECKPOINT is a .pt file, or a run folder for its best one. Training photographs are counted, how
    strongly they speak is chosen on val by log loss: 0, so that nothing changes, unless the loss is surely
    less. docs/modalities.md tells more.
    """
    with importing():
        from preprocess.sightings import read_places
        from train.inference.prior_fit import fit_prior
        from train.inference.trained import open_trained
        from train.runs.writable import check_outputs, record_of

    check_outputs({"--out": out}, [*record_of(checkpoint), *tables])
    places = {path: known for table in tables for path, known in read_places(table).items()}
    with open_trained(checkpoint, shards) as trained:
        target = out or trained.file.parent / "prior.json"
        prior, found, lines = fit_prior(trained, places, cell)
        prior.save(target, found)
    click.echo("\n".join(lines))
    click.echo(f"{target}: python -m train.predict CHECKPOINT PHOTOS --prior FILE multiplies it in")


if __name__ == "__main__":
    run(main, "python -m train.prior")
