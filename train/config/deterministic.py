"""``--deterministic``: the same weights to the last bit each time, on the same machine and versions.

Order and augmentation of the images are always those of the seed; this is about the arithmetic.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shards.errors import JobError

CUBLAS_WORKSPACE = ":4096:8"
"""https://docs.nvidia.com/cuda/cublas/#results-reproducibility; read when CUDA starts."""


def set_deterministic(on: bool) -> None:
    """Make torch refuse operations that are not reproducible, or (``on`` false) allow them again."""
    torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.deterministic = on
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
        torch.backends.cudnn.benchmark = False  # it would choose kernels by the clock


@contextmanager
def refusals_as_job_errors() -> Iterator[None]:
    """Say in one line which operation torch refused.

    Raises:
        JobError: It refused one.
    """
    try:
        yield
    except RuntimeError as error:
        refused = re.match(r"(\S+) does not have a deterministic implementation", str(error))
        if refused is None:
            raise
        raise JobError(
            f"--deterministic: {refused[1]} has no reproducible implementation here; train another "
            "--arch, or start again without --deterministic"
        ) from None
