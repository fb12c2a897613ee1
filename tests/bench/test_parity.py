"""`bench parity`: differences are counted exactly, and beyond what is allowed is exit code 1."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench import parity
from bench.__main__ import cli
from bench.parity import Differences, Tolerance, backends, measure_pixels
from bench.request import Request
from bench.result import Report
from shards.errors import JobError
from shards.reader import ShardSet
from train.config.recipes import create_recipe
from train.engine.run import start_run

pytestmark = pytest.mark.dali


def tiny_request(shards: Path) -> Request:
    return Request(shards=shards, image_size=32, threads=1, device="cpu")


@given(st.lists(st.integers(0, 255), min_size=1, max_size=300), st.integers(0, 255))
def test_mean_maximum_and_percentile_are_those_of_numpy(values: list[int], other: int) -> None:
    differences = Differences()
    for part in np.array_split(np.array(values, np.uint8), 3):
        image = torch.from_numpy(part.copy())
        differences.add(image, torch.full_like(image, other))
    apart = np.abs(np.array(values) - other)
    assert differences.mean == pytest.approx(apart.mean())
    assert differences.maximum == apart.max()
    assert differences.percentile(99.9) == np.percentile(apart, 99.9, method="inverted_cdf")


def test_every_back_end_is_within_what_is_allowed_on_drawn_photographs(tiny_shards: Path) -> None:
    section, failures = measure_pixels(tiny_request(tiny_shards), 30)
    assert failures == []
    measured = [each for each in section.results if each.measured]
    assert len(measured) == 3 * len(backends(torch.device("cpu"))[0])


def test_a_back_end_beyond_what_is_allowed_is_named_with_exit_code_1(
    tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = dict.fromkeys(parity.TOLERANCES, Tolerance(0.0, 0))
    monkeypatch.setattr(parity, "TOLERANCES", strict)
    args = ["parity", "--shards", str(tiny_shards), "--image-size", "32", "--samples", "8"]
    result = CliRunner().invoke(cli, [*args, "--threads", "1"])
    assert result.exit_code == 1
    last = result.output.splitlines()[-1]
    assert last.startswith("error: beyond what is allowed: ")
    assert "DALI CPU, evaluation, antialias" in last


def test_back_ends_that_show_other_samples_stop_the_comparison(
    tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = parity.create_loader

    def other_order(config: parity.LoaderConfig) -> object:
        seed = 1 if config.backend == "opencv" else 0
        return create(parity.replace(config, seed=seed))

    monkeypatch.setattr(parity, "create_loader", other_order)
    with pytest.raises(JobError, match="OpenCV and Pillow yield different samples"):
        measure_pixels(tiny_request(tiny_shards), 8)


def test_a_model_answers_the_same_whatever_decoded_its_images(
    tiny_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = replace(
        create_recipe("baseline"),
        arch="shufflenet_v2_x0_5",
        image_size=32,
        epochs=1,
        batch_size=16,
        device="cpu",
        threads=1,
    )
    start_run(config, tiny_shards, out)
    file = tmp_path / "parity.json"
    args = ["parity", "--shards", str(tiny_shards), "--image-size", "32", "--samples", "8"]
    args += ["--threads", "1", "--checkpoint", str(out), "--json", str(file)]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code in (0, 1), result.output  # an untrained model may flip a label
    answers = Report.from_json(file.read_text()).sections[1]
    opencv = answers.find("mIoU: OpenCV")
    assert opencv is not None
    assert opencv.details["label_flips"] == 0


@pytest.mark.parametrize(
    ("split", "classes", "message"),
    [
        ("none", None, "has no split 'none'"),
        ("test", ("one",), "has 3 classes, the checkpoint .* knows 1; pass the shard set"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_before_anything_is_measured(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    split: str, classes: tuple[str, ...] | None, message: str,
) -> None:  # fmt: skip
    names = classes or ShardSet(tiny_shards).manifest.class_names
    saved = SimpleNamespace(class_names=names)
    monkeypatch.setattr(parity, "load_checkpoint", lambda _: saved)
    monkeypatch.setattr(parity, "measure_pixels", pytest.fail)
    file = tmp_path / "some.pt"
    file.touch()
    args = ["parity", "--shards", str(tiny_shards), "--checkpoint", str(file), "--split", split]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 2
    assert re.search(message, result.output.replace("\n", " "))
