"""An exponential moving average of the weights: what a run with ``--ema`` evaluates and keeps."""

from __future__ import annotations

from copy import deepcopy
from itertools import chain

import torch

from train.method.models import Classifier

WARM_UP_STEPS = 10
"""After so many steps, the next one keeps half of the average."""


class WeightAverage:
    """A second model whose weights trail those of the one that is trained.

    Running means and variances of batch normalisation are averaged as the weights are, since they
    belong to them; counters and other whole numbers are copied. (``AveragedModel`` of
    :mod:`torch.optim.swa_utils` does the same, and reads its counter at each step.)

    Args:
        model: That is trained, on its device.
        decay: Share of the average that a step keeps, in (0, 1).
    """

    def __init__(self, model: Classifier, decay: float) -> None:
        self.model = deepcopy(model).eval().requires_grad_(False)
        """With the averaged weights."""
        self._decay = decay
        pairs = list(zip(_state(self.model), _state(model), strict=True))
        self._floats = [each for each in pairs if each[0].is_floating_point()]
        self._others = [each for each in pairs if not each[0].is_floating_point()]

    @torch.no_grad()
    def update(self, steps_before: int) -> None:
        """Follow the weights after a step; on the device, without waiting for it.

        Args:
            steps_before: Of the run, before this one.
        """
        averages, weights = ([pair[at] for pair in self._floats] for at in (0, 1))
        torch._foreach_lerp_(averages, weights, 1 - decay_at(self._decay, steps_before))
        for average, value in self._others:
            average.copy_(value)


def decay_at(decay: float, steps_before: int) -> float:
    """Share of the average that a step keeps: little at first, so that nothing random stays in it.

    As TensorFlow's rule for young averages, (1 + n) / (10 + n), but that the first step keeps nothing.

    Args:
        decay: Once the average is old enough.
        steps_before: Of the run, before this one.
    """
    return min(decay, steps_before / (steps_before + WARM_UP_STEPS))


def _state(model: Classifier) -> list[torch.Tensor]:
    return list(chain(model.backbone.parameters(), model.backbone.buffers()))
