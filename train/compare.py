"""``python -m train.compare RUN RUN ...``: runs side by side, and whether one is better."""

from __future__ import annotations

import json
from pathlib import Path

import click

from shards.commands import HELP, run
from shards.errors import UserError
from shards.writer import write_file
from train.config.shared_options import species_option
from train.runs.interrupt import importing


@click.command(context_settings=HELP)
@click.argument(
    "runs", metavar="RUN RUN ...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--shards", metavar="FOLDER|URL", help="Shard set.  [default: those of the runs]")
@species_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Also write a page with curves here: one HTML file that needs no network.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write everything here: of each run what `train.evaluate --json` writes, and the verdicts.",
)
def main(
    runs: tuple[Path, ...],
    shards: str | None,
    species: Path | None,
    out: Path | None,
    json_file: Path | None,
) -> None:
    """Evaluate the best checkpoints of runs and set them side by side.

    Of two runs, a paired bootstrap over the images of test (of val where there is no test) says of
    each metric whether the second is better, worse, or whether that is undecided.
    """
    if len(runs) < 2:
        raise UserError("compare needs two runs or more")
    with importing():
        from train.report.compare_page import compare_page, run_table
        from train.report.content import read_content
        from train.report.page import require_plotly
        from train.runs.writable import check_outputs, record_of
        from train.scores.paired import differences

    read = [file for each in runs for file in record_of(each)]
    check_outputs({"--out": out, "--json": json_file}, [*read, *filter(None, [species])])
    if out is not None:
        require_plotly()
    contents = [read_content(each, shards, species) for each in runs]
    lines = run_table(contents)
    found = []
    if len(contents) == 2:
        found = differences(contents[0].outputs, contents[1].outputs)
        lines += [f"{runs[1]} against {runs[0]}:", *(f"  {each}" for each in found)]
    for line in lines:
        click.echo(line)
    if out is not None:
        write_file(out, compare_page(contents, [str(each) for each in found]).encode())
        click.echo(str(out))
    if json_file is not None:
        content = {
            "runs": [each.row for each in contents],
            "differences": [each.as_dict() for each in found],
        }
        write_file(json_file, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    run(main, "python -m train.compare")
