"""How many images pass through the network at once, where a batch is too many for the GPU's memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from shards.errors import UserError
from train.config.distributed import agree
from train.config.resolve import Resolved
from train.method.models import Classifier


def fitting(fits: Callable[[int], bool], images: int) -> int:
    """The batch, or the largest half, quarter, eighth (rounded up) of it that fits.

    Args:
        fits: Whether so many images do.
        images: Of the batch.

    Raises:
        UserError: Not even a single one does.
    """
    while not fits(images):
        if images == 1:
            raise UserError(
                "the memory of the GPU is too small for one image; choose a smaller --image-size or "
                "another --arch"
            )
        images = -(-images // 2)
    return images


def fitting_micro_batch(
    model: Classifier, image_size: int, images: int, num_classes: int, resolved: Resolved
) -> int:
    """How many images of a batch fit into the memory of a CUDA device at once, in all processes.

    Tries steps, which leave no trace in the model: beside activations and gradients there has to be
    room for the two moments that the optimizer keeps of each weight.

    Args:
        model: On the device.
        image_size: The largest of training [px].
        images: A process's share of the global batch.
        num_classes: K.
        resolved: Device, precision and memory format.
    """

    def fits(count: int) -> bool:
        try:
            _step(model, image_size, count, num_classes, resolved)
            here = True
        except torch.OutOfMemoryError:
            here = False
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        return not agree(int(not here))

    before = {name: each.clone() for name, each in model.state_dict().items()}
    try:
        return fitting(fits, images)
    finally:
        with torch.no_grad():  # batch norm counted the images
            for name, each in model.state_dict().items():
                each.copy_(before[name])


def _step(
    model: nn.Module, image_size: int, images: int, num_classes: int, resolved: Resolved
) -> None:
    """Forward and backward of blank images, with as much memory taken as an optimizer takes."""
    device = resolved.device
    moments = [torch.empty_like(each) for each in model.parameters() for _ in range(2)]
    batch = torch.zeros(images, image_size, image_size, 3, dtype=torch.uint8, device=device)
    labels = torch.arange(images, device=device) % num_classes
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        with resolved.autocast():
            loss = cross_entropy(model.train()(batch.permute(0, 3, 1, 2)), labels)
        loss.backward()  # type: ignore[no-untyped-call]
    loss.item()  # waits: memory that is lacking shows here at the latest
    del moments
