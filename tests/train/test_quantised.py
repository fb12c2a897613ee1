"""A graph in 8-bit integers: its cost is measured, noted in the file, and never passed over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from loaders.batch import Batch
from train.checkpoints.checkpoint import BEST, load_content, save_checkpoint
from train.export import main
from train.inference.quantised import measure_cost


def brightest_channel(path: Path, scale: float) -> Path:
    """A graph of three classes whose logits are ``scale`` times the mean of each channel."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, 4, 4])
    found = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]),
    ]
    graph = helper.make_graph(nodes, "brightest", [images], [found], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    return path


def test_the_cost_is_counted_on_every_image(tmp_path: Path) -> None:
    plain = brightest_channel(tmp_path / "plain.onnx", 1)
    darkest = brightest_channel(tmp_path / "other.onnx", -1)

    def batches() -> Iterator[Batch]:
        for labels in (torch.tensor([0, 1]), torch.tensor([2])):
            images = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8)
            for at, label in enumerate(labels):
                images[at] = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None]
                images[at, label] = 200
            yield Batch(images, labels, labels)

    cost = measure_cost(plain, darkest, "test", batches(), 3)
    assert (cost.split, cost.images, cost.flips) == ("test", 3, 3)
    assert (cost.plain.oa, cost.int8.oa, cost.int8.miou) == (1, 0, 0)
    assert cost.time_ratio > 0
    assert str(cost).startswith(
        "int8 on 3 images of test: 3 other labels, mIoU 0.0000 for 1.0000, OA 0.0000 for 1.0000; "
    )
    assert measure_cost(plain, plain, "val", batches(), 3).flips == 0


@pytest.mark.slow
def test_an_int8_file_holds_integers_and_says_what_they_cost(
    finished_run: Path, command_line: Any, tmp_path: Path
) -> None:
    out = tmp_path / "model.onnx"
    ended = command_line(main, finished_run, "--format", "onnx", "--int8", "--out", out)
    assert ended.code == 0, ended.err
    wrote, compared, cost = ended.out.splitlines()[-3:]
    assert wrote == f"wrote {out} (onnx)"
    assert compared.startswith("compared with PyTorch on 6 photographs: 0 other labels, ")
    assert cost.startswith("int8 on 6 images of test: ")
    assert [each.name for each in tmp_path.glob("model*")] == ["model.onnx"]
    model = onnx.load(out)
    props = {each.key: json.loads(each.value) for each in model.metadata_props}
    assert props["int8"]["images"] == 6
    assert f"mIoU {props['int8']['int8']['miou']:.4f} for " in cost
    assert props["class_names"]
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") > 2
    assert kinds[-1] == "Softmax"
    weights = {each.name: each.data_type for each in model.graph.initializer}
    assert TensorProto.INT8 in weights.values()
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    (found,) = session.run(None, {"images": images})
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


def test_int8_is_refused_where_it_cannot_be(
    finished_run: Path, command_line: Any, tmp_path: Path
) -> None:
    ended = command_line(main, finished_run, "--format", "safetensors", "--int8")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "error: --int8 is for --format onnx, not safetensors\n"
    content = load_content(finished_run / BEST)
    content["shards"]["directory"] = str(tmp_path / "gone")
    save_checkpoint(tmp_path / "moved.pt", content)
    ended = command_line(main, tmp_path / "moved.pt", "--format", "onnx", "--int8")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "error: --int8 needs photographs to find the range of every layer, and the shard set of the "
        f"run ({tmp_path / 'gone'}) is not here; pass --shards\n"
    )
