"""Classes from their names: mechanics, with a small model of random weights. No score is claimed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shards.errors import UserError
from train.inference.zero_shot import ZeroShot, open_zero_shot, prompts_of
from train.scores.species import Species
from train.zeroshot import main

open_clip = pytest.importorskip("open_clip")
SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a small architecture, which open_clip knows meanwhile."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "hyphae-small.json").write_text(json.dumps(SMALL))
    (folder / "hyphae-hub.json").write_text(
        json.dumps(SMALL | {"text_cfg": {"hf_model_name": "roberta-base"}})
    )
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model("hyphae-small", pretrained_text=False)
    torch.save(model.state_dict(), folder / "small.pt")
    yield folder / "small.pt"
    for name in ("hyphae-small", "hyphae-hub"):
        open_clip.factory._MODEL_CONFIGS.pop(name)


@pytest.fixture
def model(weights: Path) -> ZeroShot:
    return open_zero_shot("open_clip:hyphae-small", weights, torch.device("cpu"))


def test_prompts_name_the_species_and_the_ranks_that_are_known() -> None:
    lineage = ("Amanita", "Amanitaceae", "Agaricales", "Agaricomycetes", "Basidiomycota")
    prompts = prompts_of(Species("Amanita muscaria", lineage))
    assert prompts[0] == "a photo of Amanita muscaria."
    assert "a photo of Amanita muscaria, of the family Amanitaceae." in prompts
    assert prompts[-1] == (
        "a photo of Basidiomycota Agaricomycetes Agaricales Amanitaceae Amanita muscaria."
    )
    assert prompts_of(Species("Rose", ("Rose", "", "", "", ""))) == prompts_of(
        Species("Rose", ("", "", "", "", ""))
    )


def test_logits_are_scaled_cosines_of_normalised_pixels_and_mean_prompts(model: ZeroShot) -> None:
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    prompts = [["a photo of a rose.", "a rose"], ["a photo of a tulip."]]
    logits = model.logits(images, model.classes(prompts))

    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711),
    ))  # fmt: skip
    tokenizer = open_clip.get_tokenizer("hyphae-small")
    with torch.no_grad():
        seen = model.model.encode_image((images / 255 - mean) / std)
        said = [model.model.encode_text(tokenizer(each)) for each in prompts]
        rows = [(each / each.norm(dim=1, keepdim=True)).mean(0) for each in said]
        cosines = torch.stack([torch.cosine_similarity(seen, row[None]) for row in rows], dim=1)
    assert torch.allclose(logits, cosines / 0.07, atol=1e-4)


def test_a_split_is_evaluated_in_all_that_evaluate_says(
    weights: Path, tiny_shards: Path, command_line: Any, tmp_path: Path
) -> None:
    file = tmp_path / "out.json"
    ended = command_line(
        main, "--model", "open_clip:hyphae-small", "--weights", weights, "--shards", tiny_shards,
        "--device", "cpu", "--json", file,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.out.startswith("test: ")
    assert "6 images" in ended.out
    content = json.loads(file.read_text())
    assert sum(map(sum, content["confusion"])) == 6
    assert content["prompts"]["Boletus edulis"][0] == "a photo of Boletus edulis."
    again = command_line(
        main, "--model", "open_clip:hyphae-small", "--weights", weights, "--shards", tiny_shards,
        "--device", "cpu", "--batch-size", 1,
    )  # fmt: skip
    assert again.out.splitlines()[0] == ended.out.splitlines()[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-32", "--model 'ViT-B-32': expected open_clip:NAME, such as open_clip:ViT-B-32"),
        ("open_clip:ViT-B-33", "unknown architecture of open_clip 'ViT-B-33'; did you mean 'ViT-"),
        ("open_clip:hf-hub:some/model", "unknown architecture of open_clip 'hf-hub:some/model'"),
        ("open_clip:hyphae-hub", "has a text part that open_clip fetches from a hub, and nothing"),
    ],
)
def test_a_model_that_is_none_or_would_be_fetched_is_refused(
    weights: Path, name: str, message: str
) -> None:
    with pytest.raises(UserError) as refused:
        open_zero_shot(name, weights, torch.device("cpu"))
    assert message in refused.value.format_message()


def test_without_weights_a_line_says_which_file_is_missing_and_nothing_is_fetched(
    weights: Path, tiny_shards: Path, command_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr("urllib.request.urlopen", fetch)
    monkeypatch.setattr("socket.socket.connect", fetch)
    ended = command_line(
        main, "--model", "open_clip:hyphae-small", "--shards", tiny_shards, "--device", "cpu"
    )
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "weights are never fetched: save those of hyphae-small" in ended.err
    assert "--weights FILE" in ended.err


class Run:
    """What a pickle may do to whoever loads it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_file_that_does_not_fit_is_one_line_and_runs_nothing(
    weights: Path, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Run(touched)))
    torch.save({"state_dict": Run(touched)}, tmp_path / "worse.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "foreign.pt")
    (tmp_path / "empty.safetensors").touch()
    for name in ("evil.pt", "worse.pt", "foreign.pt", "empty.safetensors"):
        with pytest.raises(UserError, match=r"--weights .* does not fit hyphae-small: ") as refused:
            open_zero_shot("open_clip:hyphae-small", tmp_path / name, torch.device("cpu"))
        assert "\n" not in refused.value.format_message()
    assert not touched.exists()
    for name, said in (
        ("none.pt", "no such file"),
        ("weights.npz", "expected a file that ends in"),
    ):
        if name.endswith("npz"):
            (tmp_path / name).touch()
        with pytest.raises(UserError, match=said):
            open_zero_shot("open_clip:hyphae-small", tmp_path / name, torch.device("cpu"))
