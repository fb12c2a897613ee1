"""What each recipe would take on the published data: its own samples at its own image sizes.

A recipe shows so many images at each size; at the rate that is measured here for its architecture and
size that is a time, extrapolated and called so. Evaluation comes on top, as in the table above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.end_to_end import TOGETHER, measure_end_to_end
from bench.request import Request
from bench.result import NOT_MEASURED, Result, Section, not_measured, number
from shards.machine import human_time
from train.config.config import TrainConfig
from train.config.recipes import RECIPES, create_recipe
from train.config.resolution import training_sizes
from train.scores.published import TRAIN_FILES, TRAIN_ROWS, published_class_names

HEADER = ("recipe", "arch", "million images", "px", "img/s here", "extrapolated", "of baseline")


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run with images of one size."""

    image_size: int
    images: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What a recipe shows an architecture."""

    recipe: str
    arch: str
    phases: tuple[Phase, ...]
    """Empty where no training step is made."""

    @property
    def images(self) -> float:
        """Of all sizes."""
        return sum(each.images for each in self.phases)


def costs(archs: Sequence[str]) -> list[Cost]:
    """Every recipe with each of ``archs``; one that starts from weights with its own alone."""
    found = []
    for name in RECIPES:
        config = create_recipe(name)
        for arch in archs if config.weights is None else [config.arch]:
            found.append(Cost(name, arch, phases(replace(config, arch=arch))))
    return found


def phases(config: TrainConfig) -> tuple[Phase, ...]:
    """The training images of a run on the published data, by size, in the order of their use."""
    if config.head == "only":
        return ()
    images = config.samples or config.epochs * _epoch(config)
    sizes = training_sizes(config)
    return tuple(Phase(size, images / len(sizes)) for size in sizes)


def _epoch(config: TrainConfig) -> int:
    """Training images of an epoch of the published data."""
    if config.epoch_size is not None:
        return config.epoch_size
    if config.mini is not None:
        return min(TRAIN_ROWS, config.mini * len(published_class_names()))
    return TRAIN_ROWS if config.sampling == "csv" else TRAIN_FILES


def measure_costs(
    request: Request, asked: Sequence[str], known: Mapping[tuple[str, int], Section]
) -> dict[tuple[str, int], Section]:
    """Loader and step together for each architecture and size of the recipes that are asked for.

    Args:
        request: Shards, batch size, threads, device, repeats.
        asked: Names of recipes.
        known: What is measured already, by architecture and size.

    Returns:
        The same with what was missing; under keys ``(arch, image_size)``.
    """
    found = dict(known)
    archs = list(dict.fromkeys(arch for arch, _ in known))
    for cost in costs(archs):
        for phase in cost.phases if cost.recipe in asked else ():
            key = cost.arch, phase.image_size
            if key not in found:
                sized = replace(request, image_size=phase.image_size)
                found[key] = measure_end_to_end(sized, cost.arch)
    return found


def cost_results(
    archs: Sequence[str], measured: Mapping[tuple[str, int], Section]
) -> tuple[list[Result], list[dict[str, Any]]]:
    """The time of each recipe as results, and as plain data with what it follows from."""
    results: list[Result] = []
    rows: list[dict[str, Any]] = []
    for cost in costs(archs) if archs else ():
        name = f"recipe {cost.recipe}, {cost.arch}"
        rates = [_rates(measured, cost.arch, each.image_size) for each in cost.phases]
        row: dict[str, Any] = {
            "recipe": cost.recipe,
            "arch": cost.arch,
            "phases": [asdict(each) for each in cost.phases],
            "result": name,
        }
        if not cost.phases:
            why = "no training step; `python -m train` states its time"
            results.append(not_measured(name, why, "s"))
        elif not all(rates):
            why = f"ask with --recipe {cost.recipe}"
            results.append(not_measured(name, why, "s"))
        else:
            # Of the first turn of each size, of the second, and so on.
            turns = tuple(
                sum(phase.images / rate for phase, rate in zip(cost.phases, turn, strict=True))
                for turn in zip(*rates, strict=False)
            )
            row["images_per_s"] = [sum(each) / len(each) for each in rates]
            note = "extrapolated from loader and step together; without evaluation"
            results.append(Result(name=name, repeats=turns, unit="s", measured=False, note=note))
        rows.append(row)
    return results, rows


def cost_rows(section: Section) -> list[list[str]]:
    """The recipes as cells under :data:`HEADER`."""
    rows = section.settings.get("recipes", [])
    baseline = {
        row["arch"]: _named(section, row["result"]) for row in rows if row["recipe"] == "baseline"
    }
    return [_cells(row, _named(section, row["result"]), baseline.get(row["arch"])) for row in rows]


def _rates(measured: Mapping[tuple[str, int], Section], arch: str, size: int) -> tuple[float, ...]:
    section = measured.get((arch, size))
    result = section.find(TOGETHER) if section is not None else None
    return result.repeats if result is not None else ()


def _named(section: Section, name: str) -> Result:
    found = section.find(name)
    assert found is not None, name
    return found


def _cells(row: dict[str, Any], result: Result, baseline: Result | None) -> list[str]:
    sizes = [str(each["image_size"]) for each in row["phases"]]
    images = sum(each["images"] for each in row["phases"])
    cells = [row["recipe"], row["arch"]]
    if not sizes:
        return [*cells, *[NOT_MEASURED] * 4, result.note.removeprefix("not measured: ")]
    cells += [number(images / 1e6), "-".join(sizes)]
    if result.median is None:
        return [*cells, NOT_MEASURED, NOT_MEASURED, result.note.removeprefix("not measured: ")]
    of_baseline = NOT_MEASURED
    if baseline is not None and baseline.median is not None:
        of_baseline = f"{result.median / baseline.median:.0%}"
    rates = "-".join(number(each) for each in row["images_per_s"])
    return [*cells, rates, f"{human_time(result.median)} (extrapolated)", of_baseline]
