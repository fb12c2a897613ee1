"""The training loop: one page that reads as the method.

Every epoch: set the learning rate, run the steps, evaluate on val, keep the best. Nothing in a step
waits for the device; losses add up there and are read every ``READ_STEPS`` steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loaders.batch import Batch, Loader
from shards.errors import Interrupted, JobError
from shards.machine import human_time
from shards.progress import Progress
from train.checkpoint import BEST, LAST, Progressed, save_checkpoint
from train.config import TrainConfig
from train.evaluation import Evaluation, Stopped, evaluate
from train.interrupt import StopRequest
from train.log import RunLog
from train.models import Classifier
from train.objective import prepare
from train.resolve import Resolved
from train.schedule import cosine_per_epoch

READ_STEPS = 50


@dataclass(kw_only=True)
class Session:
    """What a loop works with."""

    config: TrainConfig
    resolved: Resolved
    model: Classifier
    network: nn.Module
    """The model as it is run: compiled or not. It shares the model's weights."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    train: Loader
    val: Loader
    num_classes: int
    log: RunLog
    stop: StopRequest
    facts: dict[str, Any]
    """Plain data that every checkpoint carries: classes, shard set, order hash, versions."""
    done: Progressed = field(default_factory=Progressed)
    started: float = field(default_factory=time.perf_counter)


def create_optimizer(
    model: nn.Module, config: TrainConfig, device: torch.device, head: nn.Module | None = None
) -> torch.optim.Optimizer:
    """AdamW as the baseline uses it: one decay for all parameters, and one rate.

    Args:
        model: Whose parameters it changes.
        config: Rates and decay.
        device: Where they are.
        head: The last layer, where the others have ``backbone_lr`` of its rate.
    """
    of_head = [] if head is None else list(head.parameters())
    known = set(map(id, of_head))
    others = [each for each in model.parameters() if id(each) not in known]
    groups = [
        {"params": others, "lr_share": 1.0 if head is None else config.backbone_lr},
        {"params": of_head, "lr_share": 1.0},
    ]
    return torch.optim.AdamW(
        [each for each in groups if each["params"]],
        lr=config.lr,
        weight_decay=config.weight_decay,
        fused=device.type in ("cuda", "cpu"),
    )


def fit(session: Session) -> None:
    """Train to the end of the schedule, or until ``patience`` epochs brought nothing.

    Raises:
        Interrupted: A signal asked to stop; everything is saved.
        JobError: The loss is no longer finite; the last good checkpoint is kept.
    """
    config, done = session.config, session.done
    while done.epoch < config.epochs and done.epoch - done.best_epoch < config.patience:
        lr = cosine_per_epoch(done.epoch, config.epochs, config.lr, config.min_lr)
        for group in session.optimizer.param_groups:
            group["lr"] = lr * group["lr_share"]
        try:
            train_epoch(session)
            val = evaluate(
                session.network,
                session.val,
                session.resolved,
                session.num_classes,
                pad_to=config.batch_size if session.resolved.compile else None,
                should_stop=session.stop.requested,
            )
        except Stopped:
            save_and_stop(session)
        finish_epoch(session, val)


def train_epoch(session: Session) -> None:
    """The steps of one epoch, from where the last session left it.

    Raises:
        Stopped: A signal asked to stop; ``session.done`` says how far it came.
    """
    config, resolved, done = session.config, session.resolved, session.done
    session.network.train()
    loss_sum = torch.tensor(done.loss_sum, device=resolved.device)
    batches = session.train.epoch(done.epoch, done.step)
    label = f"epoch {done.epoch + 1}/{config.epochs}"
    with (
        closing(batches),
        Progress(label, session.train.samples_per_epoch, "img", initial=done.images) as progress,
    ):
        start = time.perf_counter()
        for batch in _timed(batches, done):
            images, target = prepare(
                batch,
                config,
                epoch=done.epoch,
                first_position=done.step * config.batch_size,
            )
            with resolved.autocast():
                loss = target.loss(session.network(images), config.label_smoothing)
            session.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            session.scaler.step(session.optimizer)
            session.scaler.update()
            session.optimizer.zero_grad(set_to_none=True)

            loss_sum += loss.detach() * len(batch)
            done.step += 1
            done.images += len(batch)
            done.samples_seen += len(batch)
            progress.update(len(batch))
            stopping = session.stop.requested()
            if (
                stopping
                or done.step % READ_STEPS == 0
                or done.step == session.train.steps_per_epoch
            ):
                done.loss_sum = float(loss_sum)  # waits for the device
                check_finite(session)
            if stopping:
                done.train_s += time.perf_counter() - start
                raise Stopped
        done.train_s += time.perf_counter() - start


