"""Figures of the documents and the records behind them: each figure is found, checked, kept up to date.

A paragraph that names ``bench/results/NAME.json`` and the table behind it quote that record. What lies
between ``<!-- bench/results/NAME.json -->`` and ``<!-- end -->`` is written from it as a whole; with
``NAME.json: picture`` it is the picture of a ladder and its sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from statistics import median

from bench.ladder import sentences
from bench.result import NOT_MEASURED, Report, Result, Section, number

NAMED = re.compile(r"bench/results/([\w.-]+\.json)")
BLOCK = re.compile(
    r"(?P<begin><!-- bench/results/(?P<record>[\w.-]+\.json)(?P<picture>: picture)? -->\n)"
    r"(?P<text>.*?)<!-- end -->",
    re.DOTALL,
)
_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_SPAN = rf"{_NUMBER}(?:\.\.| to ){_NUMBER}"
RANGE = re.compile(rf"^{_SPAN}$")
CELL = re.compile(rf"^(?P<figure>{_NUMBER})(?P<unit> ?%| [A-Za-z/]+)?(?: \((?P<span>{_SPAN})\))?$")
PROSE = re.compile(rf"(?P<figure>{_NUMBER})(?P<unit> ?%|x| [A-Za-z/]+)? \((?P<span>{_SPAN})\)")
"""A figure of running text counts where its range stands behind it."""

PICTURE = "docs/images/ladder.svg"
"""Seen from the README, the one document that shows it."""

Figure = tuple[str, str | None]
"""A number and its range, as they are written."""
Key = tuple[str | int, ...]
"""What a figure is of, and how it is written."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """A paragraph that names records, and the rows of the table behind it."""

    records: list[str]
    prose: list[Figure]
    """Figures of running text, in the table too."""
    rows: list[list[str]]
    """The cells of each."""


def quotations(text: str) -> Iterator[Quoted]:
    """Every paragraph of a document that names a record."""
    for paragraph, table in _pieces(text):
        names = NAMED.findall(paragraph)
        if names:
            rows = [_cells(line) for line in table.strip().splitlines()[2:]]
            texts = [paragraph, *(cell for row in rows for cell in row if not CELL.match(cell))]
            prose = [
                (each["figure"], each["span"]) for text in texts for each in PROSE.finditer(text)
            ]
            yield Quoted(names, prose, rows)


def figures(cells: list[str]) -> list[Figure]:
    """The figures of a row, each with its range, which may stand in the next cell."""
    return [figure for _, _, figure in _placed(cells)]


def _placed(cells: list[str]) -> list[tuple[int, int, Figure]]:
    """The figures of a row, each with the places of its number and its range among the cells."""
    found: list[tuple[int, int, Figure]] = []
    for at, cell in enumerate(cells[1:], start=1):
        if found and found[-1][2][1] is None and RANGE.match(cell):
            found[-1] = (found[-1][0], at, (found[-1][2][0], cell))
        elif match := CELL.match(cell):
            found.append((at, at, (match["figure"], match["span"])))
    return found


def renderings(report: Report) -> dict[Key, Figure]:
    """Every way in which a figure of a record may be written."""
    found: dict[Key, Figure] = {}
    for at, section in enumerate(report.sections):
        results = [each for each in section.results if each.median is not None]
        for result in results:
            for key, figure in _of_result(result):
                found[(at, result.name, *key)] = figure
        for above, below in permutations(results, 2):
            for key, figure in _of_turns(above, below):
                found[(at, above.name, below.name, *key)] = figure
    return found


def updated(text: str, name: str, old: Report | None, new: Report) -> tuple[str, list[str]]:
    """A document with the figures of a new record in place of those of the old one.

    Args:
        text: The document.
        name: Of the record's file.
        old: The record that the document quotes, if it does yet.
        new: What takes its place.

    Returns:
        The text, and the figures that could stand for several of the record: they stay.
    """

    def block(found: re.Match[str]) -> str:
        if found["record"] != name:
            return found[0]
        return f"{found['begin']}{block_text(found, new)}<!-- end -->"

    if old is None:
        return BLOCK.sub(block, text), []
    replace = _Replacement(renderings(old), renderings(new))
    parts = []
    for paragraph, table in _pieces(text):
        if name in NAMED.findall(paragraph):
            paragraph = PROSE.sub(replace.in_prose, paragraph)
            table = replace.in_table(table)
        parts.append(paragraph + table)
    return BLOCK.sub(block, "".join(parts)), replace.unclear


def block_text(block: re.Match[str], report: Report) -> str:
    """What belongs into a block that :data:`BLOCK` found."""
    head = _head(report, block["record"])
    if block["picture"]:
        (ladder,) = report.sections
        parts = [f"![{ladder.title}]({PICTURE})", f"{' '.join(_said(ladder))} {head}"]
    else:
        tables = (each for section in report.sections for each in _markdown(section))
        parts = [head, *tables]
    return "\n" + "\n\n".join(parts) + "\n\n"


def _head(report: Report, name: str) -> str:
    """When, where and how it was measured."""
    environment = report.environment
    command = re.sub(r" --json \S+", "", environment["command"])
    cores = environment["machine"]["cores_allowed"]
    return (
        f"({environment['machine']['cpu']}, {cores} cores, {environment['time'][:10]}, load "
        f"{environment['load_before']} before the start, commit {environment['commit']}: "
        f"`{command}`; `bench/results/{name}`)"
    )


def _markdown(section: Section) -> list[str]:
    """A section as paragraphs: its title, a table, and what it says."""
    if section.name == "roofline":
        header = ["", "M params", "GFLOP/img", "floor img/s", "step img/s", "of floor"]
        rows = [_roofline_row(each) for each in section.results if "of_floor" in each.details]
    else:
        header = ["", f"{section.results[0].unit}, median (95 %)", ""]
        rows = [[each.name, _quoted(each), each.note] for each in section.results]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])
    count = max(len(each.repeats) for each in section.results)
    title = f"{section.title[0].upper()}{section.title[1:]}; n = {count}."
    return [title, table, *([" ".join(_said(section))] if section.name == "ladder" else [])]


def _said(ladder: Section) -> list[str]:
    return [f"{each[0].upper()}{each[1:]}." for each in sentences(ladder)]


def _roofline_row(result: Result) -> list[str]:
    at = result.details
    return [
        result.name,
        number(at["parameters"] / 1e6),
        number(at["flops_per_image"] / 1e9),
        number(at["floor_images_per_s"]),
        _quoted(result),
        f"{at['of_floor']:.0%}",
    ]


def _quoted(result: Result) -> str:
    if result.median is None or result.interval is None:
        return NOT_MEASURED
    low, high = (number(each, result.unit) for each in result.interval)
    return f"{number(result.median, result.unit)} ({low} to {high})"


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Paragraphs, each with the table behind it; together they are the text."""
    parts = re.split(r"((?:^\|.*\n)+)", text, flags=re.MULTILINE)
    for before, table in zip(parts[::2], [*parts[1::2], ""], strict=True):
        *alone, last = re.split(r"(?<=\n\n)(?=\S)", before)
        for each in alone:
            yield each, ""
        yield last, table


