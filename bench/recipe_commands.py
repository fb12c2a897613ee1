"""``bench recipes``: what recipes reach for what they compute."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.options import ARCH
from shards.commands import HELP
from shards.errors import UserError
from shards.settings import refuse_code_folder
from shards.user_paths import require_output_folder

if TYPE_CHECKING:
    from bench.curve_chart import Cost

IMAGE_SIZE = 128
RECORD, TABLE, BY_TFLOP, BY_MINUTES = (
    "recipes.json", "recipes.md", "miou-tflop.svg", "miou-minutes.svg",
)  # fmt: skip


@click.command(context_settings=HELP)
@click.option("--shards", metavar="FOLDER|URL", help="Shard set.  [default: of this machine]")
@click.option(
    "--recipe",
    "texts",
    multiple=True,
    default=("baseline=5,10,20", "fast"),
    show_default=True,
    metavar="NAME=EPOCHS",
    help="A recipe and the lengths to train it for; several times. The longest run of the first is "
    "what the others are compared with.",
)
@click.option("--seeds", type=click.IntRange(1), default=5, help="Runs of each length.")
@click.option("--arch", default=ARCH, help="Of recipes that do not start from weights.")
@click.option(
    "--image-size",
    type=click.IntRange(16),
    default=IMAGE_SIZE,
    help="Side of the crops at evaluation, of the same recipes [px].",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("data/recipes"),
    help="Folder of the runs, the table and the pictures.",
)
def recipes(
    shards: str | None, texts: tuple[str, ...], seeds: int, arch: str, image_size: int, out: Path
) -> None:
    """Train recipes to the end, several seeds each: mIoU against TFLOP and against minutes.

    Hours without a GPU. The same command goes on where it was stopped, and finds the runs that it
    already has when more seeds or lengths are asked for.
    """
    refuse_code_folder(out, "output folder")
    require_output_folder(out, "the runs")
    from bench.curve_chart import AXES, curve_chart
    from bench.recipe_curves import curves_section, markdown
    from bench.recipe_runs import points, read_curve, run_to_the_end
    from bench.session import Recorder
    from shards.reader import ShardSet
    from shards.writer import write_file
    from train.config.safety import Safety
    from train.config.source import shard_source
    from train.method.models import check_arch

    check_arch(arch)
    planned = points([read_curve(each) for each in texts], seeds, arch, image_size)
    with shard_source(shards) as source:
        fingerprint = ShardSet(source.directory).manifest.fingerprint
        _make(out)
        with Recorder(out / RECORD) as session:
            runs = []
            for number, point in enumerate(planned, 1):
                click.echo(f"\n[{number}/{len(planned)}] {point}")
                safety = Safety(started=time.monotonic())
                runs.append(run_to_the_end(point, out / "runs", fingerprint, source, safety))
            section = curves_section(runs, str(source))
            session.show(section)
        write_file(out / TABLE, markdown(section).encode())
        pictures: dict[str, Cost] = {BY_TFLOP: "tflop", BY_MINUTES: "minutes"}
        for name, cost in pictures.items():
            title = f"mIoU of recipes against {AXES[cost]}"
            write_file(out / name, curve_chart(section.results, cost, title).encode())
        click.echo(f"written: {', '.join(str(out / each) for each in (TABLE, *pictures))}")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # links in a circle or to nothing look like a folder to be made
        raise UserError(
            f"cannot create output folder {folder}: {error.strerror}; choose another"
        ) from None