def finish_epoch(session: Session, val: Evaluation) -> None:
    """Say and record how the epoch went, keep the best, save."""
    config, done = session.config, session.done
    if not math.isfinite(val.loss):
        raise JobError(
            f"the loss became {val.loss} on val after epoch {done.epoch + 1}: its last steps spoiled "
            f"the weights; try a lower --lr or --precision fp32. {_kept(session)}"
        )
    done.epoch += 1
    is_best = val.scores.miou > done.best_miou
    if is_best:
        done.best_epoch, done.best_miou = done.epoch, val.scores.miou
    images_per_s = done.images / done.train_s
    waiting = done.wait_s / done.train_s
    train_loss = done.loss_sum / done.images
    left = (config.epochs - done.epoch) * (done.train_s + val.seconds)
    session.log.say(
        f"epoch {done.epoch:>3}/{config.epochs}  train loss {train_loss:.4f}  "
        f"val loss {val.loss:.4f}  {val.scores}  {'best' if is_best else '    '}  "
        f"{images_per_s:,.0f} img/s  data wait {waiting:.0%}  {human_time(left)} left"
    )
    session.log.metrics(
        done.epoch,
        {
            "train/loss": train_loss,
            "train/lr": session.optimizer.param_groups[-1]["lr"],
            "train/images_per_s": images_per_s,
            "train/data_wait": waiting,
            "val/loss": val.loss,
            **{f"val/{name}": value for name, value in val.scores.as_dict().items()},
            "val/seconds": val.seconds,
            "samples_seen": done.samples_seen,
        },
    )
    done.step, done.images = 0, 0
    done.loss_sum = done.train_s = done.wait_s = 0.0
    # A kill between the two loses nothing: last.pt then holds the weights of the best epoch.
    save(session, LAST)
    if is_best:
        save(session, BEST)


def save(session: Session, name: str) -> None:
    """Write a checkpoint; ``best.pt`` holds no optimizer, as nobody resumes from it."""
    done = session.done
    now = time.perf_counter()
    done.seconds += now - session.started
    session.started = now
    content = {
        **session.facts,
        "config": session.config.to_dict(),
        "resolved": session.resolved.to_dict(),
        "model": session.model.backbone.state_dict(),
        "progress": dict(vars(done)),
    }
    if name == LAST:
        content["optimizer"] = session.optimizer.state_dict()
        content["scaler"] = session.scaler.state_dict()
        content["rng"] = torch.get_rng_state()
        if session.resolved.device.type == "cuda":
            content["cuda_rng"] = torch.cuda.get_rng_state(session.resolved.device)
    with session.stop.held_off():
        save_checkpoint(session.log.folder / name, content)


def save_and_stop(session: Session) -> None:
    """Save in mid-epoch and end the program with the command to go on."""
    save(session, LAST)
    done = session.done
    raise Interrupted(
        f"stopped in epoch {done.epoch + 1} after step {done.step} of "
        f"{session.train.steps_per_epoch}, saved; go on with: "
        f"{resume_command(session.log.folder)}",
        session.stop.exit_code,
    )


def resume_command(folder: Path) -> str:
    """What to type to continue a run."""
    return f'python -m train --resume "{folder}"'


def check_finite(session: Session) -> None:
    """Raise :class:`JobError` where the loss of the epoch is no longer a number."""
    done = session.done
    if math.isfinite(done.loss_sum):
        return
    first = (done.step - 1) // READ_STEPS * READ_STEPS + 1
    raise JobError(
        f"the loss became {done.loss_sum} in epoch {done.epoch + 1} between steps {first} and "
        f"{done.step}; try a lower --lr or --precision fp32. {_kept(session)}"
    )


def _kept(session: Session) -> str:
    last = session.log.folder / LAST
    return f"The checkpoint of epoch {session.done.epoch} is kept: {last}" if last.exists() else ""


def _timed(batches: Iterator[Batch], done: Progressed) -> Iterator[Batch]:
    """Pass batches on; the time spent waiting for each adds up in ``done.wait_s``."""
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        done.wait_s += time.perf_counter() - start
        if batch is None:
            return
        yield batch
