"""``python -m train.sweep``: a run for each combination of values, or for each proposal of a search."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shards.commands import HELP, run
from shards.errors import UserError
from shards.settings import path_setting, refuse_code_folder
from train.runs.interrupt import importing

if TYPE_CHECKING:
    from train.sweeps.search import Request, Search

with importing():
    from train.config.grid import digest_of, grid, read_values, sizes
    from train.config.options import safety_options, shards_option
    from train.config.settings import FIELDS, Layer, load_layers
from train.config.safety import Safety

STARTED = time.monotonic()
MAX_TRIALS = 10_000


def list_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each field that takes a list; a switch without one is ``true``."""
    for field in reversed(FIELDS.values()):
        switch: dict[str, Any] = {"is_flag": False, "flag_value": "true"}
        command = click.option(
            f"--{field.name.replace('_', '-')}",
            multiple=True,
            metavar="LIST",
            help=field.help,
            **switch if field.kind is bool else {},
        )(command)
    return command


@click.command(context_settings=HELP)
@shards_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the sweep.  [default: runs/sweep-<digest of the request>]",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="A TOML file of fields that are the same in all runs.",
)
@safety_options
@click.option("--dry-run", is_flag=True, help="Print the number of runs, list them and end.")
@click.option("--search", type=click.Choice(["tpe", "random"]), help="Let optuna choose values.")
@click.option(
    "--trials", metavar="N", type=click.IntRange(1, MAX_TRIALS), help="Runs of a search, in all."
)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUES",
    help="What a search may choose: lr=log:1e-4:1e-2, image_size=128:384:32, arch=A,B.",
)
@list_options
def main(
    shards: str | None,
    out: Path | None,
    config_file: Path | None,
    time_limit: float | None,
    checkpoint_every: dict[str, Any] | None,
    dry_run: bool,
    search: Search | None,
    trials: int | None,
    params: tuple[str, ...],
    **lists: tuple[str, ...],
) -> None:
    """Train a classifier in every combination of values, or search for good ones.

    Every field of `python -m train` takes a list: --arch resnet18,resnet50 --image-size 224,384; a
    switch takes true,false. Semicolons separate values that have commas: --crop-scale
    "0.08,1;0.35,1". `python -m train --help` shows ranges and defaults.

    The same command goes on with a sweep that was stopped, and tries failed runs again. The best
    run is the one with the highest mIoU on val. docs/sweeps.md tells more.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a sweep is one process, a run after the other; start it without torchrun")
    values = {name: read_values(name, texts) for name, texts in lists.items() if texts}
    layers = load_layers({}, config_file)[1:]  # without the command line's own
    request = _request(search, trials, params, values, layers)
    points = [] if request is not None else grid(values, layers)
    if out is not None:
        refuse_code_folder(out, "output folder")
    with importing():
        from shards.reader import ShardSet
        from train.config.source import shard_source
        from train.method.models import check_arch
        from train.sweeps.sweep_session import Session

    for arch in {each.config.arch for each in points}:
        check_arch(arch)
    with shard_source(shards) as source:
        fingerprint = ShardSet(source.directory).manifest.fingerprint
        content = (
            [each.name(fingerprint) for each in points]
            if request is None
            else [*request.key(), fingerprint]
        )
        digest = digest_of(content)
        folder = out or (path_setting("log_dir") or Path("runs")) / f"sweep-{digest}"
        safety = Safety(started=STARTED, time_limit_s=time_limit, **checkpoint_every or {})
        session = Session(folder, source, fingerprint, safety, shlex.join(sys.argv[1:]))
        if request is not None:
            session.search(request, digest, dry_run)
        else:
            session.grid(points, sizes(values), dry_run)


def _request(
    search: Search | None,
    trials: int | None,
    params: Sequence[str],
    values: Mapping[str, Sequence[Any]],
    layers: Sequence[Layer],
) -> Request | None:
    """What a search is asked for; None without one."""
    if search is None:
        if trials is not None or params:
            given = "--param" if params else "--trials"
            raise UserError(f"{given} belongs to a search; add --search tpe")
        if not values:
            raise UserError(
                "nothing to sweep over: give a field several values, as in --arch "
                "resnet18,resnet50, or --search tpe with --param"
            )
        return None
    with importing():
        from train.sweeps.search import Request, library, read_param

    if not params:
        raise UserError("--search needs something to choose: --param lr=log:1e-4:1e-2")
    if trials is None:
        raise UserError("--search needs the number of runs: --trials 20")
    for name, several in values.items():
        if len(several) > 1:
            option = name.replace("_", "-")
            raise UserError(
                f"--{option} has {len(several)} values; in a search that is --param {name}=A,B"
            )
    read = tuple(read_param(each) for each in params)
    for index, param in enumerate(read):
        if param.name in values:
            raise UserError(f"{param.name} is both an option and a --param; drop one of them")
        if param.name in {each.name for each in read[:index]}:
            raise UserError(f"--param {param.name} is there twice; drop one of them")
    library()
    fixed = {name: several[0] for name, several in values.items()}
    return Request(search, trials, read, fixed, tuple(layers))


if __name__ == "__main__":
    run(main, "python -m train.sweep")
