"""How long a run is: where each step stands between its beginning and its end, and when val is due."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from loaders.batch import Loader
from shards.errors import UserError
from train.config.config import TrainConfig

ENDLESS = 2**62
"""Steps of a run that something else ends."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run does next."""

    progress: float
    """Share of the run that is done in the middle of the next step; 1 where none follows."""
    is_due: bool
    """Whether val is to be evaluated before that step."""

    @property
    def is_over(self) -> bool:
        """Whether no step follows."""
        return self.progress >= 1

    @property
    def ends_stretch(self) -> bool:
        """Whether an evaluation follows, and not a step."""
        return self.is_due or self.is_over


class Length(Protocol):
    """A number of steps (:class:`StepCount`) or a time (:class:`train.engine.budget.TimeBudget`)."""

    def outlook(self, steps: int, evaluations: int) -> Outlook:
        """What follows so many steps and evaluations; the same in all processes of a run."""
        ...

    def left_s(self, steps: int, images: int, train_s: float, val_s: float) -> float:
        """Seconds until the last evaluation is done.

        Args:
            steps: Done so far.
            images: Trained on since the evaluation before.
            train_s: Which took so long.
            val_s: What the evaluation after it took.
        """
        ...

    def epochs_left(self, steps: int) -> float:
        """Epochs, and parts of one, from so many steps to the last; infinite where a time ends the run."""
        ...

    def position(self, steps: int) -> str:
        """How far a run is after so many steps, as ``epoch 2/20``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCount:
    """A run of so many steps: ``--epochs`` or ``--samples``."""

    total: int
    """Steps of the run; of a run by time, more than it can make."""
    steps_per_epoch: int
    batch_size: int
    eval_every: float
    """Epochs from one evaluation to the next."""

    def outlook(self, steps: int, evaluations: int) -> Outlook:
        """As :meth:`Length.outlook` has it."""
        due = steps >= self.evaluated_after(evaluations + 1)
        return Outlook(min(1.0, (steps + 0.5) / self.total), due)

    def evaluated_after(self, evaluations: int) -> int:
        """The step after which an evaluation is due, counted from 1."""
        return min(round(evaluations * self.eval_every * self.steps_per_epoch), self.total)

    def left_s(self, steps: int, images: int, train_s: float, val_s: float) -> float:
        """As :meth:`Length.left_s` has it: as long an image as since the last evaluation."""
        return (self.total - steps) * self.batch_size / images * (train_s + val_s)

    def epochs_left(self, steps: int) -> float:
        """As :meth:`Length.epochs_left` has it."""
        return (self.total - steps) / self.steps_per_epoch

    def position(self, steps: int) -> str:
        """As :meth:`Length.position` has it."""
        done, total = (as_epoch(each, self.steps_per_epoch) for each in (steps, self.total))
        return f"epoch {round(done, 3):>3g}/{round(total, 3):g}"


def step_count(config: TrainConfig, train: Loader) -> StepCount:
    """What ``--epochs`` or ``--samples`` makes of a loader's epochs.

    Raises:
        UserError: Val would be due before each step.
    """
    per_epoch = train.steps_per_epoch
    total = config.epochs * per_epoch
    if config.samples is not None:
        epochs, rest = divmod(config.samples, train.samples_per_epoch)
        total = epochs * per_epoch + -(-rest // config.batch_size)
    if config.eval_every * per_epoch < 1:
        raise UserError(
            f"--eval-every {config.eval_every:g} is less than a step: an epoch has {per_epoch} of "
            f"them; choose {math.ceil(100 / per_epoch) / 100:g} or more"
        )
    return StepCount(
        total=total,
        steps_per_epoch=per_epoch,
        batch_size=config.batch_size,
        eval_every=config.eval_every,
    )


def as_epoch(steps: int, steps_per_epoch: int) -> float:
    """Steps in epochs: a whole number after a whole number of them."""
    epochs, rest = divmod(steps, steps_per_epoch)
    return round(epochs + rest / steps_per_epoch, 6) if rest else epochs
