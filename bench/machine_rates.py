"""What a device can do at best: products of large matrices, and moving memory.

The two ceilings of the roofline model (Williams, Waterman, Patterson 2009): a step can neither
compute faster than the first nor read and write faster than the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from bench.timing import Subject, rate
from train.config.device import DTYPES

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192, "mps": 4096}
"""Of square factors: larger ones are not faster, much smaller ones do not fill the device."""
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30, "mps": 2**28}
"""Of the block that is copied: several times any cache."""
MEMORY = "memory copy"


def matrix_name(precision: str) -> str:
    """What the subject of :func:`matrix_subject` is called."""
    return f"matrix product {precision}"


def matrix_subject(device: torch.device, precision: str, block_s: float) -> Subject:
    """Times the product of two square matrices; values in FLOP/s.

    A multiplication and an addition count as two, as in :func:`bench.step.flops_per_image`.

    Args:
        device: Where; a CPU uses as many threads as torch is set to.
        precision: ``fp32``, ``bf16`` or ``fp16``: type of the factors and of the product.
        block_s: Least length of a block [s].
    """
    side = MATRIX_SIDE[device.type]
    left, right = (
        torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2)
    )  # not zeros: GPUs run those at a higher clock
    product = torch.empty_like(left)

    def products() -> Iterator[int]:
        while True:
            torch.mm(left, right, out=product)
            yield 2 * side**3

    return _subject(matrix_name(precision), products, device, block_s, f"{side} x {side}")


def memory_subject(device: torch.device, block_s: float) -> Subject:
    """Times copying memory within the device; values in bytes/s, those read and those written."""
    size = COPY_BYTES[device.type]
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copies() -> Iterator[int]:
        while True:
            target.copy_(source)
            yield 2 * size

    return _subject(MEMORY, copies, device, block_s, f"{size >> 20} MiB, read and written")


def _subject(
    name: str,
    work: Callable[[], Iterator[int]],
    device: torch.device,
    block_s: float,
    note: str,
) -> Subject:
    def block(_repeat: int) -> float:
        return rate(work(), min_s=block_s, device=device)

    return Subject(name, block, note)
