"""Forward and backward of one step: its gradients, part by part, and its loss on the device."""

from __future__ import annotations

import torch
from torch import nn

from train.config.distributed import exchanged, rank, share_sizes
from train.method.models import training_mode
from train.method.objective import Target, micro_batches
from train.runs.session import Session


def images_of_step(session: Session) -> int:
    """Images of the global batch of this step: the last one of an epoch may be short."""
    batch_size, train = session.config.batch_size, session.train
    return min(batch_size, train.samples_per_epoch - session.done.step * batch_size)


def add_gradients(
    session: Session, images: torch.Tensor, target: Target, weight: float
) -> torch.Tensor:
    """Forward and backward, part by part; the loss of the batch, on the device.

    Args:
        session: Whose network.
        images: This process's share of the batch.
        target: What is asked of them.
        weight: Of the share among those of all processes, whose gradients are averaged.
    """
    loss = torch.zeros((), device=session.resolved.device)
    parts = list(micro_batches(images, target, session.resolved.micro_batch))
    for number, (part, asked_of_it, share) in enumerate(parts, 1):
        network = _network_for(session, len(part))
        with exchanged(network, number == len(parts)):
            with session.resolved.autocast():
                part_loss = share * weight * session.objective.loss(network(part), asked_of_it)
            session.scaler.scale(part_loss).backward()  # type: ignore[no-untyped-call]
        loss += part_loss.detach()
    return loss


def add_no_gradients(session: Session) -> torch.Tensor:
    """Take part in the exchange without a share of a short batch; the loss is 0.

    The blank image stands for none: it must not count in the statistics of batch normalisation.
    """
    side = session.done.image_size
    blank = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=session.resolved.device)
    session.network.eval()
    logits = _network_for(session, 1)(blank.contiguous(memory_format=torch.channels_last))
    training_mode(session.network, freeze_norm=session.config.freeze_norm)
    session.scaler.scale(logits.float().sum() * 0.0).backward()
    return torch.zeros((), device=session.resolved.device)  # of the type of the others' loss


def _network_for(session: Session, images: int) -> nn.Module:
    """Compiled for the usual number of images alone: any other would need a graph of its own."""
    network = session.parallel
    if not session.resolved.compile:
        return network
    share = share_sizes(session.config.batch_size)[rank()]
    if images == min(share, session.resolved.micro_batch or share):
        return network
    plain: nn.Module = network._orig_mod  # type: ignore[assignment]
    return plain
