"""``python -m train``: options -> configuration -> run.

What needs torch is imported by the command that runs: Ctrl-C must end it in one line from the start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from shards.commands import HELP, run
from shards.errors import UserError
from train.interrupt import importing
from train.limits import LIMITS
from train.safety import Safety, checkpoint_every_of, duration_of

STARTED = time.monotonic()
"""Importing torch takes seconds of a time limit, too."""
NEWEST = Path("<newest unfinished run>")
"""What --resume without a folder stands for."""
RESUME_OPTIONS = ("resume", "shards", "time_limit", "checkpoint_every")
"""What may be given beside --resume FOLDER; everything else belongs to the run already."""


class RecipeOption(click.Option):
    """An option that overrides a field of the recipe; its help shows the recipe's own value."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        """What stands in brackets behind the help."""
        with importing():
            from train.recipes import create_recipe

        extra = super().get_help_extra(ctx)
        value = getattr(create_recipe(ctx.params.get("recipe", "baseline")), str(self.name))
        if value not in (None, ()):
            extra["default"] = str(value)
        return extra


def recipe_option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    """A :class:`RecipeOption`; not given, the recipe's value stands."""
    return click.option(*names, cls=RecipeOption, default=None, **attributes)


def bounded(field: str) -> click.IntRange:
    """The whole numbers that a field may have."""
    return click.IntRange(*LIMITS[field])


def names_of(
    _context: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...] | None:
    """``A,B`` and ``@FILE``, as often as given -> class names."""
    with importing():
        from loaders.subset import read_names

    return read_names(values) or None


