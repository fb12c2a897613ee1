"""``python -m train.enroll CKPT --species NAME PHOTOS``: one class more, without training."""

from __future__ import annotations

import re
from pathlib import Path

import click

from shards.commands import HELP, run
from shards.errors import JobError, UserError
from train.runs.interrupt import importing


@click.command(context_settings=HELP)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--species",
    required=True,
    metavar="NAME",
    help="Of the new class; one that the run held out, too.",
)
@click.option("--shards", metavar="FOLDER", help="Shard set.  [default: that of the run]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The new checkpoint.  [default: <CHECKPOINT>-<NAME>.pt, beside CHECKPOINT]",
)
def main(
    checkpoint: Path, photos: tuple[Path, ...], species: str, shards: str | None, out: Path | None
) -> None:
    """Add the class NAME to the model of CHECKPOINT from a few PHOTOS (files or folders) of it.

    CHECKPOINT is a .pt file, or a run folder for its best one; it stays as it is. The last layer gets one
    row more, fitted beside the others to features of the run's training photographs; nothing else
    changes. docs/few-shots.md tells more.
    """
    with importing():
        from train.checkpoints.checkpoint import load_content, save_plain
        from train.inference.photos import counted, find_photos
        from train.inference.trained import open_trained
        from train.method.batches import count_eval_images
        from train.method.models import classifier_layer
        from train.novelty.bank import FeatureBank
        from train.novelty.enrolment import Enrolment, place_of, with_class
        from train.runs.writable import check_writable

    with open_trained(checkpoint, shards) as trained:
        saved, config = trained.saved, trained.saved.config
        content = load_content(trained.file)
        place_of(saved, species)
        readable = re.sub(r"[^\w.]+", "_", species)
        target = out or trained.file.with_name(f"{trained.file.stem}-{readable}.pt")
        check_writable("--out", target)
        if target.exists():
            raise UserError(f"{target} exists already; choose another --out")
        bank = FeatureBank(trained)
        # Named twice, alone and with its folder, it is one photograph.
        different = {path.resolve(): path for path in find_photos(photos)}
        features, bad = bank.of_photos(different.values())
        for path, reason in bad:
            click.echo(f"skipped {path}: {reason}", err=True)
        if not len(features):
            raise JobError(f"no photograph that can be read in {', '.join(map(str, photos))}")
        base = bank.of_split("train", config.train_subset)
        enrolment = Enrolment(bank.head, saved.known, base)
        row = enrolment.fit(features)
        layer = classifier_layer(bank.backbone, bank.num_classes)
        save_plain(target, with_class(content, saved, layer, species, row, features))
        click.echo(f"enrolled {species!r} from {counted(len(features))}: {target}")
        click.echo(
            f"found in {int(enrolment.is_found(row, features).sum())} of them; each left out in turn, "
            f"in {enrolment.found_when_left_out(features)}"
        )
        if count_eval_images(config, trained.source.directory, "val"):
            val = bank.of_split("val", config.eval_subset("val"))
            called = enrolment.is_found(row, val.features)
            right = bank.head.logits(val.features).argmax(1) == val.labels
            click.echo(
                f"val: {int(called.sum())} of {counted(len(val))} of other classes are called "
                f"{species!r} now; OA {float(right.float().mean()):.4f} before, "
                f"{float((right & ~called).float().mean()):.4f} after"
            )


if __name__ == "__main__":
    run(main, "python -m train.enroll")
