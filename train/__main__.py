"""``python -m train``: options -> configuration -> run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from shards.commands import HELP, run
from shards.errors import UserError
from shards.settings import path_setting, require_path
from train.models import check_arch, list_archs
from train.recipes import RECIPES, TrainConfig, create_recipe
from train.run import resume_run, start_run

RESUME_OPTIONS = ("resume", "shards")
"""What may be given beside --resume; everything else belongs to the run already."""


def recipe_option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    """An option that overrides a field of the recipe; not given, the recipe's value stands."""
    return click.option(*names, default=None, **attributes)


@click.command(context_settings=HELP)
@click.option("--arch", default="resnet101", help="Any torchvision classification model.")
@click.option("--recipe", default="baseline", help=f"One of: {', '.join(RECIPES)}.")
@click.option("--shards", type=click.Path(path_type=Path), help="Shard set.  [HYPHAE_SHARDS_DIR]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder.  [default: runs/<arch>-<recipe>-<time>]",
)
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with this run folder.")
@recipe_option("--epochs", type=click.IntRange(1), help="Passes over the training samples.")
@recipe_option("--batch-size", type=click.IntRange(1), help="Images an optimizer step.")
@recipe_option("--image-size", type=click.IntRange(16), help="Side of the crops [px].")
@recipe_option("--eval-resize", type=click.IntRange(16), help="Short side before the eval crop.")
@recipe_option("--lr", type=click.FloatRange(0, min_open=True), help="First learning rate.")
@recipe_option("--weight-decay", type=click.FloatRange(0), help="Of AdamW.")
@recipe_option("--label-smoothing", type=click.FloatRange(0, 1, max_open=True), help="In [0, 1).")
@recipe_option(
    "--seed", type=click.IntRange(0, 2**63 - 1), help="Of weights, order and augmentation."
)
@recipe_option("--patience", type=click.IntRange(1), help="Epochs without a better val mIoU.")
@recipe_option(
    "--sampling",
    type=click.Choice(["csv", "natural"]),
    help="csv: every row, repeats included; natural: each photograph once.",
)
@recipe_option("--mini", type=click.IntRange(1), help="At most so many CSV rows of each class.")
@recipe_option(
    "--resample",
    type=click.Choice(["linear", "antialias"]),
    help="Of training images: linear is faster, antialias equals Pillow.",
)
@recipe_option("--device", help="auto, cpu, cuda, cuda:N or mps.")
@recipe_option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Of the step."
)
@recipe_option("--compile", type=click.Choice(["auto", "on", "off"]), help="torch.compile.")
@recipe_option(
    "--loader",
    type=click.Choice(["auto", "opencv", "dali", "dali-cpu", "torchvision", "synthetic"]),
    help="opencv: CPU threads; dali: on the GPU; dali-cpu: its cross-check; torchvision: the "
    "reference; synthetic: no images, for timing only.",
)
@recipe_option("--threads", type=click.IntRange(1), help="Of the loader.  [allowed cores]")
@click.option("--list-archs", "show_archs", is_flag=True, help="Print the architectures and end.")
@click.pass_context
def main(
    context: click.Context,
    /,
    arch: str,
    recipe: str,
    shards: Path | None,
    out: Path | None,
    resume: Path | None,
    show_archs: bool,
    **overrides: Any,
) -> None:
    """Train a classifier on a shard set.

    Options that are not given keep the recipe's value. Reports mIoU, macro F1 and overall accuracy
    on val after each epoch, and on test for the best epoch. Ctrl-C saves; --resume goes on.
    """
    if show_archs:
        click.echo("\n".join(list_archs()))
        return
    if resume is not None:
        _refuse_options_beside_resume(context)
        resume_run(resume, shards)
        return
    check_arch(arch)
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        config: TrainConfig = replace(create_recipe(recipe), arch=arch, **given)
    except ValueError as error:
        raise UserError(str(error)) from None
    directory = require_path("shards_dir", shards, "--shards SHARDS")
    start_run(config, directory, out or default_folder(config))


def default_folder(config: TrainConfig) -> Path:
    """``runs/<arch>-<recipe>-<time>`` below the log folder of this machine."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{config.arch}-{config.recipe}-{stamp}"
    folders = path_setting("log_dir") or Path("runs")
    taken = (f"{name}-{number}" for number in count(2))  # several runs may start in a second
    return next(folders / each for each in chain([name], taken) if not (folders / each).exists())


def _refuse_options_beside_resume(context: click.Context) -> None:
    given = [
        f"--{name.replace('_', '-')}"
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
