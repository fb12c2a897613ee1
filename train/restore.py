"""A session as its last checkpoint had it, to the last bit."""

from __future__ import annotations

import torch

from shards.errors import UserError
from train.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    Progressed,
    checked_content,
    load_checkpoint,
    load_optimizer,
)
from train.loop import Session, save


def restore(session: Session, saved: Checkpoint) -> None:
    """Put everything back as the checkpoint had it; name whatever differs.

    Raises:
        UserError: The checkpoint is not of this run, or its best one is lost.
    """
    if saved.order_hash != session.facts["order_hash"]:
        raise UserError(
            f"the order of samples is not that of the run (hash {session.facts['order_hash']}, was "
            f"{saved.order_hash}): the versions of hyphae or NumPy differ; start a new run"
        )
    with checked_content(session.log.folder / LAST):
        if saved.optimizer is None or saved.scaler is None or saved.rng is None:
            raise ValueError("there is no optimizer, scaler or random state")
        _check_position(session, saved.progress)
        session.model.backbone.load_state_dict(saved.model)
        load_optimizer(session.optimizer, saved.optimizer)
        if saved.scaler:  # empty where the run had no need of one
            session.scaler.load_state_dict(saved.scaler)
        torch.set_rng_state(saved.rng)
        if saved.cuda_rng is not None and session.resolved.device.type == "cuda":
            torch.cuda.set_rng_state(saved.cuda_rng, session.resolved.device)
    session.done = saved.progress
    _restore_best(session)
    for before, now in (
        (saved.resolved, session.resolved.to_dict()),
        (saved.versions, session.facts["versions"]),
    ):
        for name, value in now.items():
            if before.get(name) != value:
                session.log.say(f"note: {name} is {value} now, was {before.get(name)}")


def _check_position(session: Session, done: Progressed) -> None:
    """Raise ValueError where a run of this configuration cannot have come to."""
    config, train = session.config, session.train
    images = min(done.step * config.batch_size, train.samples_per_epoch)
    seen = done.epoch * train.samples_per_epoch + images
    counted = (done.images, done.samples_seen)
    if done.step > train.steps_per_epoch or counted != (images, seen):
        raise ValueError(f"no run of this configuration comes to {done}")


def _restore_best(session: Session) -> None:
    """Write the best checkpoint where a kill came between the two writes of its epoch.

    Raises:
        UserError: It is another epoch's, and its weights are no longer to be had.
    """
    done, path = session.done, session.log.folder / BEST
    found = load_checkpoint(path).progress.epoch if path.is_file() else 0
    if found == done.best_epoch:
        return
    if done.best_epoch != done.epoch or done.step:
        raise UserError(
            f"{path} is {f'of epoch {found}' if found else 'missing'}, the run's best is of epoch "
            f"{done.best_epoch}; put that file back, or start a new run"
        )
    save(session, BEST)
