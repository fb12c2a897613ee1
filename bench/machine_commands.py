"""``bench tune`` and ``bench gpu-check``: what suits this machine, and whether its GPU does."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bench.options import IMAGE_SIZE, arch_option, shards_option
from shards.commands import HELP, FiniteRange, stop_on_signals
from shards.errors import JobError, UserError
from shards.settings import refuse_code_folder


@click.command(context_settings=HELP)
@arch_option
@click.option(
    "--image-size", type=click.IntRange(16), default=IMAGE_SIZE, help="Side of the crops [px]."
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=128,
    help="Images an optimizer step, which the micro-batch is a part of.",
)
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--minutes", type=FiniteRange(0.01), default=2.0, help="For all of it, beside compiling."
)
@click.option("--forget", is_flag=True, help="Remove the profile of this machine instead.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write JSON here.")
@shards_option
def tune(arch: str, minutes: float, batch_size: int, forget: bool, **settings: Any) -> None:
    """Search threads, prefetch and micro-batch for this machine; its profile is what auto follows.

    With a GPU, the share of its JPEG engines and the mode of torch.compile, too. A default changes only
    where another value is faster beyond doubt. The profile is a file of this machine alone in
    $XDG_CONFIG_HOME/hyphae (~/.config/hyphae). Stopped, it leaves the profile as it was.
    """
    from bench.session import BenchSession
    from bench.tune import tune as search
    from train.config.device import choose_device
    from train.config.recipes import create_recipe
    from train.config.tuned import forget_profile, write_profile

    device, _ = choose_device(settings["device"])
    if forget:
        file = forget_profile(device)
        click.echo(f"removed: {file}" if file else "there is no profile of this machine")
        return
    with BenchSession(
        archs=(arch,), batch_size=None, threads=None, repeats=2, block_s=0.3, **settings
    ) as session:
        config = replace(
            create_recipe("baseline"),
            arch=arch,
            image_size=settings["image_size"],
            batch_size=batch_size,
            device=settings["device"],
        )
        with stop_on_signals("stopped; the profile is as it was"):
            section, tuned = search(session.request, config, minutes, time.strftime("%Y-%m-%d"))
        session.show(section)
        file = write_profile(tuned)
        click.echo(
            f"\nprofile: {tuned}\nwritten: {file}, for what is left to auto; `bench tune --forget` "
            "removes it"
        )


@click.command(name="gpu-check", context_settings=HELP)
@shards_option
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("gpu-check.txt"), help="File to write."
)
@arch_option
def gpu_check(shards: Path | None, out: Path, arch: str) -> None:
    """Check a CUDA machine: tests, 20 steps with DALI and OpenCV, parity; one file to send in."""
    from bench.gpu_check import parts, write_report
    from bench.request import Request, shard_set
    from train.config.device import choose_device
    from train.method.models import check_arch

    try:
        choose_device("cuda")
    except UserError as error:
        raise UserError(f"gpu-check needs a CUDA GPU; {error.message}") from None
    check_arch(arch)
    refuse_code_folder(out, "output file")
    with shard_set(shards) as directory:
        request = Request(shards=directory, image_size=IMAGE_SIZE, device="cuda")
        failed = write_report(parts(request, arch, ("dali", "opencv")), out)
    click.echo(f"{out}: paste it into a bug report")
    if failed:
        raise JobError(f"failed: {', '.join(failed)}; see {out}")
