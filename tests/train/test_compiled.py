"""A compiled run: few graphs, none for the short last batch of an epoch, and only where it pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import train.engine.auto
from train.config.length import StepCount
from train.config.resolve import resolve
from train.engine.auto import resolve_for_run
from train.method.models import create_model

BATCH, SHORT = 5, 1


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Images and side of each graph that is made from now on; nothing is made faster."""
    made: list[tuple[int, int]] = []
    compile_by = torch.compile

    def noted(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        images = next(each for each in inputs if each.dtype == torch.uint8)
        made.append((len(images), images.shape[-1]))
        return graph.forward

    def compiled(model: Any, **options: Any) -> Any:
        assert options == {"dynamic": False, "mode": "default"}
        return compile_by(model, backend=noted, **options)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr("train.config.device.c_compiler", lambda: "gcc")
    return made


@pytest.mark.slow
def test_there_is_a_graph_for_each_training_size_and_one_for_evaluation(
    tmp_path: Path, train_tiny: Any, graphs: list[tuple[int, int]]
) -> None:
    train_tiny(
        tmp_path / "run", compile="on", epochs=3, image_size=96, train_size=80, start_size=32,
        ema=0.9,
    )  # fmt: skip
    assert sorted(graphs) == [(BATCH, side) for side in (32, 48, 64, 80, 96)]


@pytest.mark.slow
def test_compiling_changes_no_batch_and_hardly_a_loss(
    tmp_path: Path, train_tiny: Any, metrics_of: Any, graphs: list[tuple[int, int]]
) -> None:
    train_tiny(tmp_path / "plain", epochs=1)
    assert not graphs
    train_tiny(tmp_path / "compiled", epochs=1, compile="on")
    assert set(graphs) == {(BATCH, 32)}  # in training and in evaluation
    ours, theirs = (metrics_of(tmp_path / each)[0] for each in ("compiled", "plain"))
    assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "steps", "compiled", "reason"),
    [
        ({}, 999, False, "from 1,000 steps on it repays its warm-up"),
        ({}, 1000, True, "CUDA, and the run is long enough to repay its warm-up"),
        ({"start_size": 16}, 1999, False, "from 2,000 steps on it repays its warm-up"),
        ({"start_size": 16}, 2000, True, "CUDA, and the run is long enough to repay its warm-up"),
        ({"budget": 899.0}, 10**9, False, "from 15 minutes on it repays its warm-up"),
        ({"budget": 900.0}, 3, True, "CUDA, and the run is long enough to repay its warm-up"),
        ({"compile": "on"}, 1, True, "asked for"),
        ({"compile": "off"}, 10**9, False, "asked for"),
    ],
)
def test_auto_compiles_where_the_run_repays_it(
    make_config: Any, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], steps: int,
    compiled: bool, reason: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("train.config.device.c_compiler", lambda: "gcc")
    config = make_config(micro_batch=5, **fields)
    resolved = resolve(make_config(micro_batch=5))
    object.__setattr__(resolved, "device", torch.device("cuda"))
    length = StepCount(total=steps, steps_per_epoch=8, batch_size=5, eval_every=1.0)
    model = create_model(config.arch, 3, config.mean, config.std)
    chosen = resolve_for_run(config, resolved, length, model, 3)
    assert (chosen.compile, chosen.reasons["compile"]) == (compiled, reason)
    assert f"compile {'on' if compiled else 'off'} ({reason})" in str(chosen)


def test_the_micro_batch_that_was_found_is_said_stored_and_used(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(batch_size=32)
    resolved = resolve(config)
    object.__setattr__(resolved, "device", torch.device("cuda"))
    monkeypatch.setattr(train.engine.auto, "fitting_micro_batch", lambda *_: 8)
    length = StepCount(total=8, steps_per_epoch=8, batch_size=32, eval_every=1.0)
    model = create_model(config.arch, 3, config.mean, config.std)
    chosen = resolve_for_run(config, resolved, length, model, 3)
    assert chosen.micro_batch == chosen.to_dict()["micro_batch"] == 8
    assert "micro_batch 8 (32 images do not fit into the GPU's memory)" in str(chosen)
    monkeypatch.setattr(train.engine.auto, "fitting_micro_batch", lambda *_: 32)
    chosen = resolve_for_run(config, resolved, length, model, 3)
    assert chosen.micro_batch is None
    assert "micro_batch batch (it fits into the GPU's memory)" in str(chosen)
