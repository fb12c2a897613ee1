"""The suites measure what they say, on a tiny shard set in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.end_to_end import STEP, TOGETHER, WAIT, measure_end_to_end
from bench.gpu_check import Part, check_parity, training_steps, write_report
from bench.loaders import CONTESTANTS, measure_loaders, originals_root
from bench.operations import flops_per_image
from bench.request import Request, fitting_batch, images_per_epoch, shard_set
from bench.result import Section
from bench.step import measure_step, variants
from shards.errors import UserError
from train.config.config import TrainConfig
from train.config.resolve import resolve


@pytest.fixture
def request_tiny(tiny_shards: Path) -> Iterator[Request]:
    threads = torch.get_num_threads()
    yield Request(
        shards=tiny_shards,
        image_size=32,
        batch_size=4,
        threads=1,  # threads of torch that wait for each other are slow on a shared machine
        repeats=2,
        block_s=0.01,
        device="cpu",
    )
    torch.set_num_threads(threads)


def names(section: Section) -> set[str]:
    return {each.name for each in section.results if each.measured}


@pytest.mark.dali
def test_loaders_measures_every_back_end_of_this_machine(
    request_tiny: Request, tiny_dataset: Path
) -> None:
    section = measure_loaders(request_tiny, tiny_dataset)
    without_gpu = {each.name for each in CONTESTANTS if each.backend != "dali"}
    assert names(section) == {"read only", "decode"} | without_gpu
    assert all(len(each.repeats) == 2 for each in section.results if each.measured)
    assert all(value > 0 for each in section.results for value in each.repeats)


def test_back_ends_that_cannot_run_are_named_with_the_reason(
    request_tiny: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.loaders.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("bench.loaders.CONTESTANTS", CONTESTANTS[2:4])
    section = measure_loaders(request_tiny)
    notes = {each.name: each.note for each in section.results}
    assert notes["dali linear"].startswith("not measured: ")
    assert notes["dali-cpu linear"] == "not measured: DALI is not installed"


@pytest.mark.parametrize("folder", ["mushrooms", "mushrooms/merged_dataset"])
def test_original_files_are_found_in_the_data_set_or_its_photographs(
    request_tiny: Request, tiny_dataset: Path, folder: str
) -> None:
    root = originals_root(tiny_dataset.parent / folder, request_tiny.shards)
    assert root == tiny_dataset / "merged_dataset"


def test_missing_originals_are_named_with_the_file_looked_for(
    request_tiny: Request, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no original photograph .*\.jpg"):
        measure_loaders(request_tiny, tmp_path)


@pytest.mark.parametrize(
    ("wanted", "images", "batches", "fits"), [(32, 952, 6, 32), (32, 36, 6, 6), (8, 3, 6, 1)]
)
def test_batches_shrink_to_what_a_small_epoch_holds(
    wanted: int, images: int, batches: int, fits: int
) -> None:
    assert fitting_batch(wanted, images, batches) == fits


def test_step_goes_from_plain_to_what_training_uses(request_tiny: Request) -> None:
    section = measure_step(request_tiny, "squeezenet1_1")
    expected = [each.name for each in variants(resolve(TrainConfig(device="cpu", threads=1)))]
    steps = [each for each in section.results if each.unit == "images/s"]
    assert [each.name for each in steps] == expected
    assert expected[:2] == ["fp32 NCHW", "fp32 channels_last"]
    flops = section.settings["flops_per_image"]
    for result in steps:
        assert result.median is not None
        assert result.details["achieved_tflop_per_s"] == pytest.approx(result.median * flops / 1e12)


def test_flops_are_those_of_forward_and_backward() -> None:
    # 1.814 GMAC forward at 224 px with 1000 classes; backward is twice that, less the first layer.
    forward = 2 * 1.814e9
    assert 2.8 * forward < flops_per_image("resnet18", 224) < 3 * forward


def test_end_to_end_measures_the_step_alone_and_with_its_loader(request_tiny: Request) -> None:
    section = measure_end_to_end(request_tiny, "squeezenet1_1")
    assert names(section) == {STEP, TOGETHER, WAIT}
    waits = next(each for each in section.results if each.name == WAIT)
    assert len(waits.repeats) == 2
    assert all(0 <= wait < 1 for wait in waits.repeats)


def test_end_to_end_says_when_the_shards_are_too_small(request_tiny: Request) -> None:
    section = measure_end_to_end(replace(request_tiny, image_size=112), "squeezenet1_1")
    assert section.notes == (
        "the shards store a shorter side of 96 px, less than the 112 px asked",
    )


def test_without_a_shard_set_a_small_one_is_drawn_and_said_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.request.path_setting", lambda key: None)
    monkeypatch.setattr("bench.request.DEMO_FILES", 4)
    monkeypatch.setattr("bench.request.DEMO_SIZE", 48)
    with shard_set(None) as directory:
        assert images_per_epoch(directory) > 0
    assert not directory.exists()
    assert "drawing and packing a small demo set" in capsys.readouterr().out


def test_gpu_check_trains_twenty_steps_and_keeps_the_losses(request_tiny: Request) -> None:
    section = training_steps(request_tiny, "squeezenet1_1", "opencv")
    assert len(section.results[0].repeats) == 3
    assert section.notes[0].count(",") == 7  # 5 steps of warm-up and the ends of 3 windows


@pytest.mark.dali
def test_gpu_check_states_how_far_the_back_ends_differ(request_tiny: Request) -> None:
    text = check_parity(request_tiny)
    assert "training, linear: OpenCV" in text
    assert "evaluation, antialias: DALI CPU" in text


def test_gpu_check_goes_on_after_a_failure_and_keeps_the_traceback(tmp_path: Path) -> None:
    def fail() -> str:
        raise RuntimeError("CUDA error: an illegal memory access")

    file = tmp_path / "gpu-check.txt"
    failed = write_report([Part("steps", fail), Part("parity", lambda: "0.1")], file)
    assert failed == ["steps"]
    text = file.read_text()
    assert "== steps: FAILED" in text
    assert "RuntimeError: CUDA error: an illegal memory access" in text
    assert "== parity: ok\n0.1" in text
