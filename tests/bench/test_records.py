"""A figure of the documents that names a record under bench/results equals it."""

from __future__ import annotations

import re
from itertools import permutations
from pathlib import Path
from statistics import median

import pytest

from bench.result import Report, Result, number

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "bench" / "results"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"bench/results/([\w.-]+\.json)")
RANGE = re.compile(r"^(?P<low>[\d.,]+)(?:\.\.| to )(?P<high>[\d.,]+)$")
FIGURE = re.compile(r"^(?P<figure>[\d.,]+)(?: (?P<unit>[A-Za-z/]+))?(?: \((?P<range>[^()]*)\))?$")
Row = tuple[str, str, str | None]


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Each table behind a paragraph that names records: these, and the cells of its rows."""
    found = []
    for block in re.split(r"\n(?=#)", text):
        parts = re.split(r"((?:^\|.*\n)+)", block, flags=re.MULTILINE)
        for before, table in zip(parts[::2], parts[1::2], strict=False):
            names = NAMED.findall(before.strip().rpartition("\n\n")[2])
            if names:
                rows = [
                    [each.strip() for each in line.strip("|\n ").split("|")]
                    for line in table.strip().splitlines()[2:]
                ]
                found.append((names, rows))
    return found


def figures(cells: list[str]) -> list[tuple[str, str | None]]:
    """The figures of a row, each with its range, which may stand in the next cell."""
    found: list[tuple[str, str | None]] = []
    for cell in cells[1:]:
        if found and found[-1][1] is None and RANGE.match(cell):
            found[-1] = (found[-1][0], cell)
        elif match := FIGURE.match(cell):
            found.append((match["figure"], match["range"]))
    return found


def written(result: Result) -> set[tuple[str, str | None]]:
    """How a result may be written."""
    assert result.median is not None
    scale = 1
    figure = number(result.median / scale, result.unit)
    spans: set[str | None] = {None}
    for span in (result.spread, result.interval):
        assert span is not None
        low, high = (number(each, result.unit) for each in span)
        spans |= {f"{low} to {high}", f"{low}..{high}"}
    return {(figure, span) for span in spans}


def ratios(results: list[Result]) -> set[tuple[str, str | None]]:
    """How the ratios of what was measured turn by turn may be written: median and range of turns."""
    found: set[tuple[str, str | None]] = set()
    for above, below in permutations(results, 2):
        if above.unit == below.unit and len(above.repeats) == len(below.repeats):
            turns = [mine / other for mine, other in zip(above.repeats, below.repeats, strict=True)]
            middle, low, high = (f"{each:.1f}" for each in (median(turns), min(turns), max(turns)))
            found.add((middle, f"{low} to {high}"))
    return found


CLAIMS = [
    pytest.param(records, cells, id=f"{document.name}: {cells[0]}")
    for document in DOCUMENTS
    for records, rows in tables(document.read_text(encoding="utf-8"))
    for cells in rows
]


def test_the_readme_names_a_record() -> None:
    assert any("README.md" in str(each.id) for each in CLAIMS)


@pytest.mark.parametrize(("records", "cells"), CLAIMS)
def test_the_figures_of_a_row_are_those_of_its_records(
    records: list[str], cells: list[str]
) -> None:
    reports = [Report.from_json((RECORDS / each).read_text(encoding="utf-8")) for each in records]
    measured = [
        [each for each in section.results if each.median is not None]
        for report in reports
        for section in report.sections
    ]
    known = set().union(*(written(each) for section in measured for each in section))
    known |= set().union(*map(ratios, measured))
    stated = figures(cells)
    assert stated, f"no figure in the row {cells}"
    for figure in stated:
        assert figure in known, f"{figure} is no figure of {records}"


@pytest.mark.parametrize("file", sorted(RECORDS.glob("*.json")), ids=lambda file: file.name)
def test_every_committed_record_can_be_read_and_is_named_in_a_document(file: Path) -> None:
    report = Report.from_json(file.read_text(encoding="utf-8"))
    assert report.environment["commit"]
    assert any(file.name in each.read_text(encoding="utf-8") for each in DOCUMENTS)


def test_a_wrong_figure_is_found() -> None:
    text = (
        "x (`bench/results/a.json`)\n\n| | images/s | range |\n|---|---|---|\n"
        "| decode | 2,582 | 1,893 to 2,620 |\n| opencv | 12.3 images/s (11.0..13.0) |\n"
    )
    [(names, rows)] = tables(text)
    assert names == ["a.json"]
    assert [figures(cells) for cells in rows] == [
        [("2,582", "1,893 to 2,620")],
        [("12.3", "11.0..13.0")],
    ]
    result = Result(name="decode", repeats=(1893.0, 2582.0, 2620.0))
    assert ("2,582", "1,893 to 2,620") in written(result)
    assert ("2,583", "1,893 to 2,620") not in written(result)
    half = Result(name="opencv", repeats=(946.5, 1000.0, 1310.0))
    assert ("2.0", "2.0 to 2.6") in ratios([result, half])