def fold_of(
    _context: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """``1/5`` -> ``(1, 5)``."""
    if value is None:
        return None
    try:
        index, count = map(int, value.split("/"))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not I/N, as in 0/5", param=param) from None
    return index, count


@click.command(context_settings=HELP)
@click.option(
    "--arch",
    default="resnet101",
    help="A classification model of torchvision, else of timm; timm:NAME is timm's own.",
)
@click.option(
    "--recipe",
    default="baseline",
    is_eager=True,  # so that --help behind it shows its values
    help="One of: baseline.",
)
@click.option(
    "--shards",
    metavar="FOLDER|URL",
    help="Shard set: a folder, https://..., or 'pipe:COMMAND {name}'.  [HYPHAE_SHARDS_DIR]",
)
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
@click.option(
    "--time-limit",
    metavar="TIME",
    callback=duration_of,
    help="Save and end with exit code 124 so long after the start: 45m, 3h55m.",
)
@click.option(
    "--checkpoint-every",
    metavar="TIME|STEPS",
    callback=checkpoint_every_of,
    show_default="10m",
    help="What a kill may cost at most: a time, a number of steps, or both (10m,500).",
)
@recipe_option("--epochs", type=bounded("epochs"), help="Passes over the training samples.")
@recipe_option("--batch-size", type=bounded("batch_size"), help="Images an optimizer step.")
@recipe_option("--image-size", type=bounded("image_size"), help="Side of the crops [px].")
@recipe_option(
    "--eval-resize",
    type=bounded("eval_resize"),
    show_default="440/384 of the image size",
    help="Short side before the eval crop.",
)
@recipe_option("--lr", type=click.FloatRange(0, min_open=True), help="First learning rate.")
@recipe_option("--weight-decay", type=click.FloatRange(0), help="Of AdamW.")
@recipe_option("--label-smoothing", type=click.FloatRange(0, 1, max_open=True), help="In [0, 1).")
@recipe_option(
    "--seed", type=click.IntRange(0, 2**63 - 1), help="Of weights, order and augmentation."
)
@recipe_option("--patience", type=click.IntRange(1), help="Epochs without a better val mIoU.")
@recipe_option(
    "--sampling",
    type=click.Choice(["csv", "natural", "balanced", "sqrt"]),
    help="csv: every row, repeats included; natural: each photograph once; balanced: as many "
    "images of each class; sqrt: in proportion to the square root of its photographs.",
)
@recipe_option(
    "--epoch-size", type=bounded("epoch_size"), show_default="one pass", help="Images an epoch."
)
@recipe_option(
    "--classes",
    multiple=True,
    callback=names_of,
    metavar="A,B|@FILE",
    help="Train and evaluate on these classes alone; @FILE has one a line.",
)
@recipe_option(
    "--holdout", multiple=True, callback=names_of, metavar="A,B|@FILE", help="On all but these."
)
@recipe_option(
    "--fold",
    callback=fold_of,
    metavar="I/N",
    help="Keep fold I of N (0 to N-1) out of the training photographs and use it as val.",
)
@recipe_option("--mini", type=click.IntRange(1), help="At most so many CSV rows of each class.")
@recipe_option("--shots", type=click.IntRange(1), help="Exactly so many photographs a class.")
@recipe_option(
    "--imbalance",
    type=click.FloatRange(1),
    help="A long tail: the largest class has so many times the photographs of the smallest.",
)
@recipe_option(
    "--subset-seed", type=click.IntRange(0, 2**63 - 1), help="Of fold, shots and imbalance."
)
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
    type=click.Choice(
        ["auto", "opencv", "dali", "dali-cpu", "torchvision", "webdataset", "synthetic"]
    ),
    help="opencv: CPU threads; dali: on the GPU; dali-cpu: its cross-check; torchvision: the "
    "reference; webdataset: whole shards in turn, with --sampling natural; synthetic: no images, "
    "for timing only.",
)
@recipe_option(
    "--threads", type=bounded("threads"), show_default="allowed cores", help="Of the loader."
)
@recipe_option(
    "--read",
    type=click.Choice(["planned", "sequential"]),
    help="With --loader dali or dali-cpu. sequential: shard after shard, for slow disks.",
)
@recipe_option(
    "--augment",
    "augment_by",
    type=click.Choice(["plan", "torchvision"]),
    help="With --loader torchvision: its own transforms, or those of the other loaders.",
)
@recipe_option(
    "--verify",
    type=click.Choice(["always", "first", "never"]),
    help="When the check sum of a stored photograph is looked at: at each use, at its first, never.",
)
@recipe_option(
    "--on-bad-sample",
    type=click.Choice(["error", "skip"]),
    help="A damaged photograph ends the run, or the next planned one is shown instead.",
)
@recipe_option(
    "--reduced-decode/--full-decode",
    help="opencv decodes smaller where the crop allows: faster, other pixels.",
)
@recipe_option(
    "--sync-batchnorm/--no-sync-batchnorm",
    help="With torchrun on GPUs: batch statistics over all processes, not each one's own.",
)
@click.option("--list-archs", "show_archs", is_flag=True, help="Print the architectures and end.")
@click.pass_context
def main(
    context: click.Context,
    /,
    arch: str,
    recipe: str,
    shards: str | None,
    out: Path | None,
    resume: Path | None,
    time_limit: float | None,
    checkpoint_every: dict[str, Any] | None,
    show_archs: bool,
    **overrides: Any,
) -> None:
    """Train a classifier on a shard set.

    Options that are not given keep the recipe's value. Reports mIoU, macro F1 and overall accuracy
    on val after each epoch, and on test for the best epoch. Ctrl-C, SIGTERM and --time-limit save;
    --resume goes on.
    """
    with importing():
        from train.distributed import from_first, processes
        from train.models import check_arch, list_archs, list_timm_archs
        from train.recipes import TrainConfig, create_recipe
        from train.run import resume_run, start_run
        from train.source import shard_source
        from train.unfinished import newest_unfinished

    if show_archs:
        click.echo("\n".join(["torchvision:", *list_archs(), "timm:", *list_timm_archs()]))
        return
    safety = Safety(started=STARTED, time_limit_s=time_limit, **checkpoint_every or {})
    if resume is not None and resume != NEWEST:
        _refuse_options_beside_resume(context)
        with processes():
            resume_run(resume, shards, safety)
        return
    check_arch(arch)
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        config: TrainConfig = replace(create_recipe(recipe), arch=arch, **given)
    except ValueError as error:
        raise UserError(str(error)) from None
    if resume is not None and out is not None:
        raise UserError(f"--out is for a new run; to go on with that one: --resume {out}")
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
