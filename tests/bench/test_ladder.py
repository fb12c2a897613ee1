"""The ladder measures every rung, names the one that limits, and the option that would move it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.bars import log_bars
from bench.end_to_end import STEP
from bench.ladder import (
    BESIDE,
    NO_MODEL,
    RUNGS,
    SHARED,
    TOGETHER,
    measure_ladder,
    render_ladder,
    sentences,
)
from bench.request import Request
from bench.result import Report
from bench.rungs import AUGMENT, DECODE, WARM, BareRungs
from bench.verdict import (
    BATCH,
    COPY,
    LOADER,
    Circumstances,
    advice,
    image_times,
    limit,
    shared_cores,
    side_by_side,
    smaller_size,
)
from loaders.augment import AugmentConfig
from loaders.config import LoaderConfig

OPENCV: dict[str, float | None] = {WARM: 10_000, DECODE: 2_000, AUGMENT: 1_000, BATCH: 800}
CPU = Circumstances(
    device="cpu",
    loader="opencv",
    threads=2,
    cores=2,
    image_size=224,
    resample="linear",
    stored={"short_side": 440, "raw_share": 0.0},
    precision="fp32",
    compiled=False,
    cpu_has_bf16=False,
)


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


def test_a_rung_adds_what_it_takes_beyond_the_one_below() -> None:
    times = image_times(OPENCV | {STEP: 10.0})
    assert times == pytest.approx(
        {WARM: 1e-4, DECODE: 4e-4, AUGMENT: 5e-4, BATCH: 2.5e-4, STEP: 0.1}
    )


def test_a_rung_that_is_faster_than_the_one_below_adds_nothing() -> None:
    assert image_times({WARM: 100.0, DECODE: 110.0})[DECODE] == 0


def test_a_loader_in_one_pipeline_is_one_stage() -> None:
    times = image_times({WARM: 10_000, DECODE: None, AUGMENT: None, BATCH: None, COPY: 2_000})
    assert times == pytest.approx({WARM: 1e-4, LOADER: 4e-4})


def test_on_shared_cores_the_largest_time_limits() -> None:
    assert limit(image_times(OPENCV | {STEP: 10.0}), sharing=True) == STEP
    assert limit(image_times(OPENCV | {STEP: 5_000.0}), sharing=True) == AUGMENT
    assert limit(image_times(OPENCV), sharing=True) == AUGMENT


def test_side_by_side_the_slower_of_loader_and_step_limits() -> None:
    faster_than_the_loader_but_its_longest_time = OPENCV | {STEP: 1_500.0}
    times = image_times(faster_than_the_loader_but_its_longest_time)
    assert limit(times, sharing=True) == STEP
    assert limit(times, sharing=False) == AUGMENT
    assert limit(image_times(OPENCV | {STEP: 700.0}), sharing=False) == STEP


def test_the_models_of_end_to_end() -> None:
    assert shared_cores(100, 25) == pytest.approx(20)
    assert side_by_side(100, 25) == 25
    assert shared_cores(100, None) == side_by_side(100, None) == 100


@pytest.mark.parametrize(
    ("stage", "at", "option"),
    [
        (STEP, CPU, "`--image-size 160` (about 51% of the FLOPs"),
        (STEP, replace(CPU, cpu_has_bf16=True), "`--precision bf16`"),
        (STEP, replace(CPU, device="cuda", precision="bf16"), "`--compile on`"),
        (STEP, replace(CPU, image_size=32), "an `--arch` with fewer FLOPs"),
        (DECODE, CPU, "`--short-side 257` when packing"),
        (DECODE, replace(CPU, stored={"short_side": 256}), "`--store raw` when packing"),
        (DECODE, replace(CPU, cores=8), "`--threads 8`"),
        (DECODE, replace(CPU, device="cuda"), "`--loader dali`"),
        (AUGMENT, replace(CPU, resample="antialias"), "`--resample linear`"),
        (AUGMENT, CPU, "more CPU cores"),
        (WARM, CPU, "`--quality 80` when packing"),
        (BATCH, CPU, "a larger `--batch-size`"),
        (COPY, replace(CPU, device="cuda", loader="dali"), "`--image-size 160`"),
    ],
)
def test_the_advice_names_one_option(stage: str, at: Circumstances, option: str) -> None:
    assert advice(stage, at).startswith(option) or option in advice(stage, at)


@pytest.mark.parametrize(("size", "smaller"), [(224, 160), (384, 288), (128, 96), (32, 32)])
def test_the_smaller_size_is_one_that_networks_divide_evenly(size: int, smaller: int) -> None:
    assert smaller_size(size) == smaller


def test_every_rung_of_a_step_on_the_cpu_is_measured(request_tiny: Request) -> None:
    section = measure_ladder(request_tiny, "squeezenet1_1", "antialias")
    found = {each.name: each for each in section.results}
    assert list(found) == [*RUNGS, SHARED, BESIDE]
    for name in (WARM, DECODE, AUGMENT, BATCH, STEP, TOGETHER):
        assert len(found[name].repeats) == 2
        assert min(found[name].repeats) > 0
    assert found[COPY].note == "not measured: no GPU: the batch stays where it is"
    assert not found[SHARED].measured
    assert section.settings["limit"] == STEP
    assert Report.from_json(Report(environment={}, sections=(section,)).to_json()).sections == (
        section,
    )


def test_without_a_model_the_loader_is_what_limits(request_tiny: Request) -> None:
    section = measure_ladder(request_tiny, NO_MODEL, "linear")
    assert section.settings["limit"] in (WARM, DECODE, AUGMENT, BATCH)
    step = section.find(STEP)
    assert step is not None
    assert step.note == "not measured: no model"
    shared, beside = section.find(SHARED), section.find(BESIDE)
    assert shared is not None
    assert beside is not None
    assert shared.repeats == beside.repeats
    assert "cores: " not in render_ladder(section)
    assert section.notes == (
        "recipe baseline resamples with antialias: measure that with --resample antialias",
    )


def test_the_sentences_name_limit_option_cores_and_model(request_tiny: Request) -> None:
    section = measure_ladder(request_tiny, NO_MODEL, "linear")
    told = {
        "limit": STEP,
        "option": "`--image-size 160`",
        "image_ms": {WARM: 0.1, DECODE: 0.9, STEP: 9.0},
        "cores_to_feed_the_step": 2.4,
    }
    results = tuple(
        replace(each, repeats=(95.0,)) if each.name == TOGETHER
        else replace(each, repeats=(100.0,)) if each.name == SHARED
        else each
        for each in section.results
    )  # fmt: skip
    lines = sentences(replace(section, results=results, settings=section.settings | told))
    assert lines == [
        "limit: the step, 9.00 ms of the 10.0 ms that an image takes (90%); to move it: "
        "`--image-size 160`",
        "cores: 3 CPU cores that only load would feed the step (2.40 kept busy)",
        "end to end: 95.0 images/s, 95% of 100 (model: shared cores)",
    ]


def test_what_is_mapped_is_never_called_cold(tiny_shards: Path) -> None:
    config = LoaderConfig(
        shards=tiny_shards, batch_size=4, image_size=32, augment=AugmentConfig(), threads=1
    )
    with BareRungs(config) as bare:
        for subject in bare.warm_subjects(0.001):
            assert subject.block(0) > 0
        assert bare.cold_rate(0) is None


def test_bars_are_logarithmic_and_keep_their_order() -> None:
    lines = log_bars([("decode", 1000.0), ("step", 10.0), ("end", 1.0)], width=30)
    assert lines == [
        "        1         10        100       1,000",
        "decode  " + "█" * 30 + " 1,000",
        "step    " + "█" * 10 + " 10.0",
        "end     ▏ 1.00",
    ]


def test_bars_of_one_value_or_none_do_not_fail() -> None:
    assert log_bars([]) == []
    assert log_bars([("a", 5.0)])[1].startswith("a  █")


@pytest.mark.speed
@pytest.mark.parametrize("arch", ["resnet18", NO_MODEL])
def test_end_to_end_is_within_a_tenth_of_the_stated_model(tiny_shards: Path, arch: str) -> None:
    request = Request(
        shards=tiny_shards, image_size=96, batch_size=4, repeats=5, block_s=0.3, device="cpu"
    )
    section = measure_ladder(request, arch, "linear")
    together, model = section.find(TOGETHER), section.find(section.settings["model"])
    assert together is not None
    assert model is not None
    ratios = [a / b for a, b in zip(together.repeats, model.repeats, strict=True)]
    assert sorted(ratios)[len(ratios) // 2] == pytest.approx(1, abs=0.1)
