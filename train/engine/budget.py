"""``--budget``: a run that ends at a time. Progress is time spent over time usable.

The last step has to leave room for the evaluation of val and of test, checkpoints and the report. How
long an evaluation takes is measured before the run and each time that one is made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from loaders.batch import Batch, Loader
from shards.errors import UserError
from shards.machine import human_time
from train.config.config import TrainConfig
from train.config.distributed import first_says, from_first, largest_share, size
from train.config.length import ENDLESS, Outlook, StepCount, as_epoch
from train.config.resolve import Resolved
from train.config.safety import duration_text
from train.method.batches import count_eval_images
from train.scores.evaluation import padded

CLOSING_S, CLOSING_SHARE = 2.0, 0.02
"""What is set aside for checkpoints, report and the end of the process, beside the evaluations."""
SEVERAL_S = 2.0
"""And for processes that wait for each other at the end: two took 2.3 s on two quiet cores."""
MARGIN = 1.1
"""An evaluation may take so many times what it took before."""
ALMOST = 1 - 1e-6
"""Progress of a step that is made, at most."""
TRIAL_SHARE, TRIAL_S = 0.02, 10.0
"""How long an evaluation is tried before the run: a share of the budget, at most so long."""
FEW_IMAGES = 8
"""On a CPU, images at once in that trial: a whole batch may take minutes."""


@dataclass(kw_only=True)
class TimeBudget:
    """A run of so many seconds, all in all; the first process decides for the others."""

    seconds: float
    began: float
    """When it began, by ``time.monotonic``; of a resumed run, less what it took before."""
    points: StepCount
    """After which steps val is due; its end never comes."""
    val_images: int
    test_images: int
    image_s: float
    """What an image of an evaluation takes [s], all processes together."""
    _last_look: float = 0.0
    _laps: tuple[float, float] = (0.0, 0.0)
    _reached: float = field(default=0.0)

    def outlook(self, steps: int, evaluations: int) -> Outlook:
        """As :meth:`train.config.length.Length.outlook` has it."""
        now = time.monotonic()
        self._laps = self._laps[1], now - (self._last_look or now)
        self._last_look = now
        step_s = min(self._laps)  # the other lap may hold an evaluation, or a compilation
        spent, usable = now - self.began, self.usable_s()
        # Evaluations say how long they take, and then the end may move: never back.
        self._reached = max(self._reached, min((spent + step_s / 2) / max(usable, 1e-9), ALMOST))
        is_over = steps > 0 and spent + step_s > usable
        due = steps >= self.points.evaluated_after(evaluations + 1)
        worth_it = spent + self.val_images * self.image_s + 2 * step_s < usable
        progress, is_due = first_says(1.0 if is_over else self._reached, float(due and worth_it))
        return Outlook(progress, bool(is_due))

    def usable_s(self) -> float:
        """When the last step has to be done [s after the beginning]."""
        evaluations_s = MARGIN * self.image_s * (self.val_images + self.test_images)
        closing_s = CLOSING_SHARE * self.seconds + CLOSING_S + SEVERAL_S * (size() > 1)
        return self.seconds - closing_s - evaluations_s

    def check(self) -> None:
        """Raise :class:`UserError` where no time is left for training."""
        spent, usable = time.monotonic() - self.began, self.usable_s()
        if spent < usable:
            return
        images = self.val_images + self.test_images
        raise UserError(
            f"--budget {duration_text(self.seconds)} leaves no time for training: "
            f"{human_time(spent)} have passed, "
            f"and what follows the last step (val and test, {images:,} images) takes about "
            f"{human_time(self.seconds - usable)}; choose a longer one"
        )

    def left_s(self, steps: int, images: int, train_s: float, val_s: float) -> float:
        """What is left of the budget; takes note of how long the evaluation took."""
        self.image_s = val_s / self.val_images
        return max(0.0, self.began + self.seconds - time.monotonic())

    def epochs_left(self, steps: int) -> float:
        """As :meth:`train.config.length.Length.epochs_left` has it."""
        return math.inf

    def position(self, steps: int) -> str:
        """As :meth:`train.config.length.Length.position` has it."""
        return f"epoch {round(as_epoch(steps, self.points.steps_per_epoch), 3):>3g}"


def time_budget(
    config: TrainConfig,
    resolved: Resolved,
    points: StepCount,
    evaluated: nn.Module,
    val: Loader,
    shards: Path,
    began: float,
) -> TimeBudget:
    """The end of a run by time, with room for what follows the last step.

    Raises:
        UserError: There is no room for a step.
    """
    assert config.budget is not None
    pad_to = largest_share(config.batch_size) if resolved.compile else None
    has_test = not config.is_trial
    budget = TimeBudget(
        seconds=config.budget,
        began=began,
        points=replace(points, total=ENDLESS),
        val_images=val.samples_per_epoch,
        test_images=count_eval_images(config, shards, "test") if has_test else 0,
        image_s=seconds_an_image(evaluated, val, resolved, pad_to, config.budget),
    )
    from_first(budget.check)
    return budget


@torch.inference_mode()
def seconds_an_image(
    network: nn.Module, val: Loader, resolved: Resolved, pad_to: int | None, budget_s: float
) -> float:
    """What an evaluation takes an image, all processes together, by a trial on the first of val.

    Args:
        network: That will be evaluated; compiles here where it does.
        val: Its loader.
        resolved: Device and precision.
        pad_to: As in :func:`train.scores.evaluation.evaluate`.
        budget_s: Of the run: a small share of it is spent here.
    """
    network.eval()
    few = resolved.device.type == "cpu" and pad_to is None
    limit_s = min(TRIAL_SHARE * budget_s, TRIAL_S)
    each_s, timed, start = 0.0, -1, time.perf_counter()
    with closing(val.epoch(0)) as batches:
        for images in _parts(batches, FEW_IMAGES if few else None):
            with resolved.autocast():
                network(padded(images, pad_to)).sum().item()  # waits for the device
            seconds = time.perf_counter() - start
            if timed < 0:  # the first is a warm-up, unless there is no other
                each_s, timed, start = seconds / len(images), 0, time.perf_counter()
                continue
            timed += len(images)
            each_s = seconds / timed
            if seconds > limit_s:
                break
    return each_s / size()


def _parts(batches: Iterator[Batch], size: int | None) -> Iterator[torch.Tensor]:
    for batch in batches:
        if len(batch):
            yield from batch.images.split(size or len(batch))  # type: ignore[no-untyped-call]
