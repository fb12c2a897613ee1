"""The estimate before a run: plausible, and without a trace."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import train.engine.announce
import train.engine.estimate
from train.checkpoints.checkpoint import LAST, load_content
from train.config.source import ShardSource
from train.engine.announce import quicker_way
from train.engine.estimate import Estimate
from train.runs.log import LOG


def test_the_estimate_changes_nothing_in_a_run(
    tmp_path: Path, train_tiny: Any, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.engine.announce, "estimate", lambda *_: Estimate(1.0, 1.0, 1.0))
    train_tiny(tmp_path / "run")
    ours, without = (load_content(each / LAST) for each in (finished_run, tmp_path / "run"))
    assert all(torch.equal(ours["model"][name], each) for name, each in without["model"].items())
    assert torch.equal(ours["rng"], without["rng"])


def test_a_run_says_what_to_expect_before_its_first_epoch(finished_run: Path) -> None:
    lines = (finished_run / LOG).read_text().splitlines()
    first_epoch = next(at for at, line in enumerate(lines) if line.startswith("epoch "))
    assert [line for line in lines[:first_epoch] if line.startswith("expected: ")]


@pytest.mark.parametrize("arch", ["mnasnet0_5", "squeezenet1_1", "mobilenet_v3_small"])
def test_architectures_of_every_kind_survive_the_estimate(
    tmp_path: Path, train_tiny: Any, arch: str
) -> None:
    # mnasnet reads the version in its state dict, which a dictionary of copies does not carry.
    assert train_tiny(tmp_path / "run", arch=arch, epochs=1, mini=3)["epochs"] == 1


@pytest.mark.parametrize(
    ("seconds", "fields", "advised"),
    [
        (3601.0, {}, True),
        (3599.0, {}, False),
        (3601.0, {"weights": "imagenet", "head": "only"}, False),
    ],
)
def test_hours_without_a_gpu_come_with_the_command_for_minutes(
    make_config: Any, seconds: float, fields: dict[str, Any], advised: bool
) -> None:
    session: Any = SimpleNamespace(
        config=make_config(**fields), resolved=SimpleNamespace(device=torch.device("cpu"))
    )
    advice = quicker_way(session, Estimate(1.0, 1.0, seconds), ShardSource(Path("/data/set")))
    assert advice == (
        "there is no GPU here: for a good model in minutes, stop this run (Ctrl-C) and type: "
        'python -m train --recipe probe --shards "/data/set"'
        if advised
        else None
    )
    session.resolved.device = torch.device("cuda")
    assert quicker_way(session, Estimate(1.0, 1.0, seconds), ShardSource(Path("/data/set"))) is None


@pytest.mark.usefixtures("start")
def test_a_frozen_network_is_timed_forwards_alone(
    train_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("no training step")

    monkeypatch.setattr(train.engine.estimate, "_measure_step", never)
    train_tiny(tmp_path / "run", head="only", finetune_from="start", epochs=1)
    assert "expected: " in (tmp_path / "run" / LOG).read_text()
