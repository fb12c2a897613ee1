"""Where on a photograph the model looked: Grad-CAM, from the library captum.

The last map of features before pooling is weighted, channel by channel, by how much each raises the
logit of the class that was said (Selvaraju et al., "Grad-CAM", arXiv:1610.02391).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from torch import nn

from shards.errors import UserError
from shards.writer import write_file
from train.config.resolve import Resolved

OPACITY = 0.6
"""Of the colours where the map is highest; where it is 0 the photograph shows alone."""
QUALITY = 90
NAME_LENGTH = 50
"""Characters of a photograph's name in that of its overlay: of at most four bytes each."""
POOLING = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.MaxPool2d)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Explainer:
    """Draws what made a model say what it said."""

    network: nn.Module
    """Takes uint8 images, returns logits; in evaluation mode, not compiled."""
    layer: nn.Module
    """Whose output is looked at."""
    resolved: Resolved

    def heat(self, images: torch.Tensor) -> npt.NDArray[np.float32]:
        """Grad-CAM of the most probable class of each image.

        Args:
            images: ``(B, 3, S, S)`` uint8.

        Returns:
            ``(B, S, S)`` in [0, 1], each image's highest value 1; all 0 where nothing speaks for it.
        """
        from captum.attr import LayerGradCam

        shown = images.to(self.resolved.device)
        with self.resolved.autocast():
            with torch.no_grad():
                labels = self.network(shown).argmax(1)
            coarse = LayerGradCam(self.network, self.layer).attribute(
                shown, labels, relu_attributions=True
            )
        maps = coarse.detach().float().cpu().numpy()[:, 0]
        side = images.shape[-1]
        heat = np.stack(
            [cv2.resize(each, (side, side), interpolation=cv2.INTER_CUBIC) for each in maps]
        )
        heat = np.clip(heat, 0, None)
        highest = heat.max((1, 2), keepdims=True)
        return np.asarray(heat / np.where(highest > 0, highest, 1), np.float32)

    def overlays(self, images: torch.Tensor) -> list[Pixels]:
        """``(S, S, 3)`` RGB each: the images with their heat over them."""
        pixels = images.permute(0, 2, 3, 1).numpy()
        return [overlay(each, heat) for each, heat in zip(pixels, self.heat(images), strict=True)]


def overlay(pixels: Pixels, heat: npt.NDArray[np.float32]) -> Pixels:
    """A photograph, in grey so that no colour of its own passes for heat, under a map of heat.

    Args:
        pixels: ``(H, W, 3)`` RGB.
        heat: ``(H, W)`` in [0, 1].
    """
    levels = np.asarray(np.rint(heat * 255), np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    share = OPACITY * heat[..., None]
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    return np.asarray(np.rint(grey * (1 - share) + colours * share), np.uint8)


def explainer(network: nn.Module, arch: str, image_size: int, resolved: Resolved) -> Explainer:
    """Find the layer to look at.

    Args:
        network: Takes uint8 images, returns logits; not compiled. Its weights stop taking gradients.
        arch: Its name, for the message.
        image_size: Side of the images [px].
        resolved: Device and precision.

    Raises:
        UserError: The library is missing, or the network has no such layer.
    """
    try:
        import captum  # noqa: F401
    except ImportError:
        raise UserError("captum is not installed; pip install 'hyphae[explain]'") from None
    # So nothing is kept of the layers before the one that is looked at.
    network = network.eval().requires_grad_(False)
    layer = last_map(network, image_size, resolved)
    if layer is None:
        raise UserError(
            f"--explain needs a network that pools a map of features at its end, which {arch} does not "
            "at this size; ResNets, ConvNeXts and EfficientNets do"
        )
    return Explainer(network, layer, resolved)


def last_map(network: nn.Module, image_size: int, resolved: Resolved) -> nn.Module | None:
    """The module that makes the last map of features, if after it there are pooled vectors alone.

    A map is ``(B, C, h, w)`` with h = w > 1, as the image is a square. Tokens, ``(B, N, C)`` or
    ``(B, h, w, C)``, are no map: the last one before them would be that of the embedded patches.
    """
    found: nn.Module | None = None

    def look(module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal found
        if not isinstance(output, torch.Tensor) or output.ndim < 3:
            return
        height, width = output.shape[-2:]
        if output.ndim == 4 and height == width == 1:
            return
        if output.ndim == 4 and height == width:
            found = found if isinstance(module, POOLING) and found is not None else module
        else:
            found = None

    hooks = [each.register_forward_hook(look) for each in network.modules()]
    image = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=resolved.device)
    try:
        with torch.no_grad(), resolved.autocast():
            network(image)
    finally:
        for each in hooks:
            each.remove()
    return found


@dataclass(slots=True)
class OverlayFiles:
    """Writes overlays into a folder, numbered as the answers are."""

    folder: Path
    written: int = 0

    def add(self, photo: Path, pixels: Pixels) -> None:
        """Write the overlay of the next answer."""
        self.written += 1
        name = re.sub(r"[^\w.-]+", "_", photo.stem)[:NAME_LENGTH]
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), QUALITY, "RGB")
        write_file(self.folder / f"{self.written:05d}-{name}.jpg", data)
