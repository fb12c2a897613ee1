"""``python -m train``: options -> configuration -> run.

What needs torch is imported by the command that runs: Ctrl-C must end it in one line from the start.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from shards.commands import HELP, run
from shards.errors import UserError
from train.runs.interrupt import importing

with importing():
    from train.config.options import (
        field_options,
        given_fields,
        rebalance_option,
        safety_options,
        shards_option,
    )
    from train.config.recipes import describe_recipes
    from train.config.settings import load_layers, settle, to_toml
from train.config.safety import Safety

STARTED = time.monotonic()
"""Importing torch takes seconds of a time limit, too."""
NEWEST = Path("<newest unfinished run>")
"""What --resume without a folder stands for."""
RESUME_OPTIONS = ("resume", "shards", "time_limit", "checkpoint_every")
"""What may be given beside --resume FOLDER; everything else belongs to the run already."""


@click.command(context_settings=HELP)
@shards_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder.  [default: runs/<arch>-<recipe>-<time>]",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value=NEWEST,
    metavar="[FOLDER]",
    help="Go on with this run, or with the newest unfinished one of the configuration given.",
)
@safety_options
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="A TOML file of fields, such as --show-config prints.",
)
@click.option("--show-config", is_flag=True, help="Print the configuration as TOML and end.")
@click.option("--list-recipes", is_flag=True, help="Print what each recipe is for and end.")
@click.option("--list-archs", "show_archs", is_flag=True, help="Print the architectures and end.")
@rebalance_option
@field_options
@click.pass_context
def main(
    context: click.Context,
    /,
    shards: str | None,
    out: Path | None,
    resume: Path | None,
    config_file: Path | None,
    show_config: bool,
    list_recipes: bool,
    time_limit: float | None,
    checkpoint_every: dict[str, Any] | None,
    show_archs: bool,
    **fields: Any,
) -> None:
    """Train a classifier on a shard set.

    A field that is not given comes from --config, else HYPHAE_TRAIN_<FIELD>, else [train] of
    local.toml, else the recipe. Reports mIoU, macro F1 and overall accuracy on val, each --eval-every
    epochs, and on test for the best of them. Ctrl-C, SIGTERM and --time-limit save; --resume goes on.
    """
    if list_recipes:
        click.echo(describe_recipes())
        return
    if show_config:
        click.echo(to_toml(settle(load_layers(given_fields(fields), config_file))), nl=False)
        return
    config = None
    if resume is not None and resume != NEWEST:
        _refuse_options_beside_resume(context)
    elif not show_archs:  # before the imports, so that a mistake shows sooner
        config = settle(load_layers(given_fields(fields), config_file)).config
        if resume is not None and out is not None:
            raise UserError(f"--out is for a new run; to go on with that one: --resume {out}")
    with importing():
        from train.config.distributed import from_first, processes
        from train.config.source import shard_source
        from train.engine.run import resume_run, start_run
        from train.method.models import check_arch, list_archs, list_timm_archs
        from train.runs.unfinished import newest_unfinished

    if show_archs:
        click.echo("\n".join(["torchvision:", *list_archs(), "timm:", *list_timm_archs()]))
        return
    safety = Safety(started=STARTED, time_limit_s=time_limit, **checkpoint_every or {})
    if config is None:
        assert resume is not None
        with processes():
            resume_run(resume, shards, safety)
        return
    check_arch(config.arch)
    with processes():
        with shard_source(shards) as source:
            if resume is None:
                start_run(config, source, out, safety)
                return
            folder = from_first(lambda: newest_unfinished(config, source))
        click.echo(f"going on with {folder}")
        resume_run(folder, shards, safety)


def _refuse_options_beside_resume(context: click.Context) -> None:
    given = [
        f"--{name.removesuffix('_file').replace('_', '-')}"
        for name in context.params
        if name not in RESUME_OPTIONS
        and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise UserError(
            f"--resume goes on with the run's own configuration; drop {', '.join(given)}, or start "
            "a new run"
        )


if __name__ == "__main__":
    run(main, "python -m train")
