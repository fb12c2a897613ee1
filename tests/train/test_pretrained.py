"""What a run starts from: ImageNet weights, files, checkpoints; and what to do where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision

from shards.errors import UserError
from train.checkpoints.checkpoint import BEST, load_checkpoint
from train.checkpoints.pretrained import imagenet_colours, load_start, with_start
from train.config.recipes import create_recipe
from train.method.models import create_model

ZEROS = ((0.0,) * 3, (1.0,) * 3)
FIVE = 5


def backbone(arch: str, num_classes: int = FIVE) -> torch.nn.Module:
    return create_model(arch, num_classes, *ZEROS).backbone


def test_the_normalisation_is_that_of_the_weights(make_config: Any) -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert imagenet_colours("resnet18") == imagenet_colours("timm:resnet18") == imagenet
    assert imagenet_colours("tf_efficientnet_lite0")[0] == pytest.approx((127 / 255,) * 3)
    started = with_start(make_config(arch="resnet18", weights="imagenet"))
    assert (started.mean, started.std) == imagenet
    given = with_start(make_config(arch="resnet18", weights="imagenet", mean=(0.5, 0.5, 0.5)))
    assert given.mean == (0.5, 0.5, 0.5)
    scratch = make_config(arch="resnet18")
    assert with_start(scratch) == scratch


def test_a_checkpoint_decides_architecture_and_normalisation(
    make_config: Any, finished_run: Path
) -> None:
    saved = load_checkpoint(finished_run / BEST)
    started = with_start(make_config(arch="resnet18", finetune_from=str(finished_run)))
    assert (started.arch, started.mean) == (saved.config.arch, saved.config.mean)


def test_a_run_of_other_classes_keeps_all_but_the_last_layer(
    make_config: Any, finished_run: Path
) -> None:
    saved = load_checkpoint(finished_run / BEST)
    model = backbone(saved.config.arch)
    line = load_start(model, make_config(finetune_from=str(finished_run)), FIVE)
    assert line == f"starting from {finished_run}: 8 tensors loaded; 8 is new"
    assert torch.equal(model.state_dict()["0.weight"], saved.model["0.weight"])


def test_a_checkpoint_of_the_course_is_a_start_as_well(make_config: Any, tmp_path: Path) -> None:
    weights = torchvision.models.resnet18(num_classes=3).state_dict()
    path = tmp_path / "baseline.ckpt"
    torch.save(
        {"state_dict": {f"net._orig_mod.{name}": each for name, each in weights.items()}}, path
    )
    config = with_start(make_config(finetune_from=str(path)))
    baseline = create_recipe("baseline")
    assert (config.arch, config.mean) == ("resnet18", baseline.mean)
    model = backbone("resnet18")
    assert load_start(model, config, FIVE) == f"starting from {path}: 120 tensors loaded; fc is new"
    assert torch.equal(model.state_dict()["conv1.weight"], weights["conv1.weight"])


def test_a_file_of_weights_is_a_start(make_config: Any, tmp_path: Path) -> None:
    weights = backbone("resnet18", 7).state_dict()
    torch.save(weights, tmp_path / "a.pt")
    model = backbone("resnet18")
    config = make_config(arch="resnet18", weights=str(tmp_path / "a.pt"))
    assert load_start(model, config, FIVE) == (
        f"starting from {tmp_path / 'a.pt'}: 120 tensors loaded; fc is new"
    )
    assert torch.equal(model.state_dict()["bn1.weight"], weights["bn1.weight"])


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


RESNET18 = "resnet18-f37072fd.pth"


def test_without_a_network_the_line_says_which_file_to_put_where(
    make_config: Any, torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(UserError) as refused:
        load_start(backbone("resnet18"), make_config(arch="resnet18", weights="imagenet"), FIVE)
    assert refused.value.format_message() == (
        "cannot download the ImageNet weights of resnet18 (<urlopen error no route to host>): put "
        f"https://download.pytorch.org/models/{RESNET18} at {torch_home / RESNET18}, or give another "
        "file of weights with --weights FILE; without a network, --arch tf_efficientnet_lite0 has its "
        "weights installed"
    )


def test_weights_that_lie_in_torchs_folder_need_no_network(
    make_config: Any, torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("no download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", never)
    weights = backbone("resnet18", 1000).state_dict()
    torch_home.mkdir(parents=True)
    torch.save(weights, torch_home / RESNET18)
    model = backbone("resnet18")
    load_start(model, make_config(arch="resnet18", weights="imagenet"), FIVE)
    assert torch.equal(model.state_dict()["conv1.weight"], weights["conv1.weight"])


def test_two_starts_are_refused(make_config: Any) -> None:
    with pytest.raises(ValueError, match="weights and finetune_from both say where to start"):
        make_config(weights="imagenet", finetune_from="a.ckpt")


def test_a_file_of_spoiled_weights_ends_the_command_before_a_folder_is_made(
    tmp_path: Path, train_command: Any
) -> None:
    arch = "shufflenet_v2_x0_5"
    weights = {name: each * torch.nan for name, each in backbone(arch, 3).state_dict().items()}
    torch.save(weights, tmp_path / "spoiled.pt")
    ended = train_command("--arch", arch, "--weights", tmp_path / "spoiled.pt", "--out", "run")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith(f"error: {tmp_path / 'spoiled.pt'} is of no use: ")
    assert not Path("run").exists()