def _cells(line: str) -> list[str]:
    return [each.strip() for each in line.strip().removeprefix("|").removesuffix("|").split("|")]


def _of_result(result: Result) -> Iterator[tuple[Key, Figure]]:
    assert result.median is not None
    figure = number(result.median, result.unit).rstrip("%")
    yield ("alone",), (figure, None)
    for name, span in (("spread", result.spread), ("interval", result.interval)):
        assert span is not None
        low, high = (number(each, result.unit).rstrip("%") for each in span)
        yield (name, "to"), (figure, f"{low} to {high}")
        yield (name, ".."), (figure, f"{low}..{high}")
    for name, value in result.details.items():
        if isinstance(value, int | float):
            for power in (0, 6, 9):
                yield (name, power), (number(value / 10**power), None)
            yield (name, "share"), (f"{100 * value:.0f}", None)


def _of_turns(above: Result, below: Result) -> Iterator[tuple[Key, Figure]]:
    """Ratios of what was measured turn by turn: median and range of the turns."""
    comparable = above.unit == below.unit and len(above.repeats) == len(below.repeats)
    if not comparable or not all(below.repeats):
        return
    turns = [mine / other for mine, other in zip(above.repeats, below.repeats, strict=True)]
    for name, digits, scale in (("ratio", 1, 1), ("ratio", 2, 1), ("share", 0, 100)):
        middle, low, high = (
            f"{scale * each:.{digits}f}" for each in (median(turns), min(turns), max(turns))
        )
        yield (name, digits), (middle, f"{low} to {high}")


class _Replacement:
    """Puts the figures of one record in place of those of another."""

    def __init__(self, old: Mapping[Key, Figure], new: Mapping[Key, Figure]) -> None:
        self.unclear: list[str] = []
        self._new = new
        self._keys: dict[Figure, list[Key]] = {}
        for key, figure in old.items():
            self._keys.setdefault(figure, []).append(key)

    def in_prose(self, found: re.Match[str]) -> str:
        figure, span = self._of((found["figure"], found["span"]))
        return f"{figure}{found['unit'] or ''} ({span})"

    def in_table(self, table: str) -> str:
        lines = table.splitlines(keepends=True)
        return "".join([*lines[:2], *map(self._in_row, lines[2:])])

    def _in_row(self, line: str) -> str:
        before = _cells(line)
        cells = [each if CELL.match(each) else PROSE.sub(self.in_prose, each) for each in before]
        for at, span_at, figure in _placed(before):
            number_, span = self._of(figure)
            match = CELL.match(before[at])
            assert match is not None
            cells[at] = f"{number_}{match['unit'] or ''}"
            if span_at != at:
                cells[span_at] = str(span)
            elif span is not None:
                cells[at] += f" ({span})"
        return line if cells == before else f"| {' | '.join(cells)} |\n"

    def _of(self, figure: Figure) -> Figure:
        """What takes the place of a figure; itself where the record does not hold it."""
        found = {self._new[key] for key in self._keys.get(figure, []) if key in self._new}
        if len(found) == 1:
            return found.pop()
        if found:
            self.unclear.append(figure[0] if figure[1] is None else f"{figure[0]} ({figure[1]})")
        return figure
