"""Records of ``bench`` as one page of HTML: no network, no script, readable on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.chart import log_chart
from bench.environment import describe
from bench.ladder import sentences
from bench.recipe_costs import HEADER as RECIPES_HEADER
from bench.recipe_costs import cost_rows
from bench.result import (
    NOT_MEASURED,
    Report,
    Result,
    Section,
    figure,
    interval,
    number,
    share_of,
    unsteady,
)
from bench.runs import HEADER as RUNS_HEADER
from bench.runs import run_cells
from bench.table import THEIRS, TOTAL
from shards.machine import human_time

STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.5rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #8884;white-space:nowrap}
th:first-child,td:first-child,td.note{text-align:left}td.note{white-space:normal;min-width:14rem}
p.limit{font-weight:600}.quiet{opacity:.75;font-size:.9rem}svg{width:100%;height:auto}
"""
CHARTED = ("images/s", "photos/s")


def page(reports: Sequence[Report]) -> str:
    """The whole document.

    Args:
        reports: In the order in which they are to be shown; what each was measured on stands
            above its sections.
    """
    body = "".join(_report(each) for each in reports)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>hyphae bench</title><style>{STYLE}</style></head><body>"
        "<h1>hyphae bench: where the time goes</h1>"
        '<p class="quiet">Medians of interleaved repeats with their 95 % intervals; what is not called '
        f"extrapolated was measured.</p>{body}</body></html>\n"
    )


def _report(report: Report) -> str:
    about = "".join(f"<br>{escape(line)}" for line in describe(report.environment).splitlines())
    command = escape(str(report.environment.get("command", "command not noted")))
    time = escape(str(report.environment.get("time", "")))
    return f'<p class="quiet"><code>{command}</code>, {time}{about}</p>' + "".join(
        _section(each) for each in report.sections
    )


def _section(section: Section) -> str:
    kind, _, _ = section.title.partition(":")
    charted = [each for each in section.results if each.unit in CHARTED]
    said = sentences(section) if section.name == "ladder" else []
    table = _published(section) if section.name == "table" else _table(section)
    notes = [*section.notes, *unsteady(section)]
    return (
        f'<h2 id="{escape(section.name)}">{escape(section.title)}</h2>'
        + "".join(f'<p class="limit">{escape(each)}</p>' for each in said)
        + log_chart(charted, f"{kind}, {CHARTED[0]}, logarithmic scale")
        + f'<div class="scroll">{table}</div>'
        + (
            f'<ul class="quiet">{"".join(f"<li>{escape(each)}</li>" for each in notes)}</ul>'
            if notes
            else ""
        )
    )


def _table(section: Section) -> str:
    reference = section.find(section.reference) if section.reference else None
    header = ["", "median", "95 %", "n", *([f"of {reference.name}"] if reference else []), ""]
    rows = []
    for each in section.results:
        cells = [each.name, figure(each), interval(each), str(len(each.repeats) or NOT_MEASURED)]
        if reference is not None:
            cells.append(share_of(each, reference))
        rows.append([*cells, each.note])
    return _cells(header, rows)


def _published(section: Section) -> str:
    """The published rows beside ours, as ``bench.table`` has them."""
    header = [*THEIRS, "img/s here", "of theirs", TOTAL, ""]
    rows = []
    for row in section.settings["published"]:
        rate = _named(section, f"{row['arch']} loader and step")
        total = next(each for each in section.results if each.name.startswith(f"{row['arch']}, "))
        rows.append(
            [
                row["arch"],
                *(f"{100 * row[name]:.1f}" for name in ("miou", "mf1", "oa")),
                human_time(row["seconds"]),
                number(row["images_per_s_implied"]),
                row["file"],
                figure(rate),
                NOT_MEASURED
                if rate.median is None
                else f"{number(rate.median / row['images_per_s_implied'])}x",
                NOT_MEASURED if total.median is None else human_time(total.median),
                "" if total.median is None else "extrapolated",
            ]
        )
    found = [_cells(header, rows)]
    if recipes := cost_rows(section):
        found.append(_cells(RECIPES_HEADER, recipes))
    if runs := section.settings["runs"]:
        found.append(_cells(RUNS_HEADER, [run_cells(each) for each in runs]))
    return "".join(found)


def _named(section: Section, name: str) -> Result:
    found = section.find(name)
    assert found is not None
    return found


def _cells(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in header)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{escape(each)}</td>" for each in row[:-1])
        + f'<td class="note">{escape(row[-1])}</td></tr>'
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
