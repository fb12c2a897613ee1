"""The course's own checkpoints: reading them without its libraries, and writing what it reads.

Lightning saves the whole program's state; its weights lie in ``state_dict`` under ``net.conv1.weight``,
or ``net._orig_mod.conv1.weight`` where the network was compiled, as the baseline always is. The
course's other scripts save ``{"model_state_dict": ..., "labels": ...}`` or plain torchvision names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import torch

from shards.errors import UserError
from train.checkpoints.checkpoint import (
    MARK,
    Checkpoint,
    Progressed,
    TrainedOn,
    check_archive,
    load_checkpoint,
)
from train.checkpoints.stub_unpickler import load_inert
from train.checkpoints.weights import Weights, check_finite, key_report, shown
from train.config.recipes import create_recipe
from train.method.models import create_model
from train.scores.published import published_class_names, published_table

PREFIXES = re.compile(r"^(?:(?:net|model|module|_orig_mod)\.)+")
"""What Lightning, ``torch.compile`` and ``DistributedDataParallel`` put before a name."""
HOLDERS = ("state_dict", "model_state_dict")
LIGHTNING_VERSION = "2.5.2"
"""The course's; Lightning looks at it to bring older files up to date."""

# Blocks of each stage, whether of three convolutions, outputs of the first and inputs of the second
# convolution of the first block: what tells torchvision's ResNets apart.
Shape = tuple[tuple[int, ...], bool, int, int]
RESNETS: dict[Shape, str] = {
    ((2, 2, 2, 2), False, 64, 64): "resnet18",
    ((3, 4, 6, 3), False, 64, 64): "resnet34",
    ((3, 4, 6, 3), True, 64, 64): "resnet50",
    ((3, 4, 23, 3), True, 64, 64): "resnet101",
    ((3, 8, 36, 3), True, 64, 64): "resnet152",
    ((3, 4, 6, 3), True, 128, 128): "wide_resnet50_2",
    ((3, 4, 23, 3), True, 128, 128): "wide_resnet101_2",
    ((3, 4, 6, 3), True, 128, 4): "resnext50_32x4d",
    ((3, 4, 23, 3), True, 256, 8): "resnext101_32x8d",
    ((3, 4, 23, 3), True, 256, 4): "resnext101_64x4d",
}


@dataclass(frozen=True, slots=True)
class CourseCheckpoint:
    """A network that the course trained."""

    path: Path
    arch: str
    num_classes: int
    class_names: tuple[str, ...] | None
    """Where the file names them."""
    weights: Weights
    """Under torchvision's own names."""
    prefix: str
    """What stood before those names."""

    def __str__(self) -> str:
        under = f" under {self.prefix}*" if self.prefix else ""
        order = (
            "" if self._known_names() else "; it names no classes: the shard set's order is taken"
        )
        return (
            f"{self.path}: {self.arch}, {self.num_classes} classes, all {len(self.weights)} tensors "
            f"accounted for{under}{order}"
        )

    def on(self, class_names: tuple[str, ...], source: TrainedOn) -> Checkpoint:
        """As a checkpoint of a ``baseline`` run on a shard set.

        Raises:
            UserError: The set has other classes, or others at the same places.
        """
        _check_classes(
            self.path, self.num_classes, self._known_names(), class_names, source.directory
        )
        return Checkpoint(
            config=replace(create_recipe("baseline"), arch=self.arch),
            resolved={},
            class_names=class_names,
            shards=source,
            order_hash="",
            versions={},
            model=self.weights,
            progress=Progressed(),
        )

    def _known_names(self) -> tuple[str, ...] | None:
        published = published_class_names()
        if self.class_names is None and self.num_classes == len(published):
            return published
        return self.class_names


def read_course_checkpoint(path: Path) -> CourseCheckpoint:
    """Read a ``.ckpt`` or ``.pth`` of the course; nothing in it is executed.

    Raises:
        UserError: No such file, damaged, no network's weights in it, or one that is no ResNet of
            torchvision; the message names the tensors that do not fit.
    """
    return _course_checkpoint(path, _content(path))


def load_trained(path: Path) -> Checkpoint | CourseCheckpoint:
    """Read a checkpoint of hyphae or of the course onto the CPU.

    Raises:
        UserError: It is neither, or damaged.
    """
    content = _content(path)
    if isinstance(content, dict) and MARK in content:
        return load_checkpoint(path)
    return _course_checkpoint(path, content)


def _content(path: Path) -> Any:
    check_archive(path)
    return load_inert(path)


