"""The estimate before a run: plausible, and without a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import train.run
from train.checkpoint import LAST, load_content
from train.estimate import Estimate
from train.log import LOG


def test_the_estimate_changes_nothing_in_a_run(
    tmp_path: Path, train_tiny: Any, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.run, "estimate", lambda *_: Estimate(1.0, 1.0, 1.0))
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
