"""The processes of a run: one alone, or those that torchrun started, each with a rank.

All of them see the same global batches and take the same decisions at the same steps; the first, rank 0,
alone writes and speaks. What they tell each other beside gradients are a few integers a step, over gloo:
on a GPU, too, nothing of it waits for the device.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from shards.errors import Interrupted, JobError, UserError
from shards.progress import silence
from train.config.config import TrainConfig

T = TypeVar("T")
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process that it starts."""
LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What stands in the errors of torch where another process is gone."""


def rank() -> int:
    """Of this process, counted from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes the run has, on all nodes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


def local_rank() -> int:
    """Of this process among those of its node: which GPU is its own."""
    return int(os.environ["LOCAL_RANK"]) if dist.is_initialized() else 0


def local_size() -> int:
    """How many processes share this node."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if dist.is_initialized() else 1


@contextmanager
def processes() -> Iterator[None]:
    """Join the others that torchrun started; nothing where it did not start this one.

    Raises:
        JobError: Another process ended.
    """
    if not all(name in os.environ for name in TORCHRUN):
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl")
    else:
        dist.init_process_group("gloo")
    try:
        with _speaking_alone():
            yield
    except RuntimeError as error:
        if not any(each in str(error) for each in LOST):
            raise
        raise JobError(
            f"rank {rank()}: another process of the run ended, so this one ends, too; see what that "
            "one said, then go on from the last checkpoint with --resume"
        ) from None
    finally:
        dist.destroy_process_group()


@contextmanager
def _speaking_alone() -> Iterator[None]:
    """Only the first process prints, but each names what made it fail by itself."""
    if is_first():
        yield
        return
    silence()
    before = sys.stdout
    with open(os.devnull, "w") as nowhere:
        sys.stdout = nowhere
        try:
            yield
        except Interrupted as stop:
            raise SystemExit(stop.exit_code) from None  # the first one says where it is saved
        except UserError as error:
            failed = UserError(f"rank {rank()}: {error.format_message()}")
            failed.exit_code = error.exit_code  # type: ignore[misc]
            raise failed from None
        finally:
            sys.stdout = before


@dataclass(frozen=True, slots=True)
class _Failed:
    exit_code: int


def from_first(work: Callable[[], T]) -> T:
    """What ``work`` returns in the first process, in all of them.

    Raises:
        UserError: In the first process; the others end without a word.
    """
    if size() == 1:
        return work()
    box: list[T | _Failed | None] = [None]
    if is_first():
        try:
            box = [work()]
        except UserError as error:
            dist.broadcast_object_list([_Failed(error.exit_code)])
            raise
    dist.broadcast_object_list(box)
    (result,) = box
    if isinstance(result, _Failed):
        raise SystemExit(result.exit_code)
    return result  # type: ignore[return-value]


def agree(wish: int) -> int:
    """The largest wish of all processes, in all of them."""
    if size() == 1:
        return wish
    wishes = torch.tensor([wish])
    dist.all_reduce(wishes, dist.ReduceOp.MAX)
    return int(wishes)


def first_says(*values: float) -> list[float]:
    """What the first process has, in all of them."""
    if size() == 1:
        return list(values)
    said = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(said, 0)
    return [float(each) for each in said]


def total(value: torch.Tensor) -> torch.Tensor:
    """The sum over all processes of a tensor that each of them has."""
    if size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def of_each(state: torch.Tensor) -> torch.Tensor:
    """A CPU tensor of each process, as the rows of one; as it is where there is one process."""
    if size() == 1:
        return state
    rows = [torch.empty_like(state) for _ in range(size())]
    dist.all_gather(rows, state)
    return torch.stack(rows)


def from_each(value: T) -> list[T]:
    """What each process has, by rank; plain data and tensors on the CPU."""
    if size() == 1:
        return [value]
    box: list[T | None] = [None] * size()
    dist.all_gather_object(box, value)
    return box  # type: ignore[return-value]


def share_sizes(images: int) -> list[int]:
    """How many images of a global batch each rank takes; see :meth:`loaders.plan.Plan.batches`."""
    ends = [images * each // size() for each in range(size() + 1)]
    return [end - start for start, end in pairwise(ends)]


def share_start(images: int) -> int:
    """Place of this rank's first image in a global batch."""
    return sum(share_sizes(images)[: rank()])


def largest_share(images: int) -> int:
    """Images of a global batch that a rank takes at most."""
    return max(share_sizes(images))


def check_processes(config: TrainConfig) -> None:
    """Raise :class:`UserError` where the processes cannot share the work as asked for."""
    if config.batch_size < size():
        raise UserError(
            f"--batch-size {config.batch_size} is over all processes, and there are {size()}: each "
            "needs an image; choose a larger one, or start fewer"
        )
    if config.head != "random" and size() > 1:
        raise UserError(
            f"--head {config.head} fits the last layer in one process, and torchrun started {size()}: "
            "start it without torchrun, or with --head random"
        )
    if config.sync_batchnorm and size() > 1 and not torch.cuda.is_available():
        raise UserError(
            "--sync-batchnorm works on CUDA devices alone (PyTorch has it for no other); drop it"
        )


def parallel(model: nn.Module, *, sync_batchnorm: bool) -> nn.Module:
    """The model with gradients averaged over all processes; as it is where there is one process.

    All start from the weights of the first.
    """
    if size() == 1:
        return model
    if sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def exchanged(network: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Whether processes average gradients in what runs within: not before a batch's last part."""
    if now or size() == 1:
        return nullcontext()
    return network.no_sync()  # type: ignore[operator, no-any-return]


def same_buffers(model: nn.Module) -> None:
    """Give all processes the running statistics of the first.

    Each saw other images since the last step, at whose beginning DDP did the same.
    """
    if size() > 1:
        for each in model.buffers():
            dist.broadcast(each, 0)


def own_seed(seed: int, *position: int) -> int:
    """A seed of this rank's own, for dropout and its like."""
    state = np.random.SeedSequence([seed, rank(), *position]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
