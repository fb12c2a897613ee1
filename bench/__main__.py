"""``bench``: what this machine does with this job, beside the published table.

The suites are imported by the commands that run them: ``bench doctor`` must work where torch does
not, and ``bench --help`` at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.compare_commands import ab, compare, report
from bench.doctor import doctor
from bench.machine_commands import gpu_check, tune
from bench.options import (
    ARCH,
    IMAGE_SIZE,
    arch_option,
    archs_option,
    choices,
    numbers,
    options,
)
from bench.peers.command import peers
from bench.photo_commands import pack_command, parity
from bench.recipe_commands import recipes
from bench.records import records
from bench.usage_commands import predict, resplits
from shards.commands import HELP, run
from shards.settings import path_setting

if TYPE_CHECKING:
    from bench.result import Section
    from loaders.config import Resample

BLOCK_S, BUDGET_S = 0.5, 15.0
"""Of bare ``bench``, which is to end within 2 minutes on a busy machine too."""


class _AllByDefault(click.Group):
    """Bare ``bench``, also with options, measures a bit of everything."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["all", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_AllByDefault, context_settings=HELP)
def cli() -> None:
    """Measure this machine: loaders, training step, both together, beside the published table.

    Bare `bench` is short for `bench all`.
    """


@cli.command(name="all", context_settings=HELP)
@options(repeats=3)
@arch_option
def all_command(arch: str, **settings: Any) -> None:
    """Loader, step, both together, and the published table: under 2 minutes on 2 cores."""
    from bench.end_to_end import measure_end_to_end
    from bench.loaders import measure_loaders
    from bench.session import BenchSession
    from bench.step import measure_step

    with BenchSession(archs=(arch,), block_s=BLOCK_S, budget_s=BUDGET_S, **settings) as session:
        session.show(measure_loaders(session.request))
        session.show(measure_step(session.request, arch))
        session.show(measure_end_to_end(session.request, arch))
        session.show(_table(session.request, (arch,)))


@cli.command(context_settings=HELP)
@options(repeats=5)
@click.option(
    "--arch", default=ARCH, help="Any torchvision classification model; `none`: the loader alone."
)
@click.option(
    "--resample",
    type=click.Choice(["linear", "antialias"]),
    default="linear",
    help="Of training images; the baseline recipe uses antialias.",
)
def ladder(arch: str, resample: Resample, **settings: Any) -> None:
    """From the disk to the weights, rung by rung: what limits, and the option that would move it."""
    from bench.ladder import NO_MODEL, measure_ladder
    from bench.session import BenchSession

    with BenchSession(archs=() if arch == NO_MODEL else (arch,), **settings) as session:
        session.show(measure_ladder(session.request, arch, resample))


