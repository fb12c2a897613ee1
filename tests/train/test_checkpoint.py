"""Checkpoints are written whole or not at all, and reading one runs nothing."""

from __future__ import annotations

import io
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from shards.errors import JobError, UserError
from train.checkpoints.checkpoint import (
    BEST,
    LAST,
    checkpoint_file,
    has_checkpoint,
    load_checkpoint,
    load_content,
    load_last,
    model_from_checkpoint,
    previous,
    save_checkpoint,
)
from train.config.recipes import create_recipe
from train.method.models import create_model

CONTENT: dict[str, Any] = {
    "class_names": ["a b", "c"],
    "model": OrderedDict(weight=torch.arange(6.0).view(2, 3), steps=torch.tensor(7)),
    "progress": {"epoch": 3, "best_miou": 0.1 + 0.2, "nested": [1, (2.5, None), True]},
}


class Malicious:
    """What pickle lets a file do."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (open, (str(self.trace), "w"))


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        load_content(path)
    message = refused.value.format_message()
    assert "\n" not in message
    assert str(path) in message
    return message


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / LAST, CONTENT)
    loaded = load_content(tmp_path / LAST)
    assert loaded["progress"] == CONTENT["progress"]
    assert loaded["class_names"] == CONTENT["class_names"]
    assert all(
        torch.equal(each, CONTENT["model"][name]) and each.dtype == CONTENT["model"][name].dtype
        for name, each in loaded["model"].items()
    )


def test_a_folder_stands_for_its_best_checkpoint(tmp_path: Path) -> None:
    assert checkpoint_file(tmp_path) == tmp_path / BEST
    assert checkpoint_file(tmp_path / LAST) == tmp_path / LAST


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_save_that_fails_half_way_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / LAST
    save_checkpoint(path, CONTENT)
    before = path.read_bytes()

    def fail(_content: Any, file: Any) -> None:
        file.write(before[: len(before) // 2])
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(type(error)):
        save_checkpoint(path, CONTENT)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.glob("*.pt*")] == [LAST]


def test_a_new_save_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / LAST
    for number in range(2):
        save_checkpoint(path, CONTENT | {"number": number})
    assert load_content(path)["number"] == 1
    assert load_content(previous(path))["number"] == 0
    assert {each.name for each in tmp_path.glob("last*")} == {"last.pt", "last.previous.pt"}


def test_a_full_disk_is_named_and_the_checkpoint_before_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / LAST
    save_checkpoint(path, CONTENT)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(JobError) as failed:
        save_checkpoint(path, CONTENT)
    assert failed.value.format_message() == (
        f"cannot write {path}: the disk is full; the checkpoint before it is kept; free some room, "
        f'then go on with: python -m train --resume "{tmp_path}"'
    )
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.glob("last*")] == [LAST]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_between_the_renames_of_a_save_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    class Killed(BaseException):
        pass

    path, done = tmp_path / LAST, 0
    save_checkpoint(path, CONTENT | {"number": 0})
    replace = Path.replace

    def dying(file: Path, target: Path) -> Path:
        nonlocal done
        if file.suffix != ".tmp":
            if done == renames:
                raise Killed
            done += 1
        return replace(file, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(Killed):
        save_checkpoint(path, CONTENT | {"number": 1})
    whole = path if path.exists() else previous(path)
    assert load_content(whole)["number"] == 0
    assert has_checkpoint(tmp_path)
    monkeypatch.undo()
    with pytest.raises(UserError, match="does not hold what a run saves"):
        load_last(tmp_path)  # these were numbers, not a run
    assert load_content(path)["number"] == renames  # the new one counts where it was complete


@pytest.mark.parametrize("where", ["top", "in the model", "pickle", "newer pickle", "old format"])
def test_a_malicious_file_is_refused_and_nothing_in_it_runs(tmp_path: Path, where: str) -> None:
    trace, path = tmp_path / "was here", tmp_path / "evil.pt"
    evil = Malicious(trace)
    path.write_bytes(
        {
            "top": lambda: saved(evil),
            "in the model": lambda: saved({"hyphae_checkpoint": 1, "model": {"weight": evil}}),
            "pickle": lambda: pickle.dumps(evil, protocol=2),
            "newer pickle": lambda: pickle.dumps(evil),
            "old format": lambda: saved(evil, _use_new_zipfile_serialization=False),
        }[where]()
    )
    archive = where in ("top", "in the model")
    expected = "loading it could run code" if archive else "not an archive that torch.save wrote"
    assert expected in refusal(path)
    assert not trace.exists()
    # The same bytes do run where nobody looks: the refusal above is worth something.
    if "pickle" in where:
        content = pickle.loads(path.read_bytes())
    else:
        content = torch.load(path, weights_only=False)
    (content["model"]["weight"] if isinstance(content, dict) else content).close()
    assert trace.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(tmp_path: Path, finished_run: Path, share: float) -> None:
    whole = (finished_run / BEST).read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(whole[: int(share * len(whole))])
    refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"just a note\n",
        b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
        b".",
        b"0",
        b"K",
        b"\x80\x65 one more text",
        saved(CONTENT, _use_new_zipfile_serialization=False)[:-200],
        saved(CONTENT, _use_new_zipfile_serialization=False)[:600],
    ],
    ids=["empty", "text", "jpeg", "dot", "zero", "K", "e", "old cut in tensors", "old cut"],
)
@pytest.mark.filterwarnings("default")  # a warning beside the one line is another test's matter
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "note.pt"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        OrderedDict(weight=torch.zeros(2)),
        [1, 2],
        torch.zeros(3),
        {"state_dict": {}, "hyper_parameters": {}},
    ],
    ids=["state dict", "list", "tensor", "lightning"],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "foreign.pt"
    path.write_bytes(saved(content))
    assert refusal(path) == (
        f"{path} is not a checkpoint of hyphae: it holds no hyphae_checkpoint; those of the course are "
        "for train.evaluate and --finetune-from"
    )


def test_a_newer_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "newer.pt"
    path.write_bytes(saved({"hyphae_checkpoint": 2}))
    assert refusal(path) == f"{path} is not a checkpoint of this hyphae (version 2, expected 1)"


@pytest.mark.parametrize("name", ["a.onnx", "a.pt2", "a.safetensors"])
def test_an_exported_file_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(saved({}))
    assert "it looks like an exported file, and is for other programs" in refusal(tmp_path / name)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.pt") == f"no checkpoint {tmp_path / 'none.pt'}"
    assert refusal(tmp_path / BEST) == f"no checkpoint {tmp_path / BEST}"


def test_the_model_of_a_checkpoint_computes_what_was_saved(tmp_path: Path) -> None:
    config = create_recipe("baseline")
    model = create_model("resnet18", 3, config.mean, config.std).eval()
    content = {
        "class_names": ["a", "b", "c"],
        "config": config.to_dict() | {"arch": "resnet18"},
        "model": model.backbone.state_dict(),
        "progress": {"epoch": 1, "best_epoch": 1, "best_miou": 0.5},
        "resolved": {"device": "cpu"},
        "shards": {"directory": "set", "fingerprint": "1f"},
        "order_hash": "2e",
        "versions": {"torch": "3"},
    }
    save_checkpoint(tmp_path / BEST, content)
    loaded = load_checkpoint(tmp_path / BEST)
    restored = model_from_checkpoint(loaded, tmp_path / BEST)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(restored.eval()(images), model(images))
    assert (loaded.config.arch, loaded.progress.epoch) == ("resnet18", 1)
    plain = torchvision.models.resnet18(num_classes=3)
    plain.load_state_dict(loaded.model, strict=True)


def test_a_run_leaves_checkpoints_of_tensors_and_plain_data(
    finished_run: Path, tmp_path: Path
) -> None:
    for name in (BEST, LAST):
        content = torch.load(finished_run / name, weights_only=True)
        assert content["class_names"] == sorted(content["class_names"])
        assert content["resolved"]["precision"] == "fp32"
        assert content["versions"]["torch"] == str(torch.__version__)
    shutil.copy(finished_run / BEST, tmp_path / "moved.pt")
    assert "optimizer" not in load_content(tmp_path / "moved.pt")
    assert "optimizer" in load_content(finished_run / LAST)
