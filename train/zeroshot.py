"""``python -m train.zeroshot --model open_clip:NAME --weights FILE``: classes from their names alone."""

from __future__ import annotations

import json
from pathlib import Path

import click

from shards.commands import HELP, run
from shards.errors import UserError
from train.config.shared_options import species_option
from train.runs.interrupt import importing


@click.command(context_settings=HELP)
@click.option(
    "--model", "name", metavar="open_clip:NAME", required=True, help="An architecture of open_clip."
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Its weights: .pt, .pth, .bin or .safetensors. Never fetched.",
)
@click.option("--shards", metavar="FOLDER|URL", help="Shard set.  [HYPHAE_SHARDS_DIR]")
@click.option("--split", default="test", show_default=True, help="Which split to evaluate.")
@species_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images a step."
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write everything here, as `train.evaluate --json` does; also the prompts.",
)
def main(
    name: str,
    weights: Path | None,
    shards: str | None,
    split: str,
    species: Path | None,
    device: str,
    batch_size: int,
    json_file: Path | None,
) -> None:
    """Evaluate a model of images and text that has seen no photograph of the shard set.

    Each class is the mean of a few prompts made of its name and ranks; the most similar one is the answer.
    Without --weights a line says which file is missing: nothing is fetched. docs/zero-shot.md tells more.
    """
    with importing():
        from shards.reader import ShardSet
        from train.config.device import choose_device
        from train.config.source import shard_source
        from train.inference.zero_shot import evaluate_zero_shot, open_zero_shot, prompts_of
        from train.runs.writable import check_outputs
        from train.scores.assessment import assess, full_row
        from train.scores.calibration import fit_temperature
        from train.scores.evaluation import result_row
        from train.scores.species import taxonomy_of

    check_outputs({"--json": json_file}, filter(None, [weights, species]))
    with shard_source(shards) as source:
        manifest = ShardSet(source.directory).manifest
        if split not in manifest.splits:
            raise UserError(f"{source} has no split {split!r}: it has {', '.join(manifest.splits)}")
        taxonomy = taxonomy_of(manifest.class_names, species)
        prompts = [prompts_of(each) for each in taxonomy.classes]
        place, _ = choose_device(device)
        model = open_zero_shot(name, weights, place)
        classes = model.classes(prompts)
        result, outputs = evaluate_zero_shot(model, classes, source, split, batch_size)
        temperature = 1.0
        if "val" in manifest.splits:
            val = outputs if split == "val" else None
            val = val or evaluate_zero_shot(model, classes, source, "val", batch_size)[1]
            temperature = fit_temperature(val)
    click.echo(result_row(split, result))
    assessment = assess(outputs, taxonomy, temperature)
    click.echo("\n".join(assessment.lines()))
    if json_file is not None:
        row = full_row(weights or Path(), split, result, assessment)
        content = {**row, "model": name, "prompts": dict(zip(taxonomy.names, prompts, strict=True))}
        json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        click.echo(str(json_file))


if __name__ == "__main__":
    run(main, "python -m train.zeroshot")
