"""How long a run will take, from a few measured steps that leave no trace in the model."""

from __future__ import annotations

import math
import time
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice

import torch
from torch.nn.functional import cross_entropy

from loaders.batch import Batch
from train.config.distributed import size
from train.config.length import step_count
from train.config.resolution import mean_area
from train.engine.features import fast_network
from train.method.models import training_mode
from train.runs.session import Session

STEPS = 2
FEW_IMAGES = 8
"""A CPU's step takes minutes at 384 px and batch 128, and scales with the batch: measure a part."""
QUICK_STEP_S = 1.0
"""A step on the few that is quicker than this is measured on the whole batch instead."""
EVAL_SHARE = 1 / 3
"""Of a training step's time: the forward pass is about a third of the work."""
LOADER_BATCHES = 3


@dataclass(frozen=True, slots=True)
class Estimate:
    """Measured speeds and what follows from them."""

    step_images_per_s: float
    """Of forward and backward; of the forward pass alone where the network is frozen."""
    loader_images_per_s: float
    seconds: float
    """Of the whole run, evaluations included."""


def estimate(session: Session, test_images: int) -> Estimate:
    """Measure the step and the loader, each alone, and extrapolate.

    On a CPU loader and step share the cores, so their times add; beside a GPU the slower one counts.
    """
    config = session.config
    batch, loader_s = _measure_loader(session)
    on_cpu = session.resolved.device.type == "cpu"
    if config.head == "only":
        forward_s = _measure_features(session, batch)
        passes = config.epochs * session.train.samples_per_epoch + 2 * session.val.samples_per_epoch
        image_s = forward_s + loader_s if on_cpu else max(forward_s, loader_s)
        return Estimate(1 / forward_s, 1 / loader_s, (passes + test_images) * image_s)
    step_s = _measure_step(session, batch)
    step_s, loader_s = step_s / size(), loader_s / size()  # as many work side by side
    pixel_s = step_s / batch.images.shape[-1] ** 2
    step_s, eval_s = pixel_s * mean_area(config), EVAL_SHARE * pixel_s * config.image_size**2
    train_s = step_s + loader_s if on_cpu else max(step_s, loader_s)
    eval_s = eval_s + loader_s if on_cpu else max(eval_s, loader_s)
    epochs_left = step_count(config, session.train).epochs_left(session.steps_done)
    train_images = epochs_left * session.train.samples_per_epoch
    evaluations = math.ceil(epochs_left / config.eval_every)
    eval_images = evaluations * session.val.samples_per_epoch + test_images
    return Estimate(1 / step_s, 1 / loader_s, train_images * train_s + eval_images * eval_s)


def _measure_loader(session: Session) -> tuple[Batch, float]:
    """The first training batch, and seconds an image with nothing else running.

    Not a later one: of a short last batch a rank may have no image.
    """
    start = time.perf_counter()
    with closing(session.train.epoch(session.done.epoch)) as batches:
        taken = list(islice(batches, LOADER_BATCHES))
    images = sum(len(each) for each in taken)
    return taken[0], (time.perf_counter() - start) / images


def _measure_features(session: Session, batch: Batch) -> float:
    """Seconds an image of the frozen network, after a warm-up."""
    network, _ = fast_network(
        session.model, session.num_classes, session.config.image_size, session.resolved
    )
    with torch.inference_mode():
        times = []
        for _ in range(1 + STEPS):
            start = time.perf_counter()
            network(batch.images).sum().item()  # waits for the device
            times.append(time.perf_counter() - start)
    return min(times[1:]) / len(batch)


def _measure_step(session: Session, batch: Batch) -> float:
    """Seconds an image of forward and backward, after a warm-up that also compiles."""
    device = session.resolved.device
    before = deepcopy(session.model.state_dict())  # with the versions that it carries
    training_mode(session.network, freeze_norm=session.config.freeze_norm)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        most = min(len(batch), session.resolved.micro_batch or len(batch))
        is_slow = device.type == "cpu" and not session.resolved.compile
        few = min(most, FEW_IMAGES) if is_slow else most
        seconds = _time_steps(session, batch, few)
        if few < most and seconds < QUICK_STEP_S:
            few, seconds = most, _time_steps(session, batch, most)
    session.model.load_state_dict(before)  # batch norm counted the images
    return seconds / few


def _time_steps(session: Session, batch: Batch, count: int) -> float:
    """Seconds of a step on the first ``count`` images, the best of a few after a warm-up."""
    images, labels = batch.images[:count], batch.labels[:count]
    # On a CPU one process may measure more steps than another, so they must not wait for each other.
    network = session.network if session.resolved.device.type == "cpu" else session.parallel
    times = []
    for _ in range(1 + STEPS):
        start = time.perf_counter()
        with session.resolved.autocast():
            loss = cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        session.optimizer.zero_grad(set_to_none=True)
        loss.detach().item()  # waits for the device
        times.append(time.perf_counter() - start)
    return min(times[1:])
