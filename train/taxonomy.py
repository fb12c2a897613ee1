"""``python -m train.taxonomy --out tree.html``: the tree of a species table, without any run."""

from __future__ import annotations

from pathlib import Path

import click

from shards.commands import HELP, run
from shards.writer import write_file
from train.config.shared_options import species_option
from train.runs.interrupt import importing


@click.command(context_settings=HELP)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="The page to write: one HTML file that needs no network.",
)
@species_option
def main(out: Path, species: Path | None) -> None:
    """Draw the tree of a species table as an interactive page."""
    with importing():
        from train.report.page import require_plotly
        from train.report.taxonomy_page import taxonomy_page
        from train.runs.writable import check_outputs
        from train.scores.species import read_table, shipped_table, taxonomy_of

    check_outputs({"--out": out}, [] if species is None else [species])
    require_plotly()
    table = shipped_table() if species is None else read_table(species)
    taxonomy = taxonomy_of(tuple(table), species)
    write_file(out, taxonomy_page(taxonomy).encode())
    click.echo(f"{len(taxonomy.classes)} species: {out}")


if __name__ == "__main__":
    run(main, "python -m train.taxonomy")
