"""How far the training step is from what the device can do at best, for each architecture.

The ceilings are measured in the same turns as the steps: products of large matrices in the step's
own precision, and copying memory. What a step has to do at least is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bench.machine_rates import MEMORY, matrix_name, matrix_subject, memory_subject
from bench.operations import step_work
from bench.request import Request
from bench.result import (
    NOT_MEASURED,
    Result,
    Section,
    not_measured,
    number,
    text_table,
    unsteady,
)
from bench.step import CPU_BATCH, GPU_BATCH, device_note, step_subject, synthetic_batch
from bench.timing import Subject, in_turns
from shards.machine import human_time
from train.config.device import DTYPES
from train.scores.published import TRAIN_ROWS

HEADER = (
    "arch", "M params", "GFLOP/img", "MB/img", "FLOP/byte", "floor img/s", "step img/s", "of floor",
    "floor of an epoch", "at this step", "peak GiB",
)  # fmt: skip


def measure_roofline(request: Request, archs: Sequence[str]) -> Section:
    """Step and floor of each architecture, as this machine trains.

    Raises:
        UserError: No such architecture or device.
    """
    config, resolved = request.training(archs[0], cpu_batch=CPU_BATCH, gpu_batch=GPU_BATCH)
    device, precision = resolved.device, resolved.precision
    matrix = matrix_subject(device, precision, request.block_s)
    memory = memory_subject(device, request.block_s)
    batch = synthetic_batch(config, device)
    steps = [
        step_subject(arch, request.training(arch, cpu_batch=CPU_BATCH, gpu_batch=GPU_BATCH), batch,
                     request.block_s)
        for arch in archs
    ]  # fmt: skip
    subjects = [Subject(each.variant.name, each.block) for each in steps]
    values = in_turns([matrix, memory, *subjects], request.repeats, "roofline", request.budget_s)
    flop_per_s = Result(name=matrix.name, repeats=values[matrix.name], unit="FLOP/s")
    bytes_per_s = Result(name=MEMORY, repeats=values[MEMORY], unit="bytes/s", note=memory.note)
    assert flop_per_s.median is not None
    assert bytes_per_s.median is not None
    results = [flop_per_s, bytes_per_s]
    itemsize = torch.empty((), dtype=DTYPES[precision]).itemsize
    for arch, subject in zip(archs, steps, strict=True):
        if subject.out_of_memory:
            results.append(not_measured(arch, f"out of memory at batch {config.batch_size}"))
            continue
        work = step_work(arch, config.image_size, config.batch_size)
        floor_s = work.floor_s(
            flop_per_s=flop_per_s.median, bytes_per_s=bytes_per_s.median, itemsize=itemsize
        )
        step = Result(name=arch, repeats=values[arch])
        assert step.median is not None
        floor = config.batch_size / floor_s
        details = {
            "parameters": work.parameters,
            "flops_per_image": work.flops_per_image,
            "bytes_per_image": work.bytes_per_image(itemsize),
            "floor_images_per_s": floor,
            "of_floor": step.median / floor,
            "floor_epoch_s": TRAIN_ROWS / floor,
            "peak_memory_gib": subject.peak_memory_gib,
        }
        results.append(Result(name=arch, repeats=step.repeats, details=details))
    return Section(
        name="roofline",
        title=(
            f"roofline: {config.image_size} px, batch {config.batch_size}, {precision}"
            f"{' compiled' if resolved.compile else ''} on {device}, an epoch of {TRAIN_ROWS:,} images"
        ),
        results=tuple(results),
        settings={
            "archs": list(archs),
            "image_size": config.image_size,
            "batch_size": config.batch_size,
            "matrix": matrix_name(precision),
            **resolved.to_dict(),
        },
        notes=(
            "floor: every product takes as long as its arithmetic at the rate of large matrices, or "
            "its traffic at the rate of copies; all else fused into them; the optimizer added",
            device_note(device),
        ),
    )


def render_roofline(section: Section) -> str:
    """The two ceilings, and a line for each architecture."""
    found = {each.name: each for each in section.results}
    matrix, memory = found[section.settings["matrix"]], found[MEMORY]
    assert matrix.median is not None
    assert memory.median is not None
    rows = [list(HEADER), *(_row(found[arch]) for arch in section.settings["archs"])]
    return "\n".join(
        [
            section.title,
            f"  {matrix.name}: {matrix.median / 1e12:.3g} TFLOP/s; memory: "
            f"{memory.median / 1e9:.3g} GB/s ({memory.note})",
            *(f"  {line}" for line in text_table(rows)),
            *(f"  note: {note}" for note in (*section.notes, *unsteady(section))),
        ]
    )


def _row(result: Result) -> list[str]:
    at: dict[str, Any] = result.details
    if result.median is None:
        return [result.name, *[NOT_MEASURED] * (len(HEADER) - 2), result.note]
    peak = at["peak_memory_gib"]
    return [
        result.name,
        number(at["parameters"] / 1e6),
        number(at["flops_per_image"] / 1e9),
        number(at["bytes_per_image"] / 1e6),
        number(at["flops_per_image"] / at["bytes_per_image"]),
        number(at["floor_images_per_s"]),
        number(result.median),
        f"{at['of_floor']:.0%}",
        human_time(at["floor_epoch_s"]),
        human_time(TRAIN_ROWS / result.median),
        NOT_MEASURED if peak is None else f"{peak:.1f}",
    ]
