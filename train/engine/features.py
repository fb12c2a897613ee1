"""Features of a frozen network: what its last layer sees, once for every photograph."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from loaders.batch import Loader
from shards.errors import UserError
from shards.progress import Progress
from shards.writer import atomic_file
from train.config.resolve import Resolved
from train.engine.logistic import Samples
from train.method.models import Classifier, classifier_layer

Network = Callable[[torch.Tensor], torch.Tensor]
"""``(B, 3, H, W)`` uint8 -> ``(B, D)`` float32."""
OPSET = 17
TOLERANCE = 1e-3
"""Largest difference between ONNX Runtime's features and torch's, over the largest feature."""


class Features(nn.Module):
    """The network without its last layer.

    Args:
        model: The whole classifier; it stays as it is.
        num_classes: Its K.
        resolved: Device and precision.
    """

    def __init__(self, model: Classifier, num_classes: int, resolved: Resolved) -> None:
        super().__init__()
        backbone = copy.deepcopy(model.backbone)
        last_layer(backbone, num_classes)
        backbone.set_submodule(classifier_layer(backbone, num_classes), nn.Identity())
        self._dtype = resolved.dtype
        self.backbone = backbone.to(resolved.device, self._dtype)
        self.register_buffer("scale", model.scale.to(resolved.device))
        self.register_buffer("shift", model.shift.to(resolved.device))
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` uint8 -> ``(B, D)`` float32."""
        # 16-bit weights from the start: casting them in every layer costs a third of the time.
        normalised = (images.to(self.scale.dtype) * self.scale + self.shift).to(self._dtype)
        features: torch.Tensor = self.backbone(normalised)
        return features.float()


class BytesInRows(nn.Module):
    """Takes images as a loader lays them out, ``(B, H, W, 3)`` uint8, so that nothing is copied."""

    def __init__(self, network: Features) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """``(B, H, W, 3)`` uint8 -> ``(B, D)`` float32."""
        features: torch.Tensor = self.network(rows.permute(0, 3, 1, 2))
        return features


def fast_network(
    model: Classifier, num_classes: int, image_size: int, resolved: Resolved
) -> tuple[Network, str]:
    """The quickest way to features on this machine, and what it is.

    On a CPU torch makes a pass over memory for every normalisation and activation, and ONNX Runtime does
    not. Where the CPU multiplies bf16, that is worth more for dense convolutions; depthwise ones have no
    matrix products to gain by it (docs/recipes.md has the speeds).
    """
    how = f"torch, {resolved.precision}"
    if resolved.device.type == "cpu" and (resolved.precision == "fp32" or has_depthwise(model)):
        try:
            exact = Features(model, num_classes, replace(resolved, precision="fp32"))
            return _onnx_network(exact, image_size, resolved.threads), "ONNX Runtime"
        except Exception as error:  # an operation that cannot be exported; torch knows them all
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            how += f" (ONNX Runtime cannot: {reason})"
    network = Features(model, num_classes, resolved)
    if resolved.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if resolved.compile:
        network.compile(dynamic=False)
    return network, how


def has_depthwise(model: nn.Module) -> bool:
    """Whether some convolution looks at each channel alone."""
    convolutions = (each for each in model.modules() if isinstance(each, nn.Conv2d))
    return any(each.groups == each.in_channels > 1 for each in convolutions)


