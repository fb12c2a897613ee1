"""Step, roofline and epochs: what is counted is right, and what is measured stands beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from bench.end_to_end import STEP
from bench.interval import median_interval
from bench.load import LoadMeter, was_busy
from bench.machine_rates import MEMORY
from bench.operations import Product, StepWork, step_work
from bench.request import Request
from bench.result import Result
from bench.roofline import measure_roofline, render_roofline
from bench.step import StepSubject, every_variant, measure_step
from bench.train import (
    LOADER,
    MODEL,
    OF_MODEL,
    STEPS,
    VAL,
    WAIT,
    WITH_VAL,
    measure_train,
)
from train.config.resolve import Resolved
from train.method.models import create_model

RESOLVED = Resolved(
    device=torch.device("cpu"), precision="bf16", compile=False, loader="opencv", threads=1,
    channels_last=True, reasons={},
)  # fmt: skip


@pytest.fixture
def request_tiny(tiny_shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Request]:
    monkeypatch.setattr("bench.machine_rates.MATRIX_SIDE", {"cpu": 64})
    monkeypatch.setattr("bench.machine_rates.COPY_BYTES", {"cpu": 2**16})
    threads = torch.get_num_threads()
    yield Request(
        shards=tiny_shards,
        image_size=32,
        batch_size=4,
        threads=1,
        repeats=2,
        block_s=0.01,
        device="cpu",
    )
    torch.set_num_threads(threads)


@pytest.mark.parametrize("arch", ["resnet18", pytest.param("vit_b_16", marks=pytest.mark.slow)])
def test_flops_are_those_of_torchs_counter_where_no_convolution_has_groups(arch: str) -> None:
    with torch.device("meta"):
        model = create_model(arch, 169, (0.5,) * 3, (0.5,) * 3)
        images = torch.zeros(2, 3, 224, 224, dtype=torch.uint8)
        labels = torch.zeros(2, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    assert sum(each.flops for each in step_work(arch, 224).products) == counter.get_total_flops()


def test_a_depthwise_backward_counts_twice_its_forward() -> None:
    # 0.0564 GMAC forward at 224 px with 1000 classes, by torchvision's own table.
    forward = 2 * 0.0564e9
    assert 2.6 * forward < step_work("mobilenet_v3_small", 224).flops_per_image < 3.1 * forward


def test_the_floor_is_the_longer_of_arithmetic_and_traffic_of_each_product() -> None:
    work = StepWork(
        batch_size=2, products=(Product(flops=100, numbers=1), Product(flops=1, numbers=50)),
        parameters=10,
    )  # fmt: skip
    # At 10 FLOP/s and 4 bytes/s: 10 s of arithmetic, 50 s of traffic, and AdamW's 7 x 40 bytes.
    assert work.floor_s(flop_per_s=10, bytes_per_s=4, itemsize=4) == pytest.approx(10 + 50 + 70)
    assert work.flops_per_image == 50
    assert work.bytes_per_image(4) == pytest.approx((51 * 4 + 280) / 2)


def test_traffic_grows_with_the_batch_but_the_optimizer_does_not() -> None:
    small, large = step_work("resnet18", 64, 2), step_work("resnet18", 64, 32)
    assert large.flops_per_image == pytest.approx(small.flops_per_image, rel=1e-6)
    assert large.bytes_per_image(4) < small.bytes_per_image(4)
    assert large.optimizer_bytes == small.optimizer_bytes == 7 * 4 * small.parameters


def test_the_roofline_sets_each_arch_beside_its_floor(request_tiny: Request) -> None:
    section = measure_roofline(request_tiny, ["squeezenet1_1", "squeezenet1_0"])
    names = [each.name for each in section.results]
    assert names[1:] == [MEMORY, "squeezenet1_1", "squeezenet1_0"]
    row = section.results[2]
    assert row.median is not None
    assert row.details["of_floor"] == pytest.approx(row.median / row.details["floor_images_per_s"])
    assert row.details["floor_epoch_s"] == pytest.approx(
        689_520 / row.details["floor_images_per_s"]
    )
    lines = render_roofline(section).splitlines()
    assert "TFLOP/s; memory:" in lines[1]
    assert lines[3].split()[0] == "squeezenet1_1"


def test_step_variants_are_every_combination_of_what_is_asked_for() -> None:
    found = every_variant(RESOLVED, ["fp32", "bf16"], [False, True], [False])
    assert [each.name for each in found] == [
        "fp32 NCHW", "fp32 channels_last", "bf16 NCHW", "bf16 channels_last",
    ]  # fmt: skip
    assert [each.name for each in every_variant(RESOLVED, compiled=[False, True])] == [
        "bf16 channels_last",
        "bf16 channels_last compiled",
    ]


def test_the_step_stands_beside_the_rate_of_matrix_products(request_tiny: Request) -> None:
    section = measure_step(request_tiny, "squeezenet1_1", ["fp32"], [True])
    step, matrix = section.results
    assert (step.name, matrix.name) == ("fp32 channels_last", "matrix product fp32")
    assert step.median is not None
    assert matrix.median is not None
    achieved = step.median * section.settings["flops_per_image"] / 1e12
    assert step.details["of_matrix_rate"] == pytest.approx(achieved / matrix.median)
    assert f"{achieved / matrix.median:.0%} of matrix product fp32" in step.note


def test_what_needs_a_gpu_is_said_and_the_rest_goes_on(request_tiny: Request) -> None:
    section = measure_step(request_tiny, "squeezenet1_1", ["fp16", "fp32"], [True])
    half, single, _ = section.results
    assert half.note == "not measured: fp16 needs a GPU"
    assert single.median is not None
    assert section.reference == "fp32 channels_last"
    assert any(note.startswith("no GPU: timed by the host's clock") for note in section.notes)


def test_an_arch_that_does_not_fit_the_memory_is_a_row_of_the_roofline(
    request_tiny: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting = StepSubject.block

    def block(self: StepSubject, repeat: int) -> float:
        self.out_of_memory = self.variant.name == "squeezenet1_0"
        return 0.0 if self.out_of_memory else fitting(self, repeat)

    monkeypatch.setattr(StepSubject, "block", block)
    section = measure_roofline(request_tiny, ["squeezenet1_0", "squeezenet1_1"])
    assert section.results[2].note == "not measured: out of memory at batch 4"
    assert section.results[3].median is not None
    line = next(each for each in render_roofline(section).splitlines() if "squeezenet1_0" in each)
    assert line.endswith("out of memory at batch 4")


def test_real_epochs_stand_beside_what_loader_and_step_predict(request_tiny: Request) -> None:
    section = measure_train(request_tiny, "squeezenet1_1", epoch_size=8)
    found = {each.name: each for each in section.results}
    assert list(found) == [LOADER, STEP, MODEL, STEPS, OF_MODEL, WITH_VAL, VAL, WAIT]
    assert (section.settings["images"], section.settings["val_images"]) == (8, 6)
    for loader, step, model, loop, share, both, val, wait in zip(
        *(each.repeats for each in section.results), strict=True
    ):
        assert 1 / model == pytest.approx(1 / loader + 1 / step)
        assert share == pytest.approx(loop / model)
        assert 8 / both == pytest.approx(8 / loop + 6 / val)
        assert 0 <= wait <= 1


def test_the_interval_of_few_values_is_their_range_and_of_many_narrower() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    low, high = median_interval([float(each) for each in range(101)])
    assert 35 < low < 50 < high < 65
    assert Result(name="a", repeats=(3.0, 1.0, 2.0)).interval == (1.0, 3.0)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    import numpy as np

    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = median_interval(rng.lognormal(0.0, 0.3, 15).tolist())
        hits += low <= 1.0 <= high
    assert 180 <= hits  # 95 % of 200 is 190, less 2.4 standard deviations of the count


def test_what_others_do_is_told_in_cores() -> None:
    meter = LoadMeter()
    others = meter.others()
    assert others is None or others >= 0


def test_a_figure_is_marked_when_others_take_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.load.allowed_cores", lambda: 4)
    monkeypatch.setattr("bench.load.os.cpu_count", lambda: 8)
    assert not was_busy(4.5)  # four cores are to spare
    assert was_busy(4.7)
    assert not was_busy(None)
