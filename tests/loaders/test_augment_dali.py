"""Erasing through DALI: the operator alone, and in the graph of either device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loaders.augment import ERASE_FILL, AugmentConfig
from loaders.config import LoaderConfig

pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")

from loaders import dali as backend

pytestmark = pytest.mark.dali


def test_erase_fills_what_a_slice_would_and_nothing_for_an_empty_rectangle() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), dtype=np.uint8)
    boxes = np.array([[0, 0, 0, 0], [2, 3, 4, 5], [0, 0, 20, 24], [19, 23, 1, 1]])
    corners, sizes = np.split(boxes.astype(np.float32), 2, axis=1)
    pipeline = backend.dali.Pipeline(batch_size=4, num_threads=1, device_id=None)
    with pipeline:
        data, corner, size = backend.fn.external_source(
            source=lambda: [images, np.ascontiguousarray(corners), np.ascontiguousarray(sizes)],
            num_outputs=3,
            layout=["HWC", "", ""],
        )
        pipeline.set_outputs(
            backend.fn.erase(
                data, anchor=corner, shape=size, axis_names="HW", fill_value=ERASE_FILL
            )
        )
    (output,) = pipeline.run()
    wanted = images.copy()
    for image, (top, left, height, width) in zip(wanted, boxes, strict=True):
        image[top : top + height, left : left + width] = ERASE_FILL
    np.testing.assert_array_equal(np.asarray(output.as_tensor()), wanted)


@pytest.mark.parametrize(
    "augment",
    [AugmentConfig(erase_prob=0.5), AugmentConfig(grayscale_prob=0.1, erase_prob=1, hflip_prob=0)],
)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_graph_with_erasing_can_be_defined(
    augment: AugmentConfig, device: backend.GraphDevice
) -> None:
    config = LoaderConfig(
        shards=Path("set"), backend="dali", device="cuda:0", augment=augment, threads=1
    )
    pipeline = backend.define_graph(config, device)
    with pipeline:
        images = backend.graph(config, device, None)
    assert images.device == device
    assert "erase" in images.name.lower()