def _course_checkpoint(path: Path, content: Any) -> CourseCheckpoint:
    held = content
    if isinstance(content, dict):
        held = next((content[name] for name in HOLDERS if name in content), content)
    if not isinstance(held, dict) or not held or not all(
        isinstance(name, str) and isinstance(each, torch.Tensor) for name, each in held.items()
    ):  # fmt: skip
        raise UserError(
            f"{path} holds no weights: expected names and tensors, by themselves or under "
            f"{' or '.join(HOLDERS)}"
        )
    weights = {PREFIXES.sub("", name): each.detach().clone() for name, each in held.items()}
    if len(weights) != len(held):
        raise UserError(f"{path} holds some weights twice, under {_prefixes(held)}")
    arch, num_classes = infer_arch(weights, path)
    with torch.device("meta"):
        wanted = create_model(arch, num_classes, (0.0,) * 3, (1.0,) * 3).backbone.state_dict()
    if report := key_report(wanted, weights):
        raise UserError(f"{path} does not fit {arch}: {report}")
    check_finite(weights, str(path))
    labels = content.get("labels") if held is not content else None
    names = tuple(labels) if _is_names(labels) else None
    if names is not None and len(names) != num_classes:
        raise UserError(f"{path} names {len(names)} classes, its network has {num_classes}")
    return CourseCheckpoint(path, arch, num_classes, names, weights, _prefixes(held))


def infer_arch(weights: Weights, path: Path) -> tuple[str, int]:
    """The ResNet and its number of classes, from names and shapes alone.

    Raises:
        UserError: It is no ResNet of torchvision.
    """
    last = weights.get("fc.weight")
    if last is None or last.dim() != 2 or "layer1.0.conv1.weight" not in weights:
        some = ", ".join(map(shown, list(weights)[:4]))
        raise UserError(
            f"{path} holds no ResNet: no conv1, layer1 and fc, but {some}, ...; to start from other "
            "weights, pass their file with --weights"
        )
    blocks = tuple(
        len({name.split(".")[1] for name in weights if name.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    bottleneck = "layer1.0.conv3.weight" in weights
    first, second = (weights.get(f"layer1.0.conv{n}.weight", last) for n in (1, 2))
    for each in (first, second):
        if each.dim() != 4:
            raise UserError(
                f"{path} holds no ResNet: a convolution of layer1 has shape {tuple(each.shape)}, "
                "expected four dimensions"
            )
    if not last.shape[0]:
        raise UserError(f"{path} tells no classes apart: fc.weight has shape {tuple(last.shape)}")
    shape: Shape = (blocks, bottleneck, first.shape[0], second.shape[1])
    if shape not in RESNETS:
        raise UserError(
            f"{path} holds a ResNet that torchvision does not have: {blocks} blocks of "
            f"{3 if bottleneck else 2} convolutions, the first {first.shape[0]} wide"
        )
    return RESNETS[shape], last.shape[0]


def _check_classes(
    path: Path,
    count: int,
    known: tuple[str, ...] | None,
    found: tuple[str, ...],
    source: str,
) -> None:
    if count != len(found):
        raise UserError(
            f"{path} tells {count} classes apart, {source} has {len(found)}; pass the shard set of "
            "its own classes with --shards"
        )
    pairs = enumerate(zip(known or found, found, strict=True))
    wrong = next(((at, *pair) for at, pair in pairs if pair[0] != pair[1]), None)
    if wrong is not None:
        at, theirs, ours = wrong
        raise UserError(
            f"class {at} is {theirs!r} to {path} and {ours!r} in {source}: the order differs, so "
            "every score would be wrong; pack with the checkpoint's own class list"
        )


def _is_names(labels: Any) -> TypeGuard[Sequence[str]]:
    return isinstance(labels, list | tuple) and all(isinstance(each, str) for each in labels)


def _prefixes(held: dict[str, Any]) -> str:
    found = {match[0] if (match := PREFIXES.match(name)) else "" for name in held}
    return " and ".join(sorted(found))


def lightning_content(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the course's own ``eval.py`` loads: ``net.*`` keys, as its network is not compiled there.

    Raises:
        UserError: The architecture is not one of the course's, or it ends in prototypes.
    """
    arch = checkpoint.config.arch
    if arch not in published_table():
        raise UserError(
            f"the course has no {arch}; --format lightning is for {', '.join(published_table())}"
        )
    if checkpoint.config.hierarchy_loss == "prototypes":
        raise UserError(
            "the course's network ends in a linear layer, this one in prototypes; choose --format onnx, "
            "torch-export or safetensors"
        )
    progress = checkpoint.progress
    return {
        "epoch": progress.epoch,
        "global_step": -(-progress.samples_seen // checkpoint.config.batch_size),
        "pytorch-lightning_version": LIGHTNING_VERSION,
        "state_dict": {f"net.{name}": each for name, each in checkpoint.model.items()},
        "labels": list(checkpoint.class_names),
    }