def _onnx_network(network: Features, image_size: int, threads: int) -> Network:
    import onnxruntime

    # The exporter writes memory as it lies, whatever the strides say.
    network = network.to(memory_format=torch.contiguous_format)
    rows = torch.randint(256, (2, image_size, image_size, 3), dtype=torch.uint8)
    exported: Any = io.BytesIO()  # which torch writes to as well, whatever its annotation says
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        # The newer exporter takes half a minute, as long as the features of a small set.
        torch.onnx.export(
            BytesInRows(network).eval(),  # else the exporter leaves all of it in training mode
            (rows,),
            exported,
            dynamo=False,
            opset_version=OPSET,
            input_names=["rows"],
            output_names=["features"],
            dynamic_axes={"rows": {0: "batch"}, "features": {0: "batch"}},
        )
        expected = network(rows.permute(0, 3, 1, 2))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        exported.getvalue(), options, providers=["CPUExecutionProvider"]
    )

    def run(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(
            session.run(None, {"rows": images.permute(0, 2, 3, 1).contiguous().numpy()})[0]
        )

    error = (run(rows.permute(0, 3, 1, 2)) - expected).abs().max()
    if error > TOLERANCE * expected.abs().max():
        raise ValueError(f"its features differ by {error:.2g}")
    return run


def last_layer(backbone: nn.Module, num_classes: int) -> nn.Linear:
    """The linear layer that makes the logits.

    Raises:
        UserError: The network does not end in one.
    """
    name = classifier_layer(backbone, num_classes)
    layer = backbone.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise UserError(
            f"the last layer of {type(backbone).__name__} ({name}) is no linear one, so no head can be "
            "fitted to its features; choose another --arch"
        )
    return layer


@torch.inference_mode()
def extract(
    network: Network,
    loader: Loader,
    epoch: int,
    resolved: Resolved,
    label: str,
    after_batch: Callable[[], None],
) -> tuple[Samples, torch.Tensor]:
    """Features of every image of an epoch, and their ids; ``after_batch`` may raise."""
    features, labels, ids = [], [], []
    with (
        closing(loader.epoch(epoch)) as batches,
        Progress(label, loader.samples_per_epoch, "img") as progress,
    ):
        for batch in batches:
            features.append(network(batch.images))
            labels.append(batch.labels.clone())
            ids.append(batch.ids.clone())
            progress.update(len(batch))
            after_batch()
    return Samples(torch.cat(features), torch.cat(labels)), torch.cat(ids)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file of features has to hold to be those of a pass."""

    images: int
    width: int
    """D."""
    labels: torch.Tensor
    """``(N,)`` int64 of the split that is passed over, by id, on the CPU."""


def cached(
    file: Path,
    device: torch.device,
    expected: Expected | None,
    say: Callable[[str], None],
    make: Callable[[], tuple[Samples, torch.Tensor]],
    network: str = "the network",
) -> tuple[Samples, torch.Tensor]:
    """What ``make`` gives, from a file where a session before this one made it.

    Args:
        file: ``.npz``; one that is damaged is made anew.
        device: Where the result is wanted.
        expected: What it has to hold; None where that is not known beforehand.
        say: Takes a line about a damaged file.
        make: The features of a pass, and the ids of its images.
        network: Whose features they are, as a message calls it.

    Raises:
        UserError: Features are not finite.
    """
    if file.exists():
        try:
            return _read(file, device, expected)
        except Exception as error:  # a reader of spoiled bytes raises whatever it meets
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            say(f"{file} is damaged ({reason}), so this pass is made again")
    samples, ids = make()
    if not samples.features.isfinite().all():
        raise UserError(
            f"features are not finite: the weights of {network} are of no use here; give others, or "
            "try --precision fp32"
        )
    file.parent.mkdir(exist_ok=True)
    with atomic_file(file) as opened:
        np.savez(
            opened,
            features=samples.features.cpu().numpy(),
            labels=samples.labels.cpu().numpy(),
            ids=ids.cpu().numpy(),
        )
    return samples, ids


def _read(
    file: Path, device: torch.device, expected: Expected | None
) -> tuple[Samples, torch.Tensor]:
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
        features, labels, ids = (
            torch.from_numpy(content[name]) for name in ("features", "labels", "ids")
        )
    _check_arrays(features, labels, ids)
    if expected is not None:
        _check_pass(features, labels, ids, expected)
    return Samples(features.to(device), labels.to(device)), ids.to(device)


def _check_arrays(features: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> None:
    kinds = [(each.dtype, each.dim()) for each in (features, labels, ids)]
    if kinds != [(torch.float32, 2), (torch.int64, 1), (torch.int64, 1)]:
        raise ValueError("no vectors with a label and an id each")
    if not len(features) == len(labels) == len(ids):
        raise ValueError(f"{len(features)} features, {len(labels)} labels, {len(ids)} ids")
    if not features.isfinite().all():
        raise ValueError("no finite vectors")


def _check_pass(
    features: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor, expected: Expected
) -> None:
    if len(ids) != expected.images:
        raise ValueError(f"{len(ids)} images, not {expected.images}")
    if features.shape[1] != expected.width:
        raise ValueError(f"features of {features.shape[1]} numbers, not {expected.width}")
    # The ids first: beyond the split there are no labels to compare with.
    if ((ids < 0) | (ids >= len(expected.labels))).any() or (labels != expected.labels[ids]).any():
        raise ValueError("images of another split")
