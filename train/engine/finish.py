"""The end of a run: the best epoch is tested, and the summary written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loaders.fetch import is_remote
from shards.errors import Interrupted
from shards.format import Manifest
from shards.machine import human_time
from train.checkpoints.checkpoint import BEST, checked_content, load_checkpoint
from train.checkpoints.folder import resume_command
from train.config.distributed import from_first
from train.method.batches import count_eval_images
from train.runs.interrupt import GO_ON, SAVE, Stopped
from train.runs.log import SUMMARY
from train.runs.record import final_pictures, final_values, hyperparameters
from train.runs.session import Session
from train.runs.timing import add_up
from train.scores.evaluation import (
    Evaluation,
    evaluate,
    evaluate_split,
    published_lines,
    result_row,
)


def finish(session: Session, manifest: Manifest, shards: Path) -> dict[str, Any]:
    """Test the best epoch and write the summary."""
    config, done, log = session.config, session.done, session.log
    best = from_first(lambda: load_checkpoint(session.folder / BEST))
    with checked_content(session.folder / BEST):
        session.kept.backbone.load_state_dict(best.model)
    has_test = not config.is_trial and count_eval_images(config, shards, "test") > 0
    split = "test" if has_test else "val"
    try:
        result = _evaluate_best(session, shards, split)
    except Stopped as stop:
        raise Interrupted(
            f"stopped before the {split} result; for it: {resume_command(session.folder)}",
            stop.exit_code,
        ) from None
    add_up(done, result.seconds, log.spent_s())
    seconds = session.seconds()
    summary = _summary(session, manifest, split, result, seconds)
    log.write_json(SUMMARY, summary)
    log.figures(done.samples_seen, final_pictures(split, result, manifest.class_names))
    log.result(
        hyperparameters(config.to_dict(), session.resolved.to_dict()),
        final_values(split, result, done.best_miou),
    )
    log.say(
        f"best epoch {done.best_epoch:g} of {session.epoch:g} (val mIoU {done.best_miou:.4f}); recipe "
        f"{config.recipe}, {done.samples_seen:,} samples seen in {human_time(seconds)}"
    )
    log.say(result_row(split, result))
    if bad := done.bad_samples:
        log.say(f"skipped in training: {len(bad)} damaged photograph{'s' * (len(bad) > 1)}")
    if has_test:
        for line in published_lines(manifest, config):
            log.say(line)
    if not config.is_trial:
        trained_on = session.facts["shards"]["directory"]
        again = f' --shards "{trained_on}"' if is_remote(trained_on) else ""
        log.say(
            f'evaluate it again: python -m train.evaluate "{session.folder / BEST}" --split {split}'
            f"{again}"
        )
    return summary


def _stop_if_asked(session: Session) -> None:
    """In the final test, where all is saved already."""
    if (asked := session.asked()) not in (GO_ON, SAVE):
        raise Stopped(asked)


def _evaluate_best(session: Session, shards: Path, split: str) -> Evaluation:
    config, resolved = session.config, session.resolved
    if not config.is_trial:
        return evaluate_split(
            session.evaluated,
            config,
            resolved,
            shards,
            split,
            session.num_classes,
            after_batch=lambda: _stop_if_asked(session),
        )
    return evaluate(
        session.evaluated,
        session.val,
        resolved,
        session.num_classes,
        pad_to=config.batch_size if resolved.compile else None,
        after_batch=lambda: _stop_if_asked(session),
    )


def _summary(
    session: Session, manifest: Manifest, split: str, result: Evaluation, seconds: float
) -> dict[str, Any]:
    config, done = session.config, session.done
    return {
        split: result.scores.as_dict(),
        f"{split}_images": result.images,
        f"{split}_listed_rows": result.listed,
        "val_miou": done.best_miou,
        "best_epoch": int(done.best_epoch) if done.best_epoch % 1 == 0 else done.best_epoch,
        "epochs": session.epoch,
        "bad_samples": len(done.bad_samples),
        "seconds": seconds,
        "seconds_of": done.spent,
        "samples_seen": done.samples_seen,
        "images_per_s": done.samples_seen / seconds,
        "arch": config.arch,
        "recipe": config.recipe,
        "image_size": config.image_size,
        "sampling": config.sampling,
        "subset": str(config.train_subset),
        "trial": config.is_trial,
        "num_classes": manifest.num_classes,
        "resolved": session.resolved.to_dict(),
        **{name: session.facts[name] for name in ("shards", "order_hash", "versions")},
    }
