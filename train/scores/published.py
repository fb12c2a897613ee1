"""The course's published results, and when a result of ours may stand beside them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from shards.format import Manifest

EPOCHS = 20
TRAIN_ROWS = 689_520  # 169 classes x 4080 rows
TRAIN_FILES = 72_870  # different files that the rows name, by the published counts
TEST_COUNT = 15_614
IMAGE_SIZE = 384

CAUTIONS = (
    "the published resnet101 is an outlier (slower per FLOP than resnet152): its time is noisy",
    "the published resnet18, perhaps 34, waited for CPU decoding and the others for the GPU, so a "
    "faster loader alone does not shorten resnet50 and up",
)
"""To be repeated wherever the table is shown."""


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row of the published table; scores in [0, 1]."""

    arch: str
    miou: float
    mf1: float
    oa: float
    seconds: int
    """Training time of 20 epochs on the course's server (one 48 GB GPU)."""
    file: str
    """Of the published weights."""

    @property
    def images_per_s(self) -> float:
        """Training images over training time: what the published time implies."""
        return EPOCHS * TRAIN_ROWS / self.seconds


@cache
def published_table() -> dict[str, PublishedRow]:
    """The rows by arch, in the published order."""
    text = _data("baseline.csv")
    return {
        row["arch"]: PublishedRow(
            arch=row["arch"],
            miou=float(row["test_miou"]) / 100,
            mf1=float(row["test_mf1"]) / 100,
            oa=float(row["test_oa"]) / 100,
            seconds=_seconds(row["training_time"]),
            file=row["file"],
        )
        for row in csv.DictReader(text.splitlines())
    }


@cache
def published_class_names() -> tuple[str, ...]:
    """The 169 species of the published set, in label order."""
    return tuple(_data("class_names.txt").split("\n")[:-1])


def incomparable(manifest: Manifest, image_size: int) -> str | None:
    """Why a test result on this set must not stand beside the published one; None if it may."""
    if manifest.class_names != published_class_names():
        return "other classes than the published set"
    test = manifest.splits.get("test")
    if test is None or test.samples != TEST_COUNT:
        found = 0 if test is None else test.samples
        return f"{found:,} test photographs, the published set has {TEST_COUNT:,}"
    if image_size != IMAGE_SIZE:
        return f"image size {image_size}, the published results have {IMAGE_SIZE}"
    return None


def _seconds(time: str) -> int:
    """``'16h43' -> 60180``."""
    hours, minutes = time.split("h")
    return int(hours) * 3600 + int(minutes) * 60


def _data(name: str) -> str:
    return resources.files("train").joinpath("data", name).read_text(encoding="utf-8")
