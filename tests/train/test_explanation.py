"""Overlays show what raised a class, for every network that ends in a map of features."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from shards.errors import UserError
from train.config.resolve import Resolved, resolve
from train.inference.explanation import OverlayFiles, explainer, last_map, overlay
from train.method.models import create_model

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
SIDE = 64


@pytest.fixture
def resolved(make_config) -> Resolved:
    return resolve(make_config())


class RedOrBlue(nn.Module):
    """Two channels, one bright where the image is red, one where it is blue; two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 2, 4, stride=4)
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.look.weight.zero_()
            self.look.weight[0, 0] = self.look.weight[1, 2] = 1 / 16
            self.look.bias.zero_()
            self.head.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
            self.head.bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` uint8 -> ``(B, 2)``."""
        logits: torch.Tensor = self.head(self.look(images.float() / 255).mean((2, 3)))
        return logits


def test_the_heat_lies_where_the_class_is_and_nowhere_else(resolved: Resolved) -> None:
    images = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    images[0, 0, :16, :16] = 255  # red, top left
    images[0, 2, 48:, 48:] = 128  # some blue, which speaks against red
    images[1, 2, 40:, :24] = 255  # blue, bottom left
    heat = explainer(RedOrBlue(), "red-or-blue", SIDE, resolved).heat(images)
    assert heat.shape == (2, SIDE, SIDE)
    assert heat.max() == pytest.approx(1)
    for each, rows, columns in ((heat[0], slice(2, 14), slice(2, 14)),
                                (heat[1], slice(44, 62), slice(2, 20))):  # fmt: skip
        assert each[rows, columns].min() > 0.8
        elsewhere = each.copy()
        elsewhere[max(0, rows.start - 8) : rows.stop + 8, : columns.stop + 8] = 0
        assert elsewhere.max() < 0.05


def test_an_image_without_any_reason_has_no_heat(resolved: Resolved) -> None:
    black = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    heat = explainer(RedOrBlue(), "red-or-blue", SIDE, resolved).heat(black)
    assert np.array_equal(heat, np.zeros((1, SIDE, SIDE), np.float32))


def test_an_image_gets_the_same_heat_in_any_batch(resolved: Resolved) -> None:
    network = explainer(create_model("tinynet", 5, MEAN, STD), "tinynet", SIDE, resolved)
    images = torch.randint(
        256, (3, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    together = network.heat(images)
    for at in range(3):
        np.testing.assert_allclose(network.heat(images[at : at + 1])[0], together[at], atol=1e-4)


def test_where_there_is_no_heat_the_photograph_shows_alone_in_grey() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    heat = np.zeros((4, 6), np.float32)
    heat[1, 2] = 1
    drawn = overlay(pixels, heat)
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    changed = (abs(drawn - grey[..., None]) > 1).any(2)
    assert changed[1, 2]
    assert changed.sum() == 1


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("resnet18", "backbone.layer4"),
        ("tinynet", "backbone.4"),
        pytest.param("convnext_tiny", "backbone.features", marks=pytest.mark.slow),
        pytest.param("tf_efficientnet_lite0", "backbone.bn2", marks=pytest.mark.slow),
        pytest.param("resnet101", "backbone.layer4", marks=pytest.mark.slow),
        pytest.param("resnext50_32x4d", "backbone.layer4", marks=pytest.mark.slow),
        pytest.param("densenet121", "backbone.features", marks=pytest.mark.slow),
        pytest.param("mobilenet_v3_small", "backbone.features", marks=pytest.mark.slow),
        pytest.param("swin_t", "backbone.permute", marks=pytest.mark.slow),
        pytest.param("timm:resnet18", "backbone.layer4", marks=pytest.mark.slow),
        pytest.param("convnext_atto", "backbone.norm_pre", marks=pytest.mark.slow),
        pytest.param("regnety_002", "backbone.final_conv", marks=pytest.mark.slow),
    ],
)
def test_the_last_map_of_features_is_found(arch: str, name: str, resolved: Resolved) -> None:
    model = create_model(arch, 5, MEAN, STD).eval()
    layer = last_map(model, SIDE, resolved)
    assert [each for each, module in model.named_modules() if module is layer] == [name]
    images = torch.randint(256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
    assert np.isfinite(explainer(model, arch, SIDE, resolved).heat(images)).all()


@pytest.mark.parametrize(
    "arch", ["vit_tiny_patch16_224", pytest.param("mixer_s16_224", marks=pytest.mark.slow)]
)
def test_a_network_without_a_last_map_is_refused(arch: str, resolved: Resolved) -> None:
    with pytest.raises(UserError) as raised:
        explainer(create_model(arch, 5, MEAN, STD), arch, 224, resolved)
    assert str(raised.value) == (
        f"--explain needs a network that pools a map of features at its end, which {arch} does not "
        "at this size; ResNets, ConvNeXts and EfficientNets do"
    )


def test_a_missing_library_is_named(resolved: Resolved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(
        UserError, match=r"^captum is not installed; pip install 'hyphae\[explain\]'$"
    ):
        explainer(RedOrBlue(), "red-or-blue", SIDE, resolved)


@pytest.mark.parametrize(
    ("photo", "name"),
    [
        ("a/b c.jpg", "00001-b_c.jpg"),
        ("line\nbreak \U0001f344.png", "00001-line_break_.jpg"),
        ("not utf8 \udcff.jpg", "00001-not_utf8_.jpg"),
        ("\u8611" * 80 + ".jpg", "00001-" + "\u8611" * 50 + ".jpg"),
        ("..jpg", "00001-..jpg"),
    ],
)
def test_an_overlay_is_named_after_its_photograph(tmp_path: Path, photo: str, name: str) -> None:
    files = OverlayFiles(tmp_path)
    files.add(Path(photo), np.zeros((8, 8, 3), np.uint8))
    assert [each.name for each in tmp_path.glob("*-*")] == [name]
