"""``python -m train.report RUN``: one page about a run, and its model card."""

from __future__ import annotations

from pathlib import Path

import click

from shards.commands import HELP, run
from shards.errors import UserError
from shards.writer import write_file
from train.config.shared_options import species_option
from train.runs.interrupt import importing


@click.command(context_settings=HELP)
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="The page to write.  [default: RUN/report.html]",
)
@click.option("--shards", metavar="FOLDER|URL", help="Shard set.  [default: that of the run]")
@species_option
def main(folder: Path, out: Path | None, shards: str | None, species: Path | None) -> None:
    """Evaluate RUN's best checkpoint and write one HTML page about it that needs no network.

    Beside the page: MODEL_CARD.md.
    """
    page = out or folder / "report.html"
    with importing():
        from train.report.content import read_content
        from train.report.model_card import CARD, model_card
        from train.report.page import require_plotly
        from train.report.run_page import run_page
        from train.runs.writable import check_outputs, record_of

    if folder.is_file():
        raise UserError(f"{folder} is a file; a report is about a run, so give its folder")
    if folder.is_dir() or out is not None:
        check_outputs({"--out": page}, [*record_of(folder), *filter(None, [species])])
    require_plotly()
    content = read_content(folder, shards, species)
    card = page.with_name(CARD)
    write_file(page, run_page(content).encode())
    write_file(card, model_card(content).encode())
    click.echo(f"{page}\n{card}")


if __name__ == "__main__":
    run(main, "python -m train.report")
