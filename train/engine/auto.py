"""What ``auto`` becomes once the run is known: its length, its model on the device."""

from __future__ import annotations

import math

from train.config.config import TrainConfig
from train.config.device import choose_compile
from train.config.distributed import largest_share
from train.config.length import StepCount
from train.config.resolution import training_sizes
from train.config.resolve import Resolved, with_choice
from train.engine.micro_batch import fitting_micro_batch
from train.method.models import Classifier


def resolve_for_run(
    config: TrainConfig,
    resolved: Resolved,
    steps: StepCount,
    model: Classifier,
    num_classes: int,
) -> Resolved:
    """Choose the micro-batch, and whether the run is long enough to compile.

    Args:
        config: What is asked for.
        resolved: What was chosen so far.
        steps: Length of the run, where that is not a time.
        model: On its device.
        num_classes: K.

    Raises:
        UserError: Not even one image fits into the memory of the GPU.
    """
    sizes = training_sizes(config)
    compiled, reason = choose_compile(
        config.compile,
        resolved.device,
        steps=math.inf if config.budget else steps.total,
        budget_s=config.budget or math.inf,
        graphs=len(sizes),
    )
    resolved = with_choice(resolved, "compile", compiled, reason)
    is_chosen = resolved.micro_batch is not None  # asked for, or tuned
    if is_chosen or resolved.device.type != "cuda" or config.head == "only":
        return resolved
    share = largest_share(config.batch_size)
    fitting = fitting_micro_batch(model, sizes[-1], share, num_classes, resolved)
    if fitting == share:
        return with_choice(resolved, "micro_batch", None, "it fits into the GPU's memory")
    return with_choice(
        resolved, "micro_batch", fitting, f"{share} images do not fit into the GPU's memory"
    )
