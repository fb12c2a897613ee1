"""A graph in 8-bit integers for CPUs, by onnxruntime, and what that costs.

Weights become int8 with a scale for each output channel, activations uint8 with a scale of each tensor,
from the lowest and highest values on photographs of train. What makes the probabilities, after the
last matrix product, stays in floats, and so does the normalisation: 256 levels are too few for either.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loaders.batch import Batch
from train.checkpoints.checkpoint import Checkpoint
from train.config.resolve import Resolved
from train.inference.exported import Deployment
from train.inference.exported_images import BATCH, judged_split, shown
from train.scores.metrics import Scores, scores
from train.scores.outputs import confusion_of

CALIBRATED_ON = 4 * BATCH
"""Photographs of train, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of 8 bits, on the same images."""

    split: str
    images: int
    flips: int
    """Images that get another label."""
    plain: Scores
    """With floats."""
    int8: Scores
    time_ratio: float
    """Time of the integers over that of the floats, on this machine."""

    def __str__(self) -> str:
        return (
            f"int8 on {self.images:,} images of {self.split}: {self.flips:,} other labels, mIoU "
            f"{self.int8.miou:.4f} for {self.plain.miou:.4f}, OA {self.int8.oa:.4f} for "
            f"{self.plain.oa:.4f}; {self.time_ratio:.2f} of the time here"
        )


def quantise_file(
    file: Path, deployed: Deployment, saved: Checkpoint, resolved: Resolved, folder: Path
) -> Cost:
    """Put a graph of 8-bit integers in the place of one of floats, and measure both.

    Args:
        file: ONNX, of the model; written.
        deployed: The model.
        saved: Its checkpoint.
        resolved: On a CPU.
        folder: The shard set: train to calibrate on, test (or val) to measure on.
    """
    small = file.with_name(f"{file.name}.int8")
    try:
        with closing(shown(saved, resolved, folder, "train", shuffle=True)) as batches:
            quantise(file, small, islice(batches, CALIBRATED_ON // BATCH))
        split = judged_split(saved, folder)
        with closing(shown(saved, resolved, folder, split)) as batches:
            cost = measure_cost(file, small, split, batches, len(saved.class_names))
        note_cost(small, deployed.metadata, cost)
        os.replace(small, file)
    finally:
        small.unlink(missing_ok=True)
    return cost


def quantise(source: Path, target: Path, calibration: Iterable[Batch]) -> None:
    """Write a graph in 8 bits.

    Args:
        source: An ONNX file of ours.
        target: What to write.
        calibration: Of train.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(calibration)

        def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"images": _pixels(batch)}

    logging.getLogger().addFilter(_without_advice)
    try:
        with tempfile.TemporaryDirectory(prefix="hyphae-") as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(target),
                Reader(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                # Seven bits of a weight: products of eight overflow on CPUs without VNNI.
                reduce_range=True,
                nodes_to_exclude=_outside(prepared),
            )
    finally:
        logging.getLogger().removeFilter(_without_advice)


def _pixels(batch: Batch) -> npt.NDArray[np.uint8]:
    """``(B, 3, S, S)`` as it is called, without gaps."""
    return np.ascontiguousarray(batch.images.numpy())


def _without_advice(record: logging.LogRecord) -> bool:
    """Onnxruntime advises to prepare the graph, which was done."""
    return record.levelno > logging.WARNING


def _outside(file: Path) -> list[str]:
    """Names of the nodes before the first and after the last matrix product or convolution."""
    import onnx

    nodes = onnx.load(file, load_external_data=False).graph.node
    products = [at for at, node in enumerate(nodes) if node.op_type in ("Conv", "Gemm", "MatMul")]
    return [node.name for node in (*nodes[: products[0]], *nodes[products[-1] + 1 :])]


def measure_cost(
    plain: Path, int8: Path, split: str, batches: Iterable[Batch], classes: int
) -> Cost:
    """Run both files over the same images, batch by batch in turn.

    Args:
        plain: With floats.
        int8: With integers.
        split: Name of what the images are of.
        batches: The images.
        classes: K.
    """
    import onnxruntime

    sessions = [
        onnxruntime.InferenceSession(str(each), providers=["CPUExecutionProvider"])
        for each in (plain, int8)
    ]
    confusions = [torch.zeros(classes, classes, dtype=torch.int64) for _ in sessions]
    seconds = [0.0, 0.0]
    images = flips = 0
    for batch in batches:
        pixels = _pixels(batch)
        if not images:  # the first run of a session prepares its memory
            for session in sessions:
                session.run(None, {"images": pixels})
        said = []
        for at, session in enumerate(sessions):
            start = time.perf_counter()
            (probabilities,) = session.run(None, {"images": pixels})
            seconds[at] += time.perf_counter() - start
            said.append(torch.from_numpy(probabilities).argmax(1))
            confusions[at] += confusion_of(batch.labels, said[at], classes)
        images += len(batch)
        flips += int((said[0] != said[1]).sum())
    return Cost(
        split=split,
        images=images,
        flips=flips,
        plain=scores(confusions[0]),
        int8=scores(confusions[1]),
        time_ratio=seconds[1] / seconds[0],
    )


def note_cost(file: Path, metadata: dict[str, str], cost: Cost) -> None:
    """Write the metadata and what 8 bits cost into a file."""
    import onnx

    model = onnx.load(file)
    about: dict[str, Any] = {"int8": asdict(cost), "calibrated_on": CALIBRATED_ON}
    noted = metadata | {name: json.dumps(value) for name, value in about.items()}
    onnx.helper.set_model_props(model, noted)
    onnx.save(model, str(file))
