"""Speeds of one run beside each other: what a change must not lose, on any machine.

Never against a constant from someone's desk: each bound is a ratio of two figures of the same run,
set well below what it is (beside it), so that a shared machine does not trip it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.loaders import measure_loaders
from bench.request import Request
from bench.result import Section
from preprocess.demo_data import draw_demo_data

pytestmark = pytest.mark.speed


@pytest.fixture(scope="module")
def loaders(tmp_path_factory: pytest.TempPathFactory, pack_set: Callable[..., object]) -> Section:
    folder = tmp_path_factory.mktemp("ratios")
    draw_demo_data(folder / "photographs", train_files=20, eval_files=1, size=440)
    pack_set(folder / "photographs", folder / "set", short_side=440)
    request = Request(
        shards=Path(folder / "set"), image_size=224, repeats=5, block_s=0.3, device="cpu"
    )
    return measure_loaders(request)


def ratio(section: Section, one: str, other: str) -> float:
    found = section.find(one), section.find(other)
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].median is not None
    assert found[1].median is not None
    return found[0].median / found[1].median


@pytest.mark.parametrize(
    ("one", "other", "least"),
    [
        ("read only", "decode", 8),  # 39
        ("opencv linear", "decode", 0.45),  # 0.77
        ("opencv linear", "opencv antialias", 1.05),  # 1.43
        ("opencv linear", "torchvision DataLoader", 2),  # 5.4
        pytest.param("opencv linear", "dali-cpu linear", 1.3, marks=pytest.mark.dali),  # 2.9
    ],
)
def test_a_back_end_keeps_its_lead(loaders: Section, one: str, other: str, least: float) -> None:
    assert ratio(loaders, one, other) > least
