"""What the rungs of the ladder say: which part of an image's time is the largest, and what moves it.

Two models of end to end. Where loader and step share the cores, their times an image add up; where
the step has a device of its own, they run side by side and the slower one sets the pace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.end_to_end import STEP
from bench.rungs import AUGMENT, DECODE, WARM
from loaders.augment import eval_resize_size

BATCH, COPY, LOADER = "batch", "copy to the device", "loader"
SMALLER = 5 / 7
"""Of an image size for one that halves the work: 224 -> 160."""
STRIDE = 32
"""Most architectures halve the image five times: other sizes waste work at its edge [px]."""

NAMES = {
    WARM: "reading the stored bytes",
    DECODE: "decoding",
    AUGMENT: "augmenting (resize and colour)",
    BATCH: "putting the batch together",
    COPY: "copying to the device",
    LOADER: "the loader",
    STEP: "the step",
}


def image_times(rates: Mapping[str, float | None]) -> dict[str, float]:
    """Seconds that each stage adds to an image, with all threads at work.

    A loader's rung includes those below it, so a stage is the difference between two rungs; the
    step's rung stands by itself. A loader
    that decodes and augments in one pipeline is one stage.

    Args:
        rates: Images a second of each rung; None where it was not measured.
    """
    times: dict[str, float] = {}
    before = 0.0
    for name in (WARM, DECODE, AUGMENT, BATCH, COPY):
        rate = rates.get(name)
        if rate is None:
            continue
        in_one = name != WARM and rates.get(DECODE) is None and LOADER not in times
        times[LOADER if in_one else name] = max(0.0, 1 / rate - before)
        before = 1 / rate
    step = rates.get(STEP)
    if step is not None:
        times[STEP] = 1 / step
    return times


def loader_rate(rates: Mapping[str, float | None]) -> float:
    """Images a second that reach the device: of the last rung of the loader."""
    found = [rates[name] for name in (BATCH, COPY) if rates.get(name) is not None]
    assert found
    assert found[-1] is not None
    return found[-1]


def shared_cores(loader: float, step: float | None) -> float:
    """Images a second, end to end, of a loader and a step that use the same cores in turn."""
    return loader if step is None else 1 / (1 / loader + 1 / step)


def side_by_side(loader: float, step: float | None) -> float:
    """Images a second, end to end, of a step that runs on a device of its own."""
    return loader if step is None else min(loader, step)


def limit(times: Mapping[str, float], *, sharing: bool) -> str:
    """The stage to look at first.

    Args:
        times: Of :func:`image_times`.
        sharing: Whether loader and step share the cores.
    """
    stages = dict(times)
    if not sharing and STEP in times:
        step = stages.pop(STEP)
        if step >= sum(stages.values()):
            return STEP
    return max(stages, key=lambda name: stages[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What the advice depends on."""

    device: str
    """``cpu``, ``cuda`` or ``mps``."""
    loader: str
    threads: int
    cores: int
    image_size: int
    resample: str
    stored: Mapping[str, Any]
    """Packing options of the shard set."""
    precision: str
    compiled: bool
    cpu_has_bf16: bool


def advice(stage: str, at: Circumstances) -> str:
    """The one option that would move the stage that limits, with what it is for."""
    if stage == STEP:
        return _for_the_step(at)
    if at.device == "cuda" and at.loader == "opencv":
        return "`--loader dali` (decodes on the GPU)"
    if at.threads < at.cores:
        return f"`--threads {at.cores}` (the cores allowed here; {at.threads} in use)"
    if stage == DECODE:
        return _for_decoding(at)
    if stage in (AUGMENT, LOADER) and at.resample == "antialias":
        return "`--resample linear` (of training images; evaluation stays antialiased)"
    if stage == WARM:
        return "`--quality 80` when packing (fewer bytes)"
    if stage == BATCH:
        return "a larger `--batch-size` (fewer hand-overs)"
    if stage == COPY:
        return f"`--image-size {smaller_size(at.image_size)}` (fewer bytes)"
    return "no option: more CPU cores do"


def smaller_size(image_size: int) -> int:
    """The size to try next, with about half the pixels [px]."""
    return max(STRIDE, round(image_size * SMALLER / STRIDE) * STRIDE)


def _for_decoding(at: Circumstances) -> str:
    needed = eval_resize_size(at.image_size)
    if (at.stored.get("short_side") or 0) > needed:
        return (
            f"`--short-side {needed}` when packing (what evaluation at {at.image_size} px needs; "
            f"the shards store {at.stored['short_side']})"
        )
    if at.stored.get("raw_share", 0) < 1:
        return "`--store raw` when packing (nothing to decode, several times the room)"
    return "no option: more CPU cores do"


def _for_the_step(at: Circumstances) -> str:
    if at.device == "cpu" and at.precision == "fp32" and at.cpu_has_bf16:
        return "`--precision bf16` (this CPU computes it)"
    if at.device == "cuda" and at.precision == "fp32":
        return "`--precision bf16`"
    if at.device == "cuda" and not at.compiled:
        return "`--compile on`"
    size = smaller_size(at.image_size)
    if size >= at.image_size:
        return "an `--arch` with fewer FLOPs"
    share = (size / at.image_size) ** 2
    return f"`--image-size {size}` (about {share:.0%} of the FLOPs an image)"
