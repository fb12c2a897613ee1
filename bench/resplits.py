"""Does a temperature that was fitted on one half of the images help the other? Over random halves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from train.inference.trained import open_trained
from train.scores.calibration import fit_temperature, negative_log_likelihood
from train.scores.outputs import Outputs, joined


@dataclass(frozen=True, slots=True, kw_only=True)
class Resplits:
    """Of the images of val and test of a run."""

    images: int
    nll: float
    """Of all of them, without a temperature [nats]."""
    changes: npt.NDArray[np.float64]
    """``(R,)``: negative log likelihood of one half with the other's temperature, less that without."""
    temperatures: npt.NDArray[np.float64]
    """``(R,)``."""

    def __str__(self) -> str:
        low, high = np.quantile(self.changes, [0.025, 0.975])
        return (
            f"{self.images:,} images, {len(self.changes):,} re-splits into halves: the temperature "
            f"({self.temperatures.min():.3f} to {self.temperatures.max():.3f}) changes the negative log "
            f"likelihood of {self.nll:.4f} by {self.changes.mean():+.4f} on average (95 % of the "
            f"re-splits: {low:+.4f} to {high:+.4f}; at most {self.changes.max():+.4f}) and raises it in "
            f"{int((self.changes > 0).sum())}"
        )


def resplit(outputs: Outputs, count: int, well_calibrated: int) -> Resplits:
    """Fit on one random half, score the other, ``count`` times.

    Args:
        outputs: Of all images.
        count: Of re-splits; number i is drawn with seed i.
        well_calibrated: See :func:`train.scores.calibration.fit_temperature`.
    """
    changes, temperatures = [], []
    for seed in range(count):
        order = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(seed))
        val, test = (
            Outputs(outputs.logits[half], outputs.labels[half], outputs.ids[half])
            for half in order.chunk(2)
        )
        temperature = fit_temperature(val, well_calibrated)
        temperatures.append(temperature)
        changes.append(negative_log_likelihood(test, temperature) - negative_log_likelihood(test))
    return Resplits(
        images=len(outputs),
        nll=negative_log_likelihood(outputs),
        changes=np.array(changes),
        temperatures=np.array(temperatures),
    )


def outputs_of_run(run: Path, shards: str | None) -> Outputs:
    """What a run's best checkpoint says about the images of val and of test."""
    with open_trained(run, shards) as trained:
        return joined([trained.evaluate(split)[1] for split in ("val", "test")])
