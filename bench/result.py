"""What a measurement leaves behind: results with all their repeats, and the report around them."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.interval import median_interval

RECORD_VERSION = 1
NOT_MEASURED = "-"
UNSTEADY = 1.5
DERIVED = ("median", "spread", "interval")
"""Written for whoever reads the JSON; computed again from the repeats when it is read back."""
ENVIRONMENT = {"machine": dict, "versions": dict, "command": str, "time": str}
"""What readers of a record rely on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One figure: every repeat of it, or the reason why there is none."""

    name: str
    repeats: tuple[float, ...] = ()
    """All values, in the order in which they were measured."""
    unit: str = "images/s"
    measured: bool = True
    """False where the values follow from other measurements, or where there are none."""
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    """What else is known: settings of this row, derived figures."""

    def __post_init__(self) -> None:
        if self.measured and not self.repeats:
            raise ValueError(f"result {self.name!r} is called measured but has no repeats")

    @property
    def median(self) -> float | None:
        """Of the repeats; None where there are none."""
        return statistics.median(self.repeats) if self.repeats else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """Least and largest of the repeats; None where there are none."""
        return (min(self.repeats), max(self.repeats)) if self.repeats else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the median, 95 %, by the bootstrap; None where there are no repeats."""
        return median_interval(self.repeats) if self.repeats else None


def not_measured(name: str, why: str, unit: str = "images/s") -> Result:
    """A row without a figure."""
    return Result(name=name, unit=unit, measured=False, note=f"not measured: {why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Results that belong together."""

    name: str
    title: str
    results: tuple[Result, ...]
    reference: str | None = None
    """Name of the result of which the others are printed as a share."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Plain data: image size, batch size, shard set, ..."""
    notes: tuple[str, ...] = ()

    def find(self, name: str) -> Result | None:
        """The result of that name."""
        return next((each for each in self.results if each.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one command measured, and where."""

    environment: dict[str, Any]
    """Plain data: machine, versions, commit, command, load; see ``bench.environment``."""
    sections: tuple[Section, ...]
    record_version: int = RECORD_VERSION

    def to_json(self) -> str:
        """Readable text, the same for the same content."""
        content = dataclasses.asdict(self)
        for section, written in zip(self.sections, content["sections"], strict=True):
            for result, row in zip(section.results, written["results"], strict=True):
                row |= {name: getattr(result, name) for name in DERIVED}
        return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The reverse of :meth:`to_json`.

        Raises:
            ValueError: Not JSON, or none of ours; the message says what is missing.
        """
        content = json.loads(text)
        version = content.get("record_version") if isinstance(content, dict) else None
        if version is None:
            raise ValueError(f"it names no record_version, expected {RECORD_VERSION}")
        if version != RECORD_VERSION:
            raise ValueError(f"its record_version is {version!r}, expected {RECORD_VERSION}")
        try:
            environment = content["environment"]
            for name, kind in ENVIRONMENT.items():
                if not isinstance(environment.get(name, kind()), kind):
                    raise TypeError(name)
            sections = tuple(_section(each) for each in content["sections"])
        except KeyError as error:
            raise ValueError(f"it has no {error.args[0]}") from None
        except (TypeError, AttributeError):
            raise ValueError("a part of it is of another kind than bench writes") from None
        return cls(environment=environment, sections=sections)


def _section(content: dict[str, Any]) -> Section:
    results = tuple(
        Result(
            **{key: value for key, value in row.items() if key not in (*DERIVED, "repeats")},
            repeats=tuple(row["repeats"]),
        )
        for row in content["results"]
    )
    return Section(**content | {"results": results, "notes": tuple(content["notes"])})


def render(section: Section) -> str:
    """The section as text: median and its interval, number of repeats, share of the reference, note."""
    reference = section.find(section.reference) if section.reference else None
    header = ["", "median", "95 %", "n", ""]
    if reference is not None:
        header.insert(4, f"of {reference.name}")
    rows = [_row(result, reference) for result in section.results]
    lines = [section.title, *_indented(text_table([header, *rows], left=(0, len(header) - 1)))]
    notes = [*section.notes, *unsteady(section)]
    return "\n".join(lines + [f"  note: {note}" for note in notes])


def unsteady(section: Section) -> list[str]:
    """A warning where repeats of one thing differ so much that the median says little."""
    names = [
        each.name
        for each in section.results
        if each.measured and each.spread and each.unit != "share"
        if each.spread[1] > UNSTEADY * each.spread[0]
    ]
    if not names:
        return []
    return [f"repeats differ by more than {UNSTEADY}x ({', '.join(names)}): measure again in peace"]


def _row(result: Result, reference: Result | None) -> list[str]:
    cells = [
        result.name,
        figure(result),
        interval(result),
        str(len(result.repeats) or NOT_MEASURED),
    ]
    if reference is not None:
        cells.append(share_of(result, reference))
    return [*cells, result.note]


def share_of(result: Result, reference: Result) -> str:
    """The result over another one, as a percentage; empty where they do not compare."""
    if result is reference or result.unit != reference.unit:
        return ""
    if result.median is None or reference.median is None:
        return NOT_MEASURED
    share = result.median / reference.median
    return f"{share:.0f}x" if share >= 10 else f"{share:.0%}"


def figure(result: Result) -> str:
    """The median with its unit, or a dash."""
    if result.median is None:
        return NOT_MEASURED
    unit = "" if result.unit == "share" else f" {result.unit}"
    return number(result.median, result.unit) + unit


def interval(result: Result) -> str:
    """``low..high`` of the median's interval, or a dash."""
    if result.interval is None:
        return NOT_MEASURED
    low, high = (number(each, result.unit) for each in result.interval)
    return f"{low}..{high}"


def number(value: float, unit: str = "") -> str:
    """Three digits that count: ``1234.5 -> '1,234'``, ``12.34 -> '12.3'``; shares as percent."""
    if unit == "share":
        return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def text_table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Aligned lines; the columns in ``left`` are flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}".rstrip() for line in lines]
