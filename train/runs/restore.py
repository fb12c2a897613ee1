"""A session as its last checkpoint had it, to the last bit."""

from __future__ import annotations

from pathlib import Path

import torch

from shards.errors import UserError
from shards.format import Manifest
from train.checkpoints.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    Progressed,
    checked_content,
    load_checkpoint,
    load_optimizer,
    previous,
)
from train.config.distributed import from_first, own_seed, rank, size
from train.config.length import StepCount, as_epoch
from train.config.source import ShardSource
from train.method.optimizer import set_rate
from train.runs.saving import save
from train.runs.session import Session


def check_same_set(manifest: Manifest, source: ShardSource, saved: Checkpoint) -> None:
    """Refuse to go on with other classes or photographs than the run began with.

    Raises:
        UserError: They differ; the message says in what.
    """
    ours, theirs = manifest.class_names, saved.class_names
    if ours == theirs and manifest.fingerprint == saved.shards.fingerprint:
        return
    what = "its photographs or how they were packed"
    if only := sorted(set(ours) ^ set(theirs)):
        where = "this one" if only[0] in ours else "the run"
        what = f"{len(ours)} classes, not {len(theirs)}; {only[0]!r} is in {where} alone"
    elif ours != theirs:
        what = "the order of the classes"
    raise UserError(
        f"{source} is not the shard set that this run was trained on ({what}); pass that one with "
        "--shards, or start a new run"
    )


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
    with checked_content(session.folder / LAST):
        if saved.optimizer is None or saved.scaler is None or saved.rng is None:
            raise ValueError("there is no optimizer, scaler or random state")
        _check_position(session, saved.progress)
        if session.average is None:
            session.model.backbone.load_state_dict(saved.model)
        elif saved.stepped is None:
            raise ValueError("there are no weights behind the average")
        else:
            session.model.backbone.load_state_dict(saved.stepped)
            session.average.model.backbone.load_state_dict(saved.model)
        load_optimizer(session.optimizer, saved.optimizer)
        set_rate(session.optimizer, saved.progress.lr)
        if saved.scaler:  # empty where the run had no need of one
            session.scaler.load_state_dict(saved.scaler)
        _restore_random_state(session, saved)
    session.done = saved.progress
    from_first(lambda: _restore_best(session))
    for before, now in (
        (saved.resolved, session.resolved.to_dict()),
        (saved.versions, session.facts["versions"]),
    ):
        for name, value in now.items():
            if before.get(name, value) != value:
                session.log.say(f"note: {name} is {value} now, was {before[name]}")


def _restore_random_state(session: Session, saved: Checkpoint) -> None:
    """Each process's own; drawn anew where there are more or fewer of them now.

    Then the batches that follow are still those of the unbroken run, to the image: the plan is one
    for all. What dropout draws, and what a rank's batch normalisation sees, is not.
    """
    if saved.world_size != size():
        seen = saved.progress.samples_seen
        torch.manual_seed(own_seed(session.config.seed, seen))
        session.log.say(
            f"note: {size()} processes now, were {saved.world_size}: the same batches follow, with "
            "other random numbers in the network"
        )
        return
    assert saved.rng is not None
    device = session.resolved.device
    torch.set_rng_state(_own(saved.rng))
    if saved.cuda_rng is not None and device.type == "cuda":
        torch.cuda.set_rng_state(_own(saved.cuda_rng), device)


def _own(state: torch.Tensor) -> torch.Tensor:
    """This rank's row of what :func:`train.config.distributed.of_each` made.

    A copy: torch's generator reads a row within a larger tensor from the wrong place, and crashes.
    """
    return state[rank()].clone() if size() > 1 else state


def _check_position(session: Session, done: Progressed) -> None:
    """Raise ValueError where a run of this configuration cannot have come to."""
    steps_per_epoch, length = session.train.steps_per_epoch, session.length
    seen = _images_after(session, done.epoch * steps_per_epoch + done.step)
    images = done.images  # of a run by time: nobody knows when it was evaluated last
    if isinstance(length, StepCount):
        images = seen - _images_after(session, length.evaluated_after(done.evaluations))
    if done.step > steps_per_epoch or (done.images, done.samples_seen) != (images, seen):
        raise ValueError(f"no run of this configuration comes to {done}")


def _images_after(session: Session, steps: int) -> int:
    """Training images of so many steps."""
    epochs, rest = divmod(steps, session.train.steps_per_epoch)
    return epochs * session.train.samples_per_epoch + rest * session.config.batch_size


def _restore_best(session: Session) -> None:
    """See to it that ``best.pt`` is of the best epoch that the run has come to.

    A kill between the two writes of an epoch leaves it behind; after a return to the checkpoint
    before the last it may be ahead.

    Raises:
        UserError: It is another epoch's or damaged, and its weights are no longer to be had.
    """
    done, path = session.done, session.folder / BEST
    if done.best_epoch == 0:
        return
    problems = []
    for file in (path, previous(path)):
        problem = _what_else(session, file)
        if problem is None:
            file.replace(path)
            return
        problems.append(problem)
    if done.best_epoch == _epoch(session, done) and not done.images:
        save(session, BEST)
        return
    raise UserError(
        f"{problems[0]}, the run's best is of epoch {done.best_epoch:g}; put that file back, or start "
        "a new run"
    )


def _what_else(session: Session, file: Path) -> str | None:
    """What a checkpoint is instead of the run's best; None where it is that one."""
    if not file.is_file():
        return f"{file} is missing"
    try:
        found = _epoch(session, load_checkpoint(file).progress)
    except UserError as error:
        return error.format_message()
    return None if found == session.done.best_epoch else f"{file} is of epoch {found:g}"


def _epoch(session: Session, progress: Progressed) -> float:
    steps = session.train.steps_per_epoch
    return as_epoch(progress.epoch * steps + progress.step, steps)
