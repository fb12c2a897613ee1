"""What a training works with, from its first step to its last."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loaders.batch import Loader
from train.checkpoints.checkpoint import Progressed
from train.config.config import TrainConfig
from train.config.distributed import agree
from train.config.length import Length, Outlook, as_epoch
from train.config.resolve import Resolved
from train.config.safety import Safety
from train.method.ema import WeightAverage
from train.method.models import Classifier
from train.method.objective import Objective
from train.runs.interrupt import GO_ON, SAVE, StopRequest
from train.runs.log import RunLog
from train.runs.timing import StepTimes


@dataclass(kw_only=True)
class Session:
    """Everything at hand in the loop."""

    config: TrainConfig
    resolved: Resolved
    model: Classifier
    """That steps move."""
    network: nn.Module
    """The model as it is run: compiled or not. It shares the model's weights."""
    parallel: nn.Module
    """The same with gradients averaged over all processes, for steps."""
    average: WeightAverage | None = None
    """Of the model's weights, where one is wanted."""
    evaluated: nn.Module
    """What is evaluated: ``network``, or the average as it is run."""
    objective: Objective
    """The loss of a step."""
    tree: torch.Tensor | None = None
    """``(K, K)`` int64 heights of the classes' common ancestors, where the loss knows them."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    train: Loader
    val: Loader
    num_classes: int
    length: Length
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
    """Whether the next steps are profiled."""
    saved_at: float = field(default_factory=time.monotonic)
    saved_step: int = 0
    outlook: Outlook = field(init=False)
    """What follows, since the last :meth:`look`."""
    times: StepTimes = field(init=False)

    def __post_init__(self) -> None:
        self.times = StepTimes(self.resolved.device)

    @property
    def kept(self) -> Classifier:
        """The model whose weights are evaluated, and are what a run is for."""
        return self.model if self.average is None else self.average.model

    @property
    def epoch(self) -> float:
        """Epochs since the run began."""
        return as_epoch(self.steps_done, self.train.steps_per_epoch)

    def seconds(self) -> float:
        """Of the run so far, over all its sessions."""
        return self.done.seconds + time.perf_counter() - self.started

    @property
    def steps_done(self) -> int:
        """Optimizer steps since the run began."""
        return self.done.epoch * self.train.steps_per_epoch + self.done.step

    def look(self) -> None:
        """See what follows: another step, an evaluation, or the end."""
        self.outlook = self.length.outlook(self.steps_done, self.done.evaluations)

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
