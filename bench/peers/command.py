"""``bench peers``: loaders of other projects beside ours, and ``bench peers setup`` to have them."""

from __future__ import annotations

from pathlib import Path

import click

from bench.peers.environments import ENVIRONMENTS, build, peers_folder
from shards.commands import HELP
from shards.errors import JobError, UserError, unknown_name
from shards.settings import path_setting

IMAGE_SIZE = 224
BLOCK_S = 2.0
"""So that the slow ones give some batches too."""


@click.group(invoke_without_command=True, context_settings=HELP)
@click.option(
    "--shards",
    type=click.Path(path_type=Path),
    help="Shard set of JPEGs.  [default: HYPHAE_SHARDS_DIR or local.toml, else a small drawn one]",
)
@click.option(
    "--originals",
    type=click.Path(path_type=Path),
    help="Folder of the photographs that it was packed from.  [default: HYPHAE_DATA_DIR or "
    "local.toml, else the loaders that read files are left out]",
)
@click.option(
    "--image-size", type=click.IntRange(16), default=IMAGE_SIZE, help="Side of the crops [px]."
)
@click.option("--batch-size", type=click.IntRange(1), help="Images a batch.  [default: 64]")
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads or workers of each.  [default: allowed cores]",
)
@click.option("--repeats", type=click.IntRange(2), default=5, help="Timed blocks of each.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write JSON here.")
@click.pass_context
def peers(
    context: click.Context,
    shards: Path | None,
    originals: Path | None,
    image_size: int,
    batch_size: int | None,
    threads: int | None,
    repeats: int,
    json_file: Path | None,
) -> None:
    """Other projects' loaders beside ours, over the same photographs.

    torchvision, webdataset, LitData, mosaicml-streaming, FFCV and SPDL, each in an environment of
    its own that `bench peers setup` builds. What is not there is named with the reason.
    """
    if context.invoked_subcommand is not None:
        return
    from bench.peers.measure import measure_peers
    from bench.session import BenchSession

    with BenchSession(
        shards=shards,
        image_size=image_size,
        batch_size=batch_size,
        threads=threads,
        device="cpu",
        repeats=repeats,
        json_file=json_file,
        block_s=BLOCK_S,
    ) as session:
        if originals is None and (shards or path_setting("shards_dir")):
            originals = path_setting("data_dir")
        session.show(measure_peers(session.request, originals))


@peers.command(context_settings=HELP)
@click.argument("names", nargs=-1, metavar="[NAME]...")
def setup(names: tuple[str, ...]) -> None:
    """Build the environments of the peers, from the package index; all of them by default.

    Those that are there are left alone. Exit code 1 where one does not build.
    """
    for name in names:
        if name not in ENVIRONMENTS:
            raise UserError(unknown_name("peer", name, ENVIRONMENTS))
    failed = []
    for name in names or ENVIRONMENTS:
        click.echo(f"{name}: ", nl=False)
        try:
            click.echo("built" if build(name) else "there already")
        except UserError as error:
            failed.append(name)
            click.echo(error.message)
    click.echo(f"in {peers_folder()}")
    if failed:
        raise JobError(f"not built: {', '.join(failed)}")
