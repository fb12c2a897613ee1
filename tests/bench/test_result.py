"""A result keeps every repeat, says what was measured, and survives JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.result import Report, Result, Section, not_measured, number, render


@pytest.fixture
def section() -> Section:
    return Section(
        name="loaders",
        title="loaders: 224 px",
        results=(
            Result(name="decode", repeats=(1000.0, 1300.0, 900.0)),
            Result(name="opencv", repeats=(500.0, 550.0, 400.0), note="2 threads"),
            not_measured("dali", "no CUDA device"),
            Result(name="wait", repeats=(0.031, 0.03, 0.04), unit="share"),
        ),
        reference="decode",
        settings={"image_size": 224, "shards": "a b"},
        notes=("a note",),
    )


@pytest.fixture
def report(section: Section) -> Report:
    return Report(environment={"commit": None, "machine": {"gpus": []}}, sections=(section,))


def test_median_and_spread_come_from_all_repeats(section: Section) -> None:
    assert section.results[0].median == 1000
    assert section.results[0].spread == (900, 1300)


def test_a_report_survives_json(report: Report) -> None:
    assert Report.from_json(report.to_json()) == report


def test_json_holds_median_spread_and_every_repeat_for_other_readers(report: Report) -> None:
    rows = json.loads(report.to_json())["sections"][0]["results"]
    assert rows[0]["median"] == 1000
    assert rows[0]["spread"] == [900, 1300]
    assert rows[0]["repeats"] == [1000, 1300, 900]
    assert (rows[2]["measured"], rows[2]["median"]) == (False, None)


@pytest.mark.parametrize("text", ["[]", "{}", '{"record_version": 99}'])
def test_a_record_of_another_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected 1"):
        Report.from_json(text)


def test_nothing_is_called_measured_without_a_repeat() -> None:
    with pytest.raises(ValueError, match="no repeats"):
        Result(name="opencv")


def test_every_printed_figure_has_spread_and_number_of_repeats(section: Section) -> None:
    lines = {line.split()[0]: line for line in render(section).splitlines()[2:]}
    assert lines["opencv"].split() == "opencv 500 images/s 400..550 3 50% 2 threads".split()
    assert "not measured: no CUDA device" in lines["dali"]
    assert lines["wait"].split() == "wait 3.1% 3.0%..4.0% 3".split()
    assert lines["note:"].strip() == "note: a note"


def test_repeats_far_apart_are_pointed_out() -> None:
    results = (
        Result(name="steady", repeats=(10.0, 11.0)),
        Result(name="shaky", repeats=(10.0, 16.0)),
        Result(name="wait", repeats=(0.001, 0.02), unit="share"),
    )
    text = render(Section(name="a", title="a", results=results))
    assert "repeats differ by more than 1.5x (shaky)" in text
    assert "differ" not in render(Section(name="a", title="a", results=results[:1]))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(1234.5, "", "1,234"), (12.34, "", "12.3"), (1.234, "", "1.23"), (0.5, "share", "50%")],
)
def test_numbers_show_three_digits_that_count(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_environment_names_machine_versions_and_load() -> None:
    from bench.environment import describe, environment

    content: dict[str, Any] = environment()
    assert content["machine"]["cpu"]
    assert content["versions"]["torch"]
    assert json.loads(json.dumps(content)) == content
    busy = content | {"load_before": 99.0}
    assert "busy before the start (load average 99.0)" in describe(busy)
    assert "busy" not in describe(content | {"load_before": 0.0})
