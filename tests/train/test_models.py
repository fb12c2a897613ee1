"""Models by name, and the normalisation in front of them."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torchvision.transforms import v2

from shards.errors import UserError
from train.config.recipes import create_recipe
from train.method.models import Classifier, create_model, list_archs, list_timm_archs

BASELINE = create_recipe("baseline")
MEAN, STD = BASELINE.mean, BASELINE.std
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")

META_CANNOT = "regnet"  # its builders read a value, which a meta tensor does not have


@pytest.fixture
def images() -> torch.Tensor:
    """``(4, 3, 32, 32)`` uint8 in channels_last memory, as loaders give them."""
    generator = torch.Generator().manual_seed(3)
    nhwc = torch.randint(256, (4, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return nhwc.permute(0, 3, 1, 2)


@pytest.fixture
def normalised(images: torch.Tensor) -> torch.Tensor:
    transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    result: torch.Tensor = transform(images)
    return result


def test_bytes_are_normalised_as_torchvision_does(
    images: torch.Tensor, normalised: torch.Tensor
) -> None:
    model = Classifier(nn.Identity(), MEAN, STD)
    torch.testing.assert_close(model(images), normalised, rtol=0, atol=1e-5)


def test_a_classifier_is_normalisation_and_backbone(
    images: torch.Tensor, normalised: torch.Tensor
) -> None:
    model = create_model("resnet18", 5, MEAN, STD).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images), model.backbone(normalised), rtol=1e-4, atol=1e-4)


def test_the_backbone_gets_floats_in_channels_last_memory(images: torch.Tensor) -> None:
    seen: list[torch.Tensor] = []
    model = Classifier(nn.Identity(), MEAN, STD)
    model.backbone.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model(images)
    assert seen[0].dtype == torch.float32
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_every_byte_value_is_told_apart() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    out = Classifier(nn.Identity(), MEAN, STD)(every)
    assert all(len(channel.unique()) == 256 for channel in out[0])


def test_weights_have_plain_torchvision_names(images: torch.Tensor) -> None:
    ours = create_model("resnet18", 3, MEAN, STD)
    plain = torchvision.models.resnet18(num_classes=3)
    assert list(ours.backbone.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(ours.backbone.state_dict(), strict=True)
    # The configuration holds mean and std; a checkpoint must not hold them twice.
    assert all(name.startswith("backbone.") for name in ours.state_dict())


def test_initial_weights_are_those_of_torchvision_at_the_same_seed() -> None:
    torch.manual_seed(11)
    ours = create_model("resnet18", 3, MEAN, STD).backbone.state_dict()
    torch.manual_seed(11)
    plain = torchvision.models.resnet18(num_classes=3).state_dict()
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


@pytest.mark.parametrize("arch", RESNETS)
def test_every_published_resnet_builds_and_runs(arch: str, images: torch.Tensor) -> None:
    model = create_model(arch, 7, MEAN, STD)
    model.eval()
    with torch.inference_mode():
        logits = model(images)
    assert logits.shape == (4, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
def test_architectures_with_extra_heads_return_one_tensor_in_training(arch: str) -> None:
    with torch.device("meta"):
        model = create_model(arch, 7, MEAN, STD).train()
        logits = model(torch.zeros(2, 3, 128, 128, dtype=torch.uint8))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", [name for name in list_archs() if not name.startswith(META_CANNOT)]
)
def test_every_architecture_returns_one_tensor_in_training(arch: str) -> None:
    with torch.device("meta"):
        model = create_model(arch, 7, MEAN, STD).train()
        logits = model(torch.zeros(2, 3, 224, 224, dtype=torch.uint8))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 7)


def test_an_unknown_architecture_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as refused:
        create_model("resnet5O", 3, MEAN, STD)
    message = refused.value.format_message()
    assert message.startswith("unknown arch 'resnet5O'; did you mean 'resnet50'?")
    everything = len(list_archs()) + len(list_timm_archs())
    assert f"`python -m train --list-archs` shows all {everything:,}" in message


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("tf_efficientnet_lit0", "tf_efficientnet_lite0"), ("timm:resnet5O", "timm:resnet50")],
)
def test_an_unknown_name_of_timm_is_refused_with_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UserError) as refused:
        create_model(wrong, 3, MEAN, STD)
    message = refused.value.format_message()
    assert message.startswith(f"unknown arch '{wrong}'; did you mean '{nearest}'?")


def test_a_plain_name_is_torchvisions_and_with_the_prefix_timms() -> None:
    with torch.device("meta"):
        plain, of_timm = (
            create_model(name, 3, MEAN, STD).backbone for name in ("resnet18", "timm:resnet18")
        )
        only_timm = create_model("resnet10t", 3, MEAN, STD).backbone
    assert type(plain) is torchvision.models.ResNet
    assert type(of_timm) is type(only_timm) is not type(plain)
    assert {"timm:resnet18", "resnet10t"} <= set(list_timm_archs())
    assert not set(list_archs()) & set(list_timm_archs())


def test_the_list_holds_classification_models_alone() -> None:
    archs = list_archs()
    assert {*RESNETS, "vit_b_16", "efficientnet_b0"} <= set(archs)
    assert not [name for name in archs if "rcnn" in name or "deeplab" in name or "r3d" in name]


def depth_probabilities(model: Classifier) -> list[float]:
    """With which each residual branch is left out, in the order of the network."""
    found = [
        getattr(module, "p", getattr(module, "drop_prob", None))
        for module in model.backbone.modules()
        if type(module).__name__ in ("StochasticDepth", "DropPath")
    ]
    assert None not in found
    return [float(each) for each in found if each is not None]


@pytest.mark.parametrize("arch", ["convnext_tiny", "efficientnet_b0", "timm:resnet18"])
def test_stochastic_depth_rises_from_nothing_to_what_was_asked(arch: str) -> None:
    with torch.device("meta"):
        model = create_model(arch, 3, MEAN, STD, stochastic_depth=0.25)
    found = depth_probabilities(model)
    assert found == sorted(found)
    assert max(found) == pytest.approx(0.25, rel=0.1)  # torchvision's EfficientNet ends below it
    assert len(set(found)) > 2


def test_without_it_an_architecture_has_its_own_stochastic_depth() -> None:
    with torch.device("meta"):
        own = depth_probabilities(create_model("convnext_tiny", 3, MEAN, STD))
        none = depth_probabilities(
            create_model("convnext_tiny", 3, MEAN, STD, stochastic_depth=0.0)
        )
    assert max(own) == pytest.approx(0.1)
    assert set(none) == {0.0}


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_with_zero_init_a_residual_network_begins_without_its_branches(arch: str) -> None:
    last = "bn3" if arch == "resnet50" else "bn2"
    plain, zero = (
        {
            name: module.weight
            for name, module in create_model(arch, 3, MEAN, STD, zero_init=each).named_modules()
            if name.endswith(last)
        }
        for each in (False, True)
    )
    assert len(zero) == (16 if arch == "resnet50" else 8)
    assert all(bool((each == 0).all()) for each in zero.values())
    assert all(bool((each == 1).all()) for each in plain.values())


@pytest.mark.parametrize(
    ("arch", "asked", "message"),
    [
        (
            "resnet50",
            {"stochastic_depth": 0.1},
            "resnet50 of torchvision has no stochastic depth (--stochastic-depth); drop it, or choose "
            "another --arch, such as convnext_tiny, efficientnet_b0, timm:resnet50",
        ),
        (
            "timm:vgg11",
            {"stochastic_depth": 0.1},
            "timm:vgg11 of timm has no stochastic depth (--stochastic-depth); drop it, or choose "
            "another --arch, such as convnext_tiny, efficientnet_b0, timm:resnet50",
        ),
        (
            "convnext_tiny",
            {"zero_init": True},
            "convnext_tiny of torchvision has no last norm to begin at 0 (--zero-init); drop it, or "
            "choose another --arch, such as resnet50, timm:resnet50",
        ),
    ],
)
def test_what_an_architecture_lacks_is_refused_with_some_that_have_it(
    arch: str, asked: dict[str, float | bool], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        create_model(arch, 3, MEAN, STD, **asked)  # type: ignore[arg-type]
    assert refused.value.format_message() == message
