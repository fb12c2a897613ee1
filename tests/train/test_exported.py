"""Exported files say what the model says, carry what a user has to know, and nothing half done stays."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open

import train.config.resolve
import train.inference.exported
from shards.errors import JobError
from train.checkpoints.checkpoint import BEST, load_checkpoint, load_content, save_checkpoint
from train.export import main
from train.inference.exported import Agreement
from train.inference.trained import open_trained

CLASSES = ["Amanita muscaria", "Boletus edulis", "Cantharellus cibarius"]


@pytest.mark.parametrize(
    "format_name",
    [pytest.param("onnx", marks=pytest.mark.slow), "torch-export", "safetensors"],
)
def test_an_exported_file_is_compared_with_the_model(
    finished_run: Path, command_line: Any, tmp_path: Path, format_name: str
) -> None:
    out = tmp_path / "model.file"
    ended = command_line(main, finished_run, "--format", format_name, "--out", out)
    assert ended.code == 0, ended.err
    wrote, compared = ended.out.splitlines()[-2:]
    assert wrote == f"wrote {out} ({format_name})"
    assert compared.startswith("compared with PyTorch on 6 photographs: 0 other labels, ")
    assert [each.name for each in out.parent.glob("model*")] == ["model.file"]


@pytest.fixture(scope="module")
def onnx_file(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "model.onnx"
    saved = load_checkpoint(finished_run / BEST)
    resolved = train.config.resolve.resolve(saved.config)
    deployed = train.inference.exported.deployment(saved, finished_run / BEST, resolved)
    train.inference.exported.export_onnx(deployed, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 5])
def test_onnx_gives_the_calibrated_probabilities_of_any_batch(
    finished_run: Path, onnx_file: Path, count: int
) -> None:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images})
    with open_trained(finished_run) as trained, torch.no_grad():
        logits = trained.network(torch.from_numpy(images)).double()
        expected = (logits / trained.temperature()).softmax(1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_onnx_holds_what_a_user_has_to_know(finished_run: Path, onnx_file: Path) -> None:
    props = {each.key: json.loads(each.value) for each in onnx.load(onnx_file).metadata_props}
    saved = load_checkpoint(finished_run / BEST)
    assert props["class_names"] == CLASSES
    assert props["temperature"] == saved.progress.temperature
    assert props["calibrated"] is True
    assert props["preprocessing"]["central_crop"] == 32
    assert props["preprocessing"]["shorter_side"] == 37
    assert props["preprocessing"]["stored_as"]["short_side"] == 96
    assert props["input"] == "images: (batch, 3, 32, 32) uint8 RGB"


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds onnxruntime, NumPy and what those need."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    wanted = [f"{name}=={version(name)}" for name in ("onnxruntime", "numpy")]
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", *wanted],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no package index within reach: {done.stderr.strip().splitlines()[-1]}")
    return python


@pytest.mark.slow
def test_the_onnx_file_opens_in_an_environment_of_onnxruntime_alone(
    finished_run: Path, onnx_file: Path, bare_python: Path
) -> None:
    code = (
        "import importlib.util, json, sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "rng = numpy.random.default_rng(4)\n"
        "images = rng.integers(0, 256, (3, 3, 32, 32), dtype=numpy.uint8)\n"
        "(found,) = session.run(None, {'images': images})\n"
        "names = session.get_modelmeta().custom_metadata_map['class_names']\n"
        "absent = [importlib.util.find_spec(each) is None for each in ('torch', 'train', 'shards')]\n"
        "print(json.dumps([found.tolist(), json.loads(names), absent]))\n"
    )
    done = subprocess.run(
        [str(bare_python), "-I", "-c", code, str(onnx_file)],
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    found, names, absent = json.loads(done.stdout)
    assert names == CLASSES
    assert absent == [True] * 3
    images = np.random.default_rng(4).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    with open_trained(finished_run) as trained, torch.no_grad():
        logits = trained.network(torch.from_numpy(images)).double()
        expected = (logits / trained.temperature()).softmax(1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_safetensors_hold_the_weights_under_their_own_names(
    finished_run: Path, command_line: Any, tmp_path: Path
) -> None:
    out = tmp_path / "model.safetensors"
    assert command_line(main, finished_run, "--format", "safetensors", "--out", out).code == 0
    (tmp_path / "any").touch()
    assert out.stat().st_mode == (tmp_path / "any").stat().st_mode  # others may read it, too
    weights = load_checkpoint(finished_run / BEST).model
    with safe_open(out, "pt") as opened:
        assert set(opened.keys()) == set(weights)
        assert all(torch.equal(opened.get_tensor(name), each) for name, each in weights.items())
        assert json.loads(opened.metadata()["class_names"]) == CLASSES


def test_a_file_that_disagrees_is_not_kept(
    finished_run: Path, command_line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(deployed: Any, target: Path) -> Any:
        target.write_text("wrong")
        return lambda images: deployed.module(images).roll(1, 1)

    monkeypatch.setitem(train.inference.exported.EXPORTERS, "onnx", export)
    out = tmp_path / "model.onnx"
    ended = command_line(main, finished_run, "--format", "onnx", "--out", out)
    assert ended.code == 1
    assert ended.err.startswith(f"error: {out} disagrees with PyTorch: 6 of 6 photographs get ")
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("apart", [1e-2, float("nan")])
def test_probabilities_that_differ_count_as_disagreement(apart: float) -> None:
    with pytest.raises(JobError, match="disagrees with PyTorch: 0 of 9 photographs"):
        Agreement(9, 0, apart).check(Path("x"))
    Agreement(9, 0, 1e-5).check(Path("x"))


def test_without_the_shard_set_the_file_is_written_and_the_lack_is_told(
    finished_run: Path, command_line: Any, tmp_path: Path
) -> None:
    content = load_content(finished_run / BEST)
    content["shards"]["directory"] = str(tmp_path / "gone")
    content["progress"]["temperature"] = 0.0
    save_checkpoint(tmp_path / "moved.pt", content)
    ended = command_line(main, tmp_path / "moved.pt", "--format", "safetensors")
    assert ended.code == 0
    assert (tmp_path / "moved.safetensors").is_file()
    assert ended.out == (
        "note: the checkpoint holds no temperature, so probabilities are not calibrated\n"
        f"wrote {tmp_path / 'moved.safetensors'} (safetensors)\n"
        "not compared with PyTorch: the shard set of the run is not here; pass --shards\n"
    )
