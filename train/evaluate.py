"""``python -m train.evaluate CKPT``: the test row of a run once more, or of another split."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from pathlib import Path

import click

from shards.commands import HELP, run
from shards.writer import write_file
from train.config.shared_options import species_option
from train.runs.interrupt import importing


@click.command(context_settings=HELP)
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--split", default="test", help="Which split: train, val or test.")
@click.option(
    "--shards",
    metavar="FOLDER|URL",
    help="Shard set.  [default: that of the run]",
)
@species_option
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write everything here: also intervals, every class, confusion matrix, price of caution.",
)
def main(
    checkpoints: tuple[Path, ...],
    split: str,
    shards: str | None,
    species: Path | None,
    json_file: Path | None,
) -> None:
    """Evaluate CHECKPOINTS on a split; several make one table beside the published results.

    Each is a .pt file, a run folder (its best one), or a checkpoint of the course (.ckpt, .pth).
    Settings are those of the run, of a course's checkpoint those of the baseline recipe. The
    temperature of the probabilities is fitted on val.
    """
    with importing():
        from train.inference.full_evaluation import evaluate_in_full
        from train.inference.trained import open_trained
        from train.runs.writable import check_outputs, record_of
        from train.scores.comparison import comparison_table

    read = [file for each in checkpoints for file in record_of(each)]
    check_outputs({"--json": json_file}, [*read, *filter(None, [species])])
    if len(checkpoints) > 1:
        for each in checkpoints:  # the last is refused before the work on the first
            with redirect_stdout(None), open_trained(each, shards):  # which says its notes below
                pass
    say_all = len(checkpoints) == 1
    rows = [evaluate_in_full(each, split, shards, species, say_all=say_all) for each in checkpoints]
    if len(rows) > 1:
        click.echo("\n".join(comparison_table([each.compared for each in rows])))
    if json_file is not None:
        results = [each.content for each in rows]
        content = results if len(results) > 1 else results[0]
        write_file(json_file, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    run(main, "python -m train.evaluate")
