"""The training loop: one page that reads as the method.

Every epoch: run the steps, each at its learning rate, evaluate on val, keep the best. Nothing in a step
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
from train.calibration import fit_temperature
from train.checkpoint import BEST, LAST, Progressed, save_checkpoint
from train.config import TrainConfig
from train.distributed import (
    agree,
    exchanged,
    is_first,
    largest_share,
    of_each,
    share_start,
    size,
    total,
)
from train.evaluation import Evaluation, evaluate
from train.interrupt import GO_ON, SAVE, TIME_LIMIT_CODE, Stopped, StopRequest
from train.log import RunLog
from train.models import Classifier
from train.objective import Target, micro_batches, prepare
from train.optimizer import clip_gradients, set_rate
from train.profiling import profiled
from train.record import epoch_pictures, epoch_values, first_batch_pictures, step_values
from train.resolve import Resolved
from train.safety import Safety
from train.schedule import scheduled_rate

READ_STEPS = 50


@dataclass(kw_only=True)
class Session:
    """What a loop works with."""

    config: TrainConfig
    resolved: Resolved
    model: Classifier
    network: nn.Module
    """The model as it is run: compiled or not. It shares the model's weights."""
    parallel: nn.Module
    """The same with gradients averaged over all processes, for steps."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    train: Loader
    val: Loader
    num_classes: int
    log: RunLog
    """Of the first process; what the others record is thrown away."""
    folder: Path
    stop: StopRequest
    facts: dict[str, Any]
    """Plain data that every checkpoint carries: classes, shard set, order hash, versions."""
    safety: Safety = field(default_factory=Safety)
    done: Progressed = field(default_factory=Progressed)
    started: float = field(default_factory=time.perf_counter)
    profile: bool = False
    """Whether the next epoch is profiled."""
    saved_at: float = field(default_factory=time.monotonic)
    saved_step: int = 0

    @property
    def steps_done(self) -> int:
        """Optimizer steps since the run began."""
        return self.done.epoch * self.train.steps_per_epoch + self.done.step

    def asked(self) -> int:
        """What to do after this batch: ``GO_ON``, ``SAVE``, or end with this exit code.

        The same in all processes: what any of them is asked for.
        """
        return agree(self._asked_here())

    def _asked_here(self) -> int:
        if self.stop.requested():
            return self.stop.exit_code
        seconds, steps = time.monotonic() - self.saved_at, self.steps_done - self.saved_step
        return SAVE if self.safety.is_save_due(seconds, steps) else GO_ON


def fit(session: Session) -> None:
    """Train to the end of the schedule, or until ``patience`` epochs brought nothing.

    Raises:
        Interrupted: A signal or the time limit asked to stop; everything is saved.
        JobError: The loss is no longer finite; the last good checkpoint is kept.
    """
    config, done = session.config, session.done
    while done.epoch < config.epochs and done.epoch - done.best_epoch < config.patience:
        try:
            train_epoch(session)
            val = evaluate(
                session.network,
                session.val,
                session.resolved,
                session.num_classes,
                pad_to=largest_share(config.batch_size) if session.resolved.compile else None,
                keep_outputs=True,
                after_batch=lambda: save_or_stop(session, session.asked()),
            )
        except Stopped as stop:
            save_and_end(session, stop.exit_code)
        finish_epoch(session, val)


def train_epoch(session: Session) -> None:
    """The steps of one epoch, from where the last session left it.

    Raises:
        Stopped: It was asked to; ``session.done`` says how far it came.
    """
    config, resolved, done = session.config, session.resolved, session.done
    class_names = session.facts["class_names"]
    steps = session.train.steps_per_epoch
    # Of the last step so far: what the log says where a session goes on after the last of an epoch.
    last = max(0, done.step - 1)
    set_rate(session.optimizer, scheduled_rate(config, done.epoch, last, steps))
    session.parallel.train()
    exact = torch.float32 if resolved.device.type == "mps" else torch.float64
    # What all processes have so far stands on the first; in 53 bits, no order of adding shows.
    so_far = done.loss_sum if is_first() else 0.0
    loss_sum = torch.tensor(so_far, dtype=exact, device=resolved.device)
    batches = session.train.epoch(done.epoch, done.step)
    label = f"epoch {done.epoch + 1}/{config.epochs}"
    with (
        closing(batches),
        Progress(label, session.train.samples_per_epoch, "img", initial=done.images) as progress,
    ):
        start = time.perf_counter()
        stream = _timed(batches, done)
        if session.profile:
            stream = profiled(stream, steps - done.step, session.log.folder, session.log.say)
            session.profile = False
        for batch in stream:
            count = images_of_step(session)
            if len(batch):
                images, target = prepare(
                    batch,
                    config,
                    epoch=0 if config.is_trial else done.epoch,  # always the same pixels
                    first_position=done.step * config.batch_size + share_start(count),
                )
                if not done.samples_seen:
                    pictures = first_batch_pictures(images, batch.labels, class_names)
                    session.log.figures(0, pictures)
                loss = add_gradients(session, images, target, len(batch) * size() / count)
            else:
                loss = add_no_gradients(session)
            clip_gradients(session.optimizer, session.scaler, config.clip_norm)
            set_rate(session.optimizer, scheduled_rate(config, done.epoch, done.step, steps))
            session.scaler.step(session.optimizer)
            session.scaler.update()
            session.optimizer.zero_grad(set_to_none=True)

            loss = loss * (count / size())  # the sum over this process's share
            loss_sum += loss
            done.step += 1
            done.images += count
            done.samples_seen += count
            progress.update(count)
            asked = session.asked()
            if asked != GO_ON or done.step % READ_STEPS == 0 or done.step == steps:
                done.loss_sum = float(total(loss_sum))  # waits for the device
                check_finite(session)
                values = step_values(
                    float(total(loss)) / count, learning_rate(session), config.image_size
                )
                session.log.step(done.samples_seen, values)
            if asked != GO_ON:
                now = time.perf_counter()
                done.train_s, start = done.train_s + now - start, now
                save_or_stop(session, asked)
        done.train_s += time.perf_counter() - start


def images_of_step(session: Session) -> int:
    """Images of the global batch of this step: the last one of an epoch may be short."""
    batch_size, train = session.config.batch_size, session.train
    return min(batch_size, train.samples_per_epoch - session.done.step * batch_size)


def add_gradients(
    session: Session, images: torch.Tensor, target: Target, weight: float
) -> torch.Tensor:
    """Forward and backward, part by part; the loss of the batch, on the device.

    Args:
        session: Whose network.
        images: This process's share of the batch.
        target: What is asked of them.
        weight: Of the share among those of all processes, whose gradients are averaged.
    """
    config = session.config
    loss = torch.zeros((), device=session.resolved.device)
    parts = list(micro_batches(images, target, config.micro_batch))
    for number, (part, asked_of_it, share) in enumerate(parts, 1):
        with exchanged(session.parallel, number == len(parts)):
            with session.resolved.autocast():
                logits = session.parallel(part)
                part_loss = share * weight * asked_of_it.loss(logits, config.label_smoothing)
            session.scaler.scale(part_loss).backward()  # type: ignore[no-untyped-call]
        loss += part_loss.detach()
    return loss


def add_no_gradients(session: Session) -> torch.Tensor:
    """Take part in the exchange without a share of a short batch; the loss is 0.

    The blank image stands for none: it must not count in the statistics of batch normalisation.
    """
    side = session.config.image_size
    blank = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=session.resolved.device)
    session.network.eval()
    logits = session.parallel(blank.contiguous(memory_format=torch.channels_last))
    session.network.train()
    loss: torch.Tensor = logits.float().sum() * 0.0
    session.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def learning_rate(session: Session) -> float:
    """Of the step under way."""
    rate: float = session.optimizer.param_groups[0]["lr"]
    return rate


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
        done.temperature = fit_temperature(val.outputs) if val.outputs else 0.0
    values = epoch_values(
        done,
        val,
        lr=learning_rate(session),
        image_size=config.image_size,
        device=session.resolved.device,
    )
    left = (config.epochs - done.epoch) * (done.train_s + val.seconds)
    session.log.say(
        f"epoch {done.epoch:>3}/{config.epochs}  train loss {values['train/loss']:.4f}  "
        f"val loss {val.loss:.4f}  {val.scores}  {'best' if is_best else '    '}  "
        f"{values['train/images_per_s']:,.0f} img/s  data wait {values['train/data_wait']:.0%}  "
        f"{human_time(left)} left"
    )
    session.log.metrics(done.epoch, done.samples_seen, values)
    session.log.figures(done.samples_seen, epoch_pictures(val, session.facts["class_names"]))
    done.step, done.images = 0, 0
    done.loss_sum = done.train_s = done.wait_s = 0.0
    # A kill between the two loses nothing: last.pt then holds the weights of the best epoch.
    save(session, LAST)
    if is_best:
        save(session, BEST)


def save(session: Session, name: str) -> None:
    """Write a checkpoint; ``best.pt`` holds no optimizer, as nobody resumes from it.

    Raises:
        JobError: The weights are spoiled, or the disk is full.
    """
    check_weights(session)
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


def check_weights(session: Session) -> None:
    """Raise :class:`JobError` where the last step spoiled the weights: no loss has shown it yet."""
    if not all(bool(each.isfinite().all()) for each in session.model.parameters()):
        raise JobError(
            f"the weights are no longer finite after {session.done.samples_seen:,} images; try a "
            f"lower --lr or --precision fp32. {_kept(session)}"
        )


def _kept(session: Session) -> str:
    return f"The checkpoint before that is kept: {session.folder / LAST}"


def _timed(batches: Iterator[Batch], done: Progressed) -> Iterator[Batch]:
    """Pass batches on; the time spent waiting for each adds up in ``done.wait_s``."""
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        done.wait_s += time.perf_counter() - start
        if batch is None:
            return
        yield batch
