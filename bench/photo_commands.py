"""``bench pack`` and ``bench parity``: what becomes of photographs on the way to a network."""

from __future__ import annotations

from pathlib import Path

import click

from bench.options import IMAGE_SIZE, shards_option
from shards.commands import HELP
from shards.errors import JobError
from shards.machine import allowed_cores


@click.command(name="pack", context_settings=HELP)
@click.argument("data", type=click.Path(path_type=Path), required=False)
@click.option("--short-side", type=click.IntRange(16), default=256, help="Of the result [px].")
@click.option("--quality", type=click.IntRange(1, 100), default=90, help="Of the JPEGs.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: allowed cores]")
@click.option("--repeats", type=click.IntRange(2), default=5, help="Timed blocks of each.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write JSON here.")
def pack_command(
    data: Path | None,
    short_side: int,
    quality: int,
    workers: int | None,
    repeats: int,
    json_file: Path | None,
) -> None:
    """Packing beside a loop over Pillow, beside bare decoding; and its memory.

    DATA is a folder of photographs as `python -m preprocess` takes it.  [default: HYPHAE_DATA_DIR
    or local.toml, else drawn ones]
    """
    from bench.pack import measure_pack
    from bench.pack_blocks import PackRequest
    from bench.session import PackSession

    with PackSession(data=data, json_file=json_file) as session:
        request = PackRequest(
            data=session.data,
            short_side=short_side,
            quality=quality,
            workers=workers or allowed_cores(),
            repeats=repeats,
        )
        for section in measure_pack(request):
            session.show(section)


@click.command(context_settings=HELP)
@shards_option
@click.option(
    "--image-size", type=click.IntRange(16), default=IMAGE_SIZE, help="Side of the crops [px]."
)
@click.option(
    "--samples", type=click.IntRange(1), default=512, help="Images of each kind that are compared."
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Also compare what this model (a .pt file or a run folder) makes of them: logits, labels, "
    "mIoU, at the image size of its run.",
)
@click.option("--split", default="test", help="Of the shard set, for --checkpoint.")
@click.option("--threads", type=click.IntRange(1), help="Of the loaders.  [default: allowed cores]")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write JSON here.")
def parity(
    shards: Path | None,
    image_size: int,
    samples: int,
    checkpoint: Path | None,
    split: str,
    threads: int | None,
    device: str,
    json_file: Path | None,
) -> None:
    """Whether every back end makes the same images as Pillow; exit code 1 where one does not.

    Compares single pixels over the same plan, and with --checkpoint a model's answers on a split.
    """
    from bench.parity import check_answerable, measure_answers, measure_pixels
    from bench.session import BenchSession

    with BenchSession(
        shards=shards,
        image_size=image_size,
        batch_size=None,
        threads=threads,
        device=device,
        repeats=1,
        json_file=json_file,
    ) as session:
        if checkpoint is not None:
            check_answerable(checkpoint, session.request.shards, split)
        section, failed = measure_pixels(session.request, samples)
        session.show(section)
        if checkpoint is not None:
            section, more = measure_answers(checkpoint, session.request, split, None)
            session.show(section)
            failed += more
    if failed:
        raise JobError(f"beyond what is allowed: {'; '.join(failed)}")
