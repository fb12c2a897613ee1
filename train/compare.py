"""``python -m train.compare RUN RUN ...``: runs side by side, and whether one is better."""

from __future__ import annotations

from pathlib import Path

import click

from shards.commands import HELP, run
from shards.errors import UserError
from shards.writer import write_file
from train.runs.interrupt import importing
from train.runs.writable import check_writable


@click.command(context_settings=HELP)
@click.argument(
    "runs", metavar="RUN RUN ...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--shards", metavar="FOLDER|URL", help="Shard set.  [default: those of the runs]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Also write a page with curves here: one HTML file that needs no network.",
)
def main(runs: tuple[Path, ...], shards: str | None, out: Path | None) -> None:
    """Evaluate the best checkpoints of runs and set them side by side.

    Of two runs, a paired bootstrap over the images says of each metric whether the second is better,
    worse, or whether that is undecided.
    """
    if len(runs) < 2:
        raise UserError("compare needs two runs or more")
    if out is not None:
        check_writable("--out", out)
    with importing():
        from train.report.compare_page import compare_page, run_table
        from train.report.content import read_content
        from train.report.page import require_plotly
        from train.scores.paired import differences

    if out is not None:
        require_plotly()
    contents = [read_content(each, shards, None) for each in runs]
    lines = run_table(contents)
    verdicts = []
    if len(contents) == 2:
        verdicts = [str(each) for each in differences(contents[0].outputs, contents[1].outputs)]
        lines += [f"{runs[1]} against {runs[0]}:", *(f"  {each}" for each in verdicts)]
    for line in lines:
        click.echo(line)
    if out is not None:
        write_file(out, compare_page(contents, verdicts).encode())
        click.echo(str(out))


if __name__ == "__main__":
    run(main, "python -m train.compare")
