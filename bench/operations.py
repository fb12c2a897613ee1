"""What a training step has to do at least: its products, with their FLOPs and the numbers they touch.

Runs on tensors without data, so it costs the same for any batch and needs no device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from train.method.models import create_model
from train.scores.published import published_class_names

CLASSES = len(published_class_names())
LEAST_BATCH = 2
"""Batch norm refuses to train on one image."""
ADAMW_PASSES = 7
"""Over a parameter's numbers: reads it, its gradient and two moments, writes all but the gradient."""


@dataclass(frozen=True, slots=True)
class Product:
    """A convolution or matrix product of forward or backward, for a whole batch."""

    flops: int
    """A multiplication and an addition count as two."""
    numbers: int
    """Read and written by it: its operands and its results, each once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """The work of a training step."""

    batch_size: int
    products: tuple[Product, ...]
    parameters: int

    @property
    def flops_per_image(self) -> int:
        """Of forward and backward."""
        return sum(each.flops for each in self.products) // self.batch_size

    def bytes_per_image(self, itemsize: int) -> float:
        """That products and optimizer move, numbers of ``itemsize`` bytes in the former."""
        numbers = sum(each.numbers for each in self.products)
        return (numbers * itemsize + self.optimizer_bytes) / self.batch_size

    @property
    def optimizer_bytes(self) -> int:
        """That AdamW moves in a step; its numbers are fp32 always."""
        return 4 * ADAMW_PASSES * self.parameters

    def floor_s(self, *, flop_per_s: float, bytes_per_s: float, itemsize: int) -> float:
        """Seconds below which a step cannot fall on such a device, by the roofline model.

        Each product takes as long as its arithmetic or its traffic, whichever is longer; what lies
        between products counts as fused into them. A product that finds its operands in a cache, or
        computes with fewer multiplications (Winograd), may be faster yet.
        """
        products = (
            max(each.flops / flop_per_s, each.numbers * itemsize / bytes_per_s)
            for each in self.products
        )
        return sum(products) + self.optimizer_bytes / bytes_per_s


@cache
def step_work(arch: str, image_size: int, batch_size: int = LEAST_BATCH) -> StepWork:
    """Count what forward, backward and AdamW of a batch do.

    Raises:
        UserError: No such architecture.
    """
    with torch.device("meta"):
        model = create_model(arch, CLASSES, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        images = torch.zeros(batch_size, 3, image_size, image_size, dtype=torch.uint8)
        labels = torch.zeros(batch_size, dtype=torch.int64)
        with _Recorder() as recorder:
            cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    return StepWork(
        batch_size=batch_size,
        products=tuple(recorder.products),
        parameters=sum(each.numel() for each in model.parameters()),
    )


def flops_per_image(arch: str, image_size: int) -> int:
    """Floating-point operations of forward and backward."""
    return step_work(arch, image_size).flops_per_image


class _Recorder(TorchDispatchMode):
    """Notes every product, by the formulas of torch's own counter."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: list[Product] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet is torch.ops.aten.convolution_backward:
            flops = _convolution_backward(*args)
        elif packet in flop_registry:
            flops = int(flop_registry[packet](*args, **(kwargs or {}), out_val=out))
        else:
            return out
        numbers = sum(each.numel() for each in _tensors((args, out)))
        self.products.append(Product(flops, numbers))
        return out


def _convolution_backward(
    grad: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, *rest: Any
) -> int:
    """Each gradient that is wanted takes as much as the forward did.

    torch's counter (2.15) ignores that the channels of a depthwise convolution lie in groups, and
    finds 12 times too much for mobilenet_v3_small.
    """
    wanted = rest[-1]
    forward = 2 * grad.numel() // weight.shape[0] * weight.numel()
    return forward * (bool(wanted[0]) + bool(wanted[1]))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
