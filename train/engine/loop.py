"""The training loop: one page that reads as the method.

Steps, each at its learning rate and image size, up to an evaluation on val; keep the best; go on. Nothing in
a step waits for the device; losses add up there and are read every ``READ_STEPS`` steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import closing

import torch

from loaders.batch import Batch
from shards.errors import JobError
from shards.machine import human_time
from shards.progress import Progress
from train.checkpoints.checkpoint import BEST, LAST
from train.config.distributed import is_first, largest_share, share_start, size, total
from train.config.resolution import training_size
from train.engine.profiling import profiled
from train.engine.step import add_gradients, add_no_gradients, images_of_step
from train.method.models import training_mode
from train.method.objective import prepare
from train.method.optimizer import clip_gradients, set_rate
from train.method.schedule import rate_at
from train.runs.interrupt import GO_ON, Stopped
from train.runs.record import epoch_pictures, epoch_values, first_batch_pictures, step_values
from train.runs.saving import kept, save, save_and_end, save_or_stop
from train.runs.session import Session
from train.runs.timing import add_up, timed
from train.scores.calibration import fit_temperature
from train.scores.evaluation import Evaluation, evaluate

READ_STEPS = 50
"""How many steps apart the loss is read, which waits for the device."""


def fit(session: Session) -> None:
    """Train to the end of the schedule, or until ``patience`` evaluations brought nothing.

    Raises:
        Interrupted: A signal or the time limit asked to stop; everything is saved.
        JobError: The loss is no longer finite; the last good checkpoint is kept.
    """
    config = session.config
    session.look()
    while not is_over(session):
        try:
            train_stretch(session)
            val = evaluate(
                session.evaluated,
                session.val,
                session.resolved,
                session.num_classes,
                pad_to=largest_share(config.batch_size) if session.resolved.compile else None,
                keep_outputs=True,
                after_batch=lambda: save_or_stop(session, session.asked()),
            )
        except Stopped as stop:
            save_and_end(session, stop.exit_code)
        finish_stretch(session, val)
        session.look()
    if not session.outlook.is_over:
        session.log.say(
            f"patience {config.patience}: so many evaluations brought no better val mIoU, so the run "
            "ends before its schedule does"
        )


def is_over(session: Session) -> bool:
    """Whether no step follows, and those that were made are evaluated."""
    done, patience = session.done, session.config.patience
    is_stale = patience is not None and done.without_gain >= patience
    return not done.images and (session.outlook.is_over or is_stale)


def train_stretch(session: Session) -> None:
    """The steps up to the next evaluation, from where the last session left them.

    Raises:
        Stopped: It was asked to; ``session.done`` says how far it came.
    """
    config, resolved, done = session.config, session.resolved, session.done
    steps = session.train.steps_per_epoch
    training_mode(session.parallel, freeze_norm=config.freeze_norm)
    exact = torch.float32 if resolved.device.type == "mps" else torch.float64
    # What all processes have so far stands on the first; in 53 bits, no order of adding shows.
    so_far = done.loss_sum if is_first() else 0.0
    loss_sum = torch.tensor(so_far, dtype=exact, device=resolved.device)
    label = f"epoch {done.epoch + 1}"
    due = images_due(session)
    batches = stretch(session)
    if session.profile:
        ahead = steps - done.step % steps
        batches = profiled(batches, ahead, session.log.folder, session.log.say)
        session.profile = False
    start = time.perf_counter()
    with (
        closing(batches),
        Progress(label, due, "img", initial=done.images) as progress,
    ):
        for batch in batches:
            count = images_of_step(session)
            with session.times.step():
                loss = take_step(session, batch, count)
            session.times.copied(batch)

            loss_sum += loss
            done.step += 1
            done.images += count
            done.samples_seen += count
            progress.update(count)
            asked = session.asked()
            session.look()
            ends = session.outlook.ends_stretch or done.step == steps
            if asked != GO_ON or ends or done.step % READ_STEPS == 0:
                done.loss_sum = float(total(loss_sum))  # waits for the device
                session.times.add_to(done)
                check_finite(session)
                values = step_values(float(total(loss)) / count, done.lr, done.image_size)
                session.log.step(done.samples_seen, values)
            if asked != GO_ON:
                now = time.perf_counter()
                done.train_s, start = done.train_s + now - start, now
                save_or_stop(session, asked)
    done.train_s += time.perf_counter() - start


def images_due(session: Session) -> int:
    """Images from one evaluation to the next, or to the end of the run where that comes first."""
    per_epoch = session.train.samples_per_epoch
    to_end = session.done.images + session.length.epochs_left(session.steps_done) * per_epoch
    return round(min(session.config.eval_every * per_epoch, to_end))


def stretch(session: Session) -> Generator[Batch]:
    """The batches up to the next evaluation, of the image size that the run has come to.

    Whoever takes them counts steps in ``session.done`` and looks at what follows; epochs begin here.
    """
    config, done = session.config, session.done
    while not session.outlook.ends_stretch:
        begin_epoch_if_done(session)
        image_size = training_size(config, session.outlook.progress)
        with closing(session.train.epoch(done.epoch, done.step, image_size)) as batches:
            for batch in timed(batches, done):
                yield batch
                following = session.outlook
                if (
                    following.ends_stretch
                    or training_size(config, following.progress) != image_size
                ):
                    break


def take_step(session: Session, batch: Batch, count: int) -> torch.Tensor:
    """One step of the optimizer; the sum of the losses of this process's images, on the device.

    Args:
        session: Whose weights move.
        batch: This process's share, none of a short batch perhaps.
        count: Images of the batch over all processes.
    """
    config, done = session.config, session.done
    done.image_size = batch.images.shape[-1]
    if len(batch):
        images, target = prepare(
            batch,
            config,
            epoch=0 if config.is_trial else done.epoch,  # always the same pixels
            first_position=done.step * config.batch_size + share_start(count),
        )
        if not done.samples_seen:
            names = session.facts["class_names"]
            session.log.figures(0, first_batch_pictures(images, batch.labels, names))
        loss = add_gradients(session, images, target, len(batch) * size() / count)
    else:
        loss = add_no_gradients(session)
    clip_gradients(session.optimizer, session.scaler, config.clip_norm)
    done.lr = rate_at(config, session.outlook.progress)
    set_rate(session.optimizer, done.lr)
    session.scaler.step(session.optimizer)
    session.scaler.update()
    session.optimizer.zero_grad(set_to_none=True)
    if session.average is not None:
        session.average.update(session.steps_done)
    return loss * (count / size())


def finish_stretch(session: Session, val: Evaluation) -> None:
    """Say and record what an evaluation brought, keep the best, save."""
    done, steps = session.done, session.steps_done
    if not math.isfinite(val.loss):
        raise JobError(
            f"the loss became {val.loss} on val after epoch {done.epoch + 1}: its last steps spoiled "
            f"the weights; try {_calmer(session)}{kept(session)}"
        )
    begin_epoch_if_done(session)
    done.evaluations, done.without_gain = done.evaluations + 1, done.without_gain + 1
    epoch = session.epoch
    is_best = val.scores.miou > done.best_miou
    if is_best:
        done.best_epoch, done.best_miou, done.without_gain = epoch, val.scores.miou, 0
        done.temperature = fit_temperature(val.outputs) if val.outputs else 0.0
    seconds = add_up(done, val.seconds, session.log.spent_s())
    values = epoch_values(done, val, seconds, device=session.resolved.device)
    left = session.length.left_s(steps, done.images, done.train_s, val.seconds)
    session.log.say(
        f"{session.length.position(steps)}  train loss {values['train/loss']:.4f}  "
        f"val loss {val.loss:.4f}  {val.scores}  {'best' if is_best else '    '}  "
        f"{values['train/images_per_s']:,.0f} img/s  data wait {values['train/data_wait']:.0%}  "
        f"{human_time(left)} left"
    )
    session.log.metrics(epoch, done.samples_seen, values)
    session.log.figures(done.samples_seen, epoch_pictures(val, session.facts["class_names"]))
    done.begin_stretch()
    # A kill between the two loses nothing: last.pt then holds the weights of the best epoch.
    save(session, LAST)
    if is_best:
        save(session, BEST)


def begin_epoch_if_done(session: Session) -> None:
    """Go from the last step of an epoch to before the first of the next."""
    done = session.done
    if done.step == session.train.steps_per_epoch:
        done.epoch, done.step = done.epoch + 1, 0


def check_finite(session: Session) -> None:
    """Raise :class:`JobError` where the loss since the last evaluation is no longer a number."""
    done = session.done
    if math.isfinite(done.loss_sum):
        return
    first = (done.step - 1) // READ_STEPS * READ_STEPS + 1
    raise JobError(
        f"the loss became {done.loss_sum} in epoch {done.epoch + 1} between steps {first} and "
        f"{done.step}; try {_calmer(session)}{kept(session)}"
    )


def _calmer(session: Session) -> str:
    """What may keep the loss a number."""
    in_16_bits = session.resolved.precision != "fp32"
    return "a lower --lr" + " or --precision fp32" * in_16_bits
