"""The published table beside this machine, and finished runs beside both.

Scores and times of the left half are the course's. The right half is measured here at the published
image size, or shows a dash; the time for as many images as the published runs saw is extrapolated
from it, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from bench.end_to_end import STEP, TOGETHER, measure_end_to_end
from bench.recipe_costs import HEADER, cost_results, cost_rows, measure_costs
from bench.request import Request
from bench.result import (
    NOT_MEASURED,
    Result,
    Section,
    interval,
    not_measured,
    number,
    text_table,
    unsteady,
)
from bench.runs import render_runs
from shards.machine import human_time
from train.method.models import check_arch
from train.scores.published import (
    CAUTIONS,
    EPOCHS,
    IMAGE_SIZE,
    TRAIN_ROWS,
    PublishedRow,
    published_table,
)

SAMPLES = EPOCHS * TRAIN_ROWS
"""Images that a published run was trained on."""
THEIRS = ("arch", "mIoU", "mF1", "OA", "time", "img/s implied", "file")
TOTAL = f"{SAMPLES / 1e6:.2f} million images"


def measure_table(
    request: Request,
    archs: Sequence[str],
    runs: Sequence[dict[str, Any]] = (),
    recipes: Sequence[str] = (),
) -> Section:
    """Measure ``archs`` at the published image size and set them beside the published rows.

    Args:
        request: Shards, batch size, threads, device, repeats.
        archs: Of torchvision or timm.
        runs: Finished ones, as of :func:`bench.runs.finished_runs`.
        recipes: Whose own image sizes are measured, too.

    Raises:
        UserError: An unknown architecture, or the device is not there.
        ShardError: The shard set is missing or damaged.
    """
    for arch in archs:
        check_arch(arch)
    measured = {arch: measure_arch(request, arch) for arch in archs}
    sized = {(arch, IMAGE_SIZE): section for arch, section in measured.items()}
    return table_section(measured, runs, measure_costs(request, recipes, sized))


def measure_arch(request: Request, arch: str) -> Section:
    """Step, and loader and step together, at the published image size."""
    return measure_end_to_end(replace(request, image_size=IMAGE_SIZE), arch)


def table_section(
    measured: dict[str, Section],
    runs: Sequence[dict[str, Any]] = (),
    sized: Mapping[tuple[str, int], Section] | None = None,
) -> Section:
    """The table as data: every published arch, and every measured one.

    Args:
        measured: By architecture, at the published image size.
        runs: Finished ones.
        sized: By architecture and image size, for the other recipes; by default ``measured``.
    """
    if sized is None:
        sized = {(arch, IMAGE_SIZE): section for arch, section in measured.items()}
    published = published_table()
    archs = [*published, *(arch for arch in measured if arch not in published)]
    results = [each for arch in archs for each in _arch_results(arch, measured.get(arch))]
    recipe_results, recipes = cost_results(list(measured), sized)
    results += recipe_results
    notes = [
        f"{arch} here{f' at {size} px' if size != IMAGE_SIZE else ''}: {note}"
        for (arch, size), section in sized.items()
        for note in (_conditions(section.settings), *section.notes)
    ]
    return Section(
        name="table",
        title=(
            f"published: {EPOCHS} epochs of {TRAIN_ROWS:,} rows at {IMAGE_SIZE} px on one 48 GB "
            f"GPU; here: {IMAGE_SIZE} px, measured unless marked"
        ),
        results=tuple(results),
        settings={
            "published": [asdict(row) | derived(row) for row in published.values()],
            "measured": {arch: section.settings for arch, section in measured.items()},
            "recipes": recipes,
            "runs": list(runs),
        },
        notes=(*CAUTIONS, *notes),
    )


def derived(row: PublishedRow) -> dict[str, float]:
    """What follows from a published time: the rate of training, evaluation and all."""
    return {"images_per_s_implied": SAMPLES / row.seconds}


def extrapolate(arch: str, rate: Result) -> Result:
    """Time for the images of a published run at a measured rate; evaluation comes on top."""
    return Result(
        name=f"{arch}, {TOTAL}",
        repeats=tuple(SAMPLES / each for each in rate.repeats),
        unit="s",
        measured=False,
        note="extrapolated from loader and step together; without evaluation",
    )


def render_table(section: Section) -> str:
    """The table, the cautions and the runs as text."""
    published = {row["arch"]: row for row in section.settings["published"]}
    archs = dict.fromkeys([*published, *section.settings["measured"]])
    rows = [
        ["", "published", *[""] * 5, "here, measured", "", "extrapolated"],
        [*THEIRS, "img/s", "of theirs", TOTAL],
    ]
    rows += [_text_row(section, arch, published.get(arch)) for arch in archs]
    lines = [section.title, *(f"  {line}" for line in text_table(rows))]
    lines += [f"  caution: {each}" for each in CAUTIONS]
    notes = [each for each in section.notes if each not in CAUTIONS] + unsteady(section)
    lines += [f"  note: {each}" for each in notes]
    return "\n".join([*lines, *_render_recipes(section), *render_runs(section.settings["runs"])])


def _render_recipes(section: Section) -> list[str]:
    """Lines for the recipes; none where nothing was measured."""
    cells = cost_rows(section)
    if not cells:
        return []
    lines = ["recipes on the published data, their own samples at their own sizes:"]
    return lines + [f"  {line}" for line in text_table([[*HEADER], *cells], left=(0, 1))]


def _arch_results(arch: str, section: Section | None) -> tuple[Result, Result, Result]:
    names = f"{arch} step", f"{arch} loader and step", f"{arch}, {TOTAL}"
    if section is None:
        why = f"ask with --arch {arch}"
        step, together, total = (not_measured(name, why) for name in names)
        return step, together, replace(total, unit="s")
    step, together = (
        replace(_required(section, name), name=new)
        for name, new in zip((STEP, TOGETHER), names, strict=False)
    )
    return step, together, extrapolate(arch, together)


def _conditions(settings: dict[str, Any]) -> str:
    return (
        f"loader and step together, batch {settings['batch_size']}, {settings['precision']} on "
        f"{settings['device']}, loader {settings['loader']}, photographs of {settings['shards']}"
    )


def _required(section: Section, name: str) -> Result:
    result = section.find(name)
    if result is None:
        raise ValueError(f"section {section.name!r} has no result {name!r}")
    return result


def _text_row(section: Section, arch: str, published: dict[str, Any] | None) -> list[str]:
    together = _required(section, f"{arch} loader and step")
    total = _required(section, f"{arch}, {TOTAL}")
    theirs = [NOT_MEASURED] * 6
    ratio = NOT_MEASURED
    if published is not None:
        theirs = [f"{100 * published[name]:.1f}" for name in ("miou", "mf1", "oa")]
        theirs += [human_time(published["seconds"]), number(published["images_per_s_implied"])]
        theirs.append(published["file"])
        if together.median is not None:
            ratio = f"{number(together.median / published['images_per_s_implied'])}x"
    time = NOT_MEASURED if total.median is None else f"{human_time(total.median)} (extrapolated)"
    return [arch, *theirs, _rate(together), ratio, time]


def _rate(result: Result) -> str:
    if result.median is None:
        return NOT_MEASURED
    return f"{number(result.median)} ({interval(result)}, n {len(result.repeats)})"
