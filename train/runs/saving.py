"""When the loop saves, and what a checkpoint of it holds."""

from __future__ import annotations

import time
from dataclasses import asdict

import torch

from shards.errors import Interrupted, JobError
from train.checkpoints.checkpoint import LAST, save_checkpoint
from train.checkpoints.folder import is_throwaway, resume_command
from train.config.distributed import from_each, is_first, of_each
from train.runs.interrupt import GO_ON, SAVE, TIME_LIMIT_CODE, Stopped
from train.runs.session import Session


def save(session: Session, name: str) -> None:
    """Write a checkpoint; ``best.pt`` holds no optimizer, as nobody resumes from it.

    Raises:
        JobError: The weights are spoiled, or the disk is full.
    """
    check_weights(session)
    if name == LAST:  # which all processes take part in
        note_bad_samples(session)
    done = session.done
    now = time.perf_counter()
    done.seconds += now - session.started
    session.started = now
    content = {
        **session.facts,
        "config": session.config.to_dict(),
        "resolved": session.resolved.to_dict(),
        "model": session.kept.backbone.state_dict(),
        "progress": asdict(done),
    }
    if name == LAST:
        if session.average is not None:
            content["stepped"] = session.model.backbone.state_dict()
        content["tree"] = session.tree
        content["optimizer"] = session.optimizer.state_dict()
        content["scaler"] = session.scaler.state_dict()
        content["rng"] = of_each(torch.get_rng_state())
        if session.resolved.device.type == "cuda":
            content["cuda_rng"] = of_each(torch.cuda.get_rng_state(session.resolved.device))
    if is_first():
        with session.stop.held_off():
            save_checkpoint(session.folder / name, content)
    session.saved_at, session.saved_step = time.monotonic(), session.steps_done


def save_or_stop(session: Session, asked: int) -> None:
    """Do what was asked for after a batch.

    Raises:
        Stopped: That was to end.
    """
    if asked == SAVE:
        save(session, LAST)
    elif asked != GO_ON:
        raise Stopped(asked)


def save_and_end(session: Session, exit_code: int) -> None:
    """Save in mid-epoch and end the program with the command to go on."""
    save(session, LAST)
    done = session.done
    limit = "time limit: " if exit_code == TIME_LIMIT_CODE else ""
    raise Interrupted(
        f"{limit}stopped in epoch {done.epoch + 1} after step {done.step} of "
        f"{session.train.steps_per_epoch}, saved; go on with: "
        f"{resume_command(session.folder)}",
        exit_code,
    )


def note_bad_samples(session: Session) -> None:
    """Keep what was skipped, in any process, beyond this session; each new one also in ``train.log``."""
    noted = session.done.bad_samples
    for met in from_each(dict(session.train.bad_samples)):
        for sample, reason in met.items():
            if str(sample) not in noted:
                noted[str(sample)] = reason
                session.log.note(f"warning: skipped: {reason}")


def check_weights(session: Session) -> None:
    """Raise :class:`JobError` where the last step spoiled the weights: no loss has shown it yet."""
    if not all(bool(each.isfinite().all()) for each in session.model.parameters()):
        raise JobError(
            f"the weights are no longer finite after {session.done.samples_seen:,} images; try a "
            f"lower --lr or --precision fp32{kept(session)}"
        )


def kept(session: Session) -> str:
    """How a message ends that tells of the last good checkpoint, where one stays."""
    if is_throwaway(session.folder):
        return ""
    return f". The checkpoint before that is kept: {session.folder / LAST}"