@cli.command(context_settings=HELP)
@options(repeats=5, shards=False, image_size=False, threads=False)
@click.option(
    "--shards",
    "sets",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Shard set; several times for several stored forms.  [default: HYPHAE_SHARDS_DIR or "
    "local.toml, else a small drawn one]",
)
@click.option(
    "--image-size",
    "sizes",
    default=str(IMAGE_SIZE),
    callback=numbers("pixels", least=16),
    help="Side of the crops [px]; several with commas.",
)
@click.option(
    "--threads",
    "thread_counts",
    callback=numbers("threads"),
    help="Of the loaders; several with commas.  [default: allowed cores]",
)
@click.option(
    "--originals",
    type=click.Path(path_type=Path),
    help="Folder of the photographs, to measure the DataLoader on the original files too.",
)
def loaders(
    sets: tuple[Path, ...],
    sizes: tuple[int, ...],
    thread_counts: tuple[int, ...],
    originals: Path | None,
    **settings: Any,
) -> None:
    """Every loader over the same shards with the same augmentation.

    Several shard sets, image sizes or thread counts: every combination, one after another.
    """
    from bench.loaders import measure_loaders, originals_root
    from bench.request import images_per_epoch
    from bench.session import BenchSession

    for each in sets[1:]:  # what is wrong with the others shows before the first is measured
        images_per_epoch(each)
        if originals is not None:
            originals_root(originals, each)
    first = sets[0] if sets else None
    with BenchSession(shards=first, image_size=sizes[0], threads=None, **settings) as session:
        for shards, size, threads in product(
            (session.request.shards, *sets[1:]), sizes, thread_counts or (None,)
        ):
            request = replace(session.request.on(shards), image_size=size, threads=threads)
            session.show(measure_loaders(request, originals))


@cli.command(context_settings=HELP)
@options(repeats=5, shards=False, batch_size=False)
@archs_option
@click.option(
    "--batch-size",
    "batch_sizes",
    callback=numbers("images"),
    help="Images a batch; several with commas.",
)
@click.option(
    "--precision",
    "precisions",
    callback=choices("fp32", "bf16", "fp16"),
    help="Of fp32, bf16, fp16; several with commas.  [default: from plain to what training uses]",
)
@click.option(
    "--memory-format",
    "formats",
    callback=choices("nchw", "channels_last"),
    help="Of nchw, channels_last; several with commas.",
)
@click.option(
    "--compile", "compiled", callback=choices("off", "on"), help="off, on, or both with a comma."
)
def step(
    arch: tuple[str, ...],
    batch_sizes: tuple[int, ...],
    precisions: tuple[str, ...],
    formats: tuple[str, ...],
    compiled: tuple[str, ...],
    **settings: Any,
) -> None:
    """The training step on a synthetic batch, in every combination asked for, with TFLOP/s.

    Beside it the rate of large matrix products, the most that this device can do.
    """
    from bench.session import BenchSession
    from bench.step import measure_step

    with BenchSession(archs=arch, needs_shards=False, batch_size=None, **settings) as session:
        for each in arch:
            for batch_size in batch_sizes or (None,):
                request = replace(session.request, batch_size=batch_size)
                channels_last = [name == "channels_last" for name in formats]
                section = measure_step(
                    request, each, precisions, channels_last, [name == "on" for name in compiled]
                )
                session.show(section)


@cli.command(context_settings=HELP)
@options(repeats=5, shards=False)
@archs_option
def roofline(arch: tuple[str, ...], **settings: Any) -> None:
    """FLOPs, bytes and parameters of each arch, the time they take at least, and the real step."""
    from bench.roofline import measure_roofline
    from bench.session import BenchSession

    with BenchSession(archs=arch, needs_shards=False, **settings) as session:
        session.show(measure_roofline(session.request, arch))


@cli.command(context_settings=HELP)
@options(repeats=2)
@arch_option
@click.option("--epoch-size", type=click.IntRange(1), help="Images an epoch.  [default: one pass]")
def train(arch: str, epoch_size: int | None, **settings: Any) -> None:
    """Whole epochs, with and without validation."""
    from bench.session import BenchSession
    from bench.train import measure_train

    with BenchSession(archs=(arch,), **settings) as session:
        session.show(measure_train(session.request, arch, epoch_size))


@cli.command(context_settings=HELP)
@options(repeats=3, image_size=False)
@archs_option
@click.option(
    "--recipe",
    "recipes",
    default="",
    help="Also measure the image sizes of these recipes, separated by commas; `all`: of every one. "
    " [default: only what 384 px tells of them]",
)
def table(arch: tuple[str, ...], recipes: str, **settings: Any) -> None:
    """The published table beside what is measured here at its image size, 384 px.

    Below it, what the recipes would take on the published data, and the finished runs of this machine.
    """
    from bench.session import BenchSession
    from train.config.recipes import RECIPES, create_recipe
    from train.scores.published import IMAGE_SIZE as PUBLISHED_SIZE

    named = [each.strip() for each in recipes.split(",") if each.strip()]
    asked = list(RECIPES) if recipes == "all" else named
    for each in asked:
        create_recipe(each)  # which names the nearest one
    with BenchSession(archs=arch, image_size=PUBLISHED_SIZE, **settings) as session:
        session.show(_table(session.request, arch, asked))


cli.add_command(ab)
cli.add_command(compare)
cli.add_command(doctor)
cli.add_command(gpu_check)
cli.add_command(pack_command)
cli.add_command(parity)
cli.add_command(peers)
cli.add_command(predict)
cli.add_command(recipes)
cli.add_command(records)
cli.add_command(report)
cli.add_command(resplits)
cli.add_command(tune)


def _table(request: Any, archs: tuple[str, ...], recipes: Sequence[str] = ()) -> Section:
    from bench.runs import finished_runs
    from bench.table import measure_table

    runs = finished_runs(path_setting("log_dir") or Path("runs"))
    return measure_table(request, archs, runs, recipes)


def main() -> None:
    """The console script ``bench``."""
    run(cli, "bench")


if __name__ == "__main__":
    main()
