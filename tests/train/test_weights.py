"""Pretrained weights: packages, local files, and what does not fit."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from shards.errors import UserError
from train.checkpoints.weights import (
    Weights,
    key_report,
    load_packaged,
    load_weights,
    packaged_file,
    read_weights,
)
from train.config.recipes import PACKAGED_MEAN, PACKAGED_STD
from train.method.models import classifier_layer, create_model

LITE0 = "tf_efficientnet_lite0"
TINY = "resnet10t"  # of timm, a megabyte or twenty


def refusal(*arguments: object, of: object) -> str:
    assert callable(of)
    with pytest.raises(UserError) as refused:
        of(*arguments)
    return refused.value.format_message()


@pytest.fixture(scope="module")
def lite0() -> torch.nn.Module:
    model = create_model(LITE0, 1000, PACKAGED_MEAN, PACKAGED_STD)
    load_packaged(model.backbone, LITE0, 1000)
    return model.eval()


def test_the_package_fits_timms_model_in_shape_and_order(lite0: torch.nn.Module) -> None:
    package, ours = read_weights(packaged_file(LITE0)), lite0.backbone.state_dict()
    assert len(package) == len(ours) == 296
    # Names differ, but an entry means the same: convolution, then the four of batch norm, ...
    same_parts = [
        (theirs.rpartition(".")[2], name.rpartition(".")[2])
        for theirs, name in zip(package, ours, strict=True)
    ]
    assert all(theirs == name for theirs, name in same_parts)
    assert all(
        torch.equal(theirs, each)
        for theirs, each in zip(package.values(), ours.values(), strict=True)
    )
    pairs = dict(zip(package, ours, strict=True))
    assert pairs["_conv_stem.weight"] == "conv_stem.weight"
    assert pairs["_blocks.0._depthwise_conv.weight"] == "blocks.0.0.conv_dw.weight"
    assert pairs["_blocks.15._project_conv.weight"] == "blocks.6.0.conv_pwl.weight"
    assert pairs["_fc.weight"] == "classifier.weight"


def test_features_equal_a_float64_reference(lite0: torch.nn.Module) -> None:
    images = torch.randint(256, (2, 3, 96, 96), generator=torch.Generator().manual_seed(1))
    exact = timm.create_model(LITE0, pretrained=False).double().eval()
    weights = read_weights(packaged_file(LITE0)).values()
    exact.load_state_dict(dict(zip(exact.state_dict(), weights, strict=True)))
    with torch.inference_mode():
        expected = exact.forward_head(
            exact.forward_features((images.double() - 127) / 128), pre_logits=True
        )
        backbone = lite0.backbone
        normalised = images.to(torch.uint8) * lite0.scale + lite0.shift
        found = backbone.forward_head(backbone.forward_features(normalised), pre_logits=True)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)


def test_a_package_with_another_number_of_classes_leaves_the_head_new() -> None:
    torch.manual_seed(2)
    model = create_model(LITE0, 5, PACKAGED_MEAN, PACKAGED_STD)
    head = model.backbone.classifier.weight.clone()
    assert str(load_packaged(model.backbone, LITE0, 5)) == ("294 tensors loaded; classifier is new")
    assert torch.equal(model.backbone.classifier.weight, head)


def test_an_architecture_without_a_package_says_what_to_do() -> None:
    assert refusal("resnet18", of=packaged_file) == (
        "no package holds weights of resnet18: give a file of its state dictionary with --weights "
        "FILE, or choose --arch tf_efficientnet_lite0, tf_efficientnet_lite1, tf_efficientnet_lite2"
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_local_file_fills_the_model(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    source = create_model(TINY, 3, PACKAGED_MEAN, PACKAGED_STD).backbone.state_dict()
    save_file(source, path) if suffix == ".safetensors" else torch.save(source, path)
    backbone = create_model(TINY, 3, PACKAGED_MEAN, PACKAGED_STD).backbone
    loaded = load_weights(backbone, read_weights(path), 3, str(path))
    assert (loaded.tensors, loaded.new_head) == (len(source), None)
    assert all(torch.equal(each, source[name]) for name, each in backbone.state_dict().items())


def test_what_does_not_fit_is_named() -> None:
    backbone = create_model("resnet18", 3, PACKAGED_MEAN, PACKAGED_STD).backbone
    weights: Weights = dict(backbone.state_dict())
    weights["extra"] = weights.pop("bn1.bias")
    weights["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    assert refusal(backbone, weights, 3, "a.pt", of=load_weights) == (
        "a.pt does not fit ResNet: 1 missing (bn1.bias); 1 unexpected (extra); 1 of another shape "
        "(conv1.weight (64, 3, 3, 3), expected (64, 3, 7, 7))"
    )
    many = {f"layer{n}": torch.zeros(1) for n in range(9)}
    assert key_report(many, {}) == "9 missing (layer0, layer1, layer2, layer3, ...)"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_are_refused_by_name(value: float) -> None:
    backbone = create_model("resnet18", 3, PACKAGED_MEAN, PACKAGED_STD).backbone
    weights = {name: each.clone() for name, each in backbone.state_dict().items()}
    weights["layer1.0.bn1.running_var"][3] = value
    assert refusal(backbone, weights, 3, "a.pt", of=load_weights) == (
        "a.pt is of no use: 1 of its tensors hold values that are no finite numbers "
        "(layer1.0.bn1.running_var); give other weights"
    )


class RunsACommand:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_a_file_that_would_run_a_command_does_not(tmp_path: Path) -> None:
    path, proof = tmp_path / "bad.pt", tmp_path / "ran"
    torch.save({"a": RunsACommand(f"touch {proof}")}, path)
    assert "could run code" in refusal(path, of=read_weights)
    assert not proof.exists()


def test_a_file_nested_deep_enough_to_end_the_interpreter_is_refused(tmp_path: Path) -> None:
    evil = b"\x80\x02}K\x01" + b"\x85" * 1_000_000 + b"K\x01s."
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        files = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, evil if name.endswith("data.pkl") else content)
    torch.save({}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "old.pt").read_bytes()
    nothing = content.rindex(b"}q\x00.")  # the empty dictionary, the fourth of its pickles
    (tmp_path / "old.pt").write_bytes(content[:nothing] + evil[2:])
    for path in (tmp_path / "zip.pt", tmp_path / "old.pt"):
        assert "it nests tuples more than 100 deep" in refusal(path, of=read_weights)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.ones(64, dtype=torch.int64), "torch.int64"),
        (torch.ones(64, dtype=torch.complex64), "torch.complex64"),
        (torch.ones(64).to_sparse(), "torch.float32"),
        (torch.ones(64, device="meta"), "torch.float32"),
    ],
)
def test_numbers_that_no_weight_can_be_are_refused(tensor: torch.Tensor, kind: str) -> None:
    resnet = torchvision.models.resnet18(num_classes=3)
    weights = resnet.state_dict() | {"bn1.bias": tensor}
    with pytest.raises(UserError) as refused:
        load_weights(resnet, weights, 3, "a.pt")
    assert f"1 of another type (bn1.bias {kind})" in refused.value.format_message()
    halves = {name: each.half() for name, each in resnet.state_dict().items()}
    assert load_weights(resnet, halves, 3, "a.pt").tensors == 122


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04" + bytes(40)])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = refusal(path, of=read_weights)
    assert str(path) in message
    assert "\n" not in message


def test_a_missing_file_and_a_file_of_other_things_are_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.pt", of=read_weights) == f"no weights file {tmp_path / 'a.pt'}"
    torch.save({"epoch": 3}, tmp_path / "b.pt")
    assert refusal(tmp_path / "b.pt", of=read_weights) == (
        f"{tmp_path / 'b.pt'} is no state dictionary: expected names and tensors alone"
    )


@pytest.mark.parametrize(
    ("arch", "layer"),
    [("resnet18", "fc"), ("vgg11", "classifier.6"), ("vit_b_16", "heads.head"),
     ("squeezenet1_0", "classifier.1"), (LITE0, "classifier"), ("timm:resnet18", "fc")],
)  # fmt: skip
def test_the_layer_that_makes_the_logits_is_found(arch: str, layer: str) -> None:
    with torch.device("meta"):
        backbone = create_model(arch, 7, PACKAGED_MEAN, PACKAGED_STD).backbone
    assert classifier_layer(backbone, 7) == layer
