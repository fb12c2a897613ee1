"""A trained model as a file for other programs: ONNX, torch.export, safetensors.

ONNX and torch.export files take uint8 images that are already cropped and give calibrated
probabilities; normalisation and temperature are inside. What comes before (size, crop) and the class
names are in the file's metadata. A safetensors file holds the weights, and all of that as metadata.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from shards.errors import JobError, UserError
from train.checkpoints.checkpoint import Checkpoint, model_from_checkpoint
from train.config.resolve import Resolved
from train.method.batches import eval_config
from train.method.models import create_model
from train.method.prototypes import use_prototypes

Runner = Callable[[torch.Tensor], torch.Tensor]
"""``(B, 3, S, S)`` uint8 -> ``(B, K)`` probabilities, by the program that the file is for."""

MOST_APART = 1e-3
"""By which a probability may differ before an export counts as failed; 1e-6 is usual."""


class Deployed(nn.Module):
    """A classifier with calibrated probabilities for logits."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, S, S)`` uint8 RGB -> ``(B, K)`` probabilities."""
        logits: torch.Tensor = self.model(images)
        return (logits / self.temperature).softmax(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What is exported."""

    module: Deployed
    metadata: dict[str, str]
    """All values are JSON."""
    image_size: int


def deployment(saved: Checkpoint, file: Path, resolved: Resolved) -> Deployment:
    """The model of a checkpoint in float32 on the CPU, and what a user of the file has to know.

    Raises:
        UserError: The weights are not those of the architecture.
    """
    shown = eval_config(saved.config, resolved, Path(), "test")
    temperature = saved.progress.temperature or 1.0
    packing = saved.shards.packing
    about = {
        "arch": saved.config.arch,
        "last_layer": "prototypes" if saved.config.hierarchy_loss == "prototypes" else "linear",
        "class_names": saved.class_names,
        "input": f"images: (batch, 3, {shown.image_size}, {shown.image_size}) uint8 RGB",
        "preprocessing": {
            "shorter_side": shown.eval_resize,
            "resize": "bilinear, antialiased",
            "central_crop": shown.image_size,
            "stored_as": None if packing is None else asdict(packing),
        },
        "mean": saved.config.mean,
        "std": saved.config.std,
        "temperature": temperature,
        "calibrated": bool(saved.progress.temperature),
        "sure": 0.5,
        "shard_set": saved.shards.fingerprint,
    }
    module = Deployed(model_from_checkpoint(saved, file), temperature).eval()
    return Deployment(
        module=module,
        metadata={name: json.dumps(value) for name, value in about.items()},
        image_size=shown.image_size,
    )


def export_onnx(deployed: Deployment, target: Path) -> Runner:
    """Write an ONNX file with a free batch size; it runs in onnxruntime alone.

    Raises:
        UserError: The libraries for it are not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install 'hyphae[export]'") from None
    with warnings.catch_warnings(action="ignore"):  # of torch's exporter, about itself
        program = torch.onnx.export(
            deployed.module,
            (_example(deployed),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images"],
            output_names=["probabilities"],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, deployed.metadata)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> torch.Tensor:
        (found,) = session.run(None, {"images": np.ascontiguousarray(images.numpy())})
        return torch.from_numpy(np.asarray(found))

    return run


def export_torch(deployed: Deployment, target: Path) -> Runner:
    """Write what ``torch.export.load`` reads, with a free batch size; metadata in an extra file."""
    program = torch.export.export(
        deployed.module, (_example(deployed),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    extra = {"metadata.json": json.dumps(deployed.metadata)}
    torch.export.save(program, str(target), extra_files=extra)
    module = torch.export.load(str(target)).module()
    return lambda images: torch.as_tensor(module(images))


def export_safetensors(deployed: Deployment, target: Path) -> Runner:
    """Write the weights under their own names, the rest as metadata."""
    from safetensors.torch import load_file, save

    weights = deployed.module.model.backbone.state_dict()  # type: ignore[union-attr]
    tensors = {name: each.contiguous() for name, each in weights.items()}
    target.write_bytes(save(tensors, deployed.metadata))  # its save_file lets only the owner read
    about = {name: json.loads(value) for name, value in deployed.metadata.items()}
    model = create_model(about["arch"], len(about["class_names"]), about["mean"], about["std"])
    if about["last_layer"] == "prototypes":
        use_prototypes(model.backbone, len(about["class_names"]))
    model.backbone.load_state_dict(load_file(target), strict=True)
    return Deployed(model, about["temperature"]).eval()


EXPORTERS: dict[str, Callable[[Deployment, Path], Runner]] = {
    "onnx": export_onnx,
    "torch-export": export_torch,
    "safetensors": export_safetensors,
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of an exported file with PyTorch."""

    images: int
    flips: int
    """Images that get another label."""
    apart: float
    """The largest difference of any probability."""

    def check(self, target: Path) -> None:
        """Raise :class:`JobError` where the file is not the model."""
        if self.flips or not self.apart <= MOST_APART:
            raise JobError(
                f"{target} disagrees with PyTorch: {self.flips} of {self.images} photographs get "
                f"another label, probabilities differ by up to {self.apart:.2g}; do not use it"
            )


@torch.inference_mode()
def compare_with(runner: Runner, deployed: Deployment, batches: list[torch.Tensor]) -> Agreement:
    """Run the file and the model over the same images.

    Args:
        runner: Of the file.
        deployed: The model.
        batches: ``(B, 3, S, S)`` uint8 each, of any sizes.
    """
    images = flips = 0
    apart = 0.0
    for batch in batches:
        expected, found = deployed.module(batch), runner(batch)
        images += len(batch)
        flips += int((expected.argmax(1) != found.argmax(1)).sum())
        apart = max(apart, float((expected - found).abs().max()))
    return Agreement(images, flips, apart)


def _example(deployed: Deployment) -> torch.Tensor:
    return torch.zeros(2, 3, deployed.image_size, deployed.image_size, dtype=torch.uint8)
