"""Records are compared with the spread between runs in mind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.compare import BETWEEN_RUNS, between_runs, compare_records, read_record
from bench.compare_commands import compare
from bench.result import Report, Result, Section
from shards.errors import UserError


def record(*medians: float, **settings: int) -> Report:
    results = tuple(
        Result(name=f"loader {at}", repeats=(0.99 * each, each, 1.01 * each))
        for at, each in enumerate(medians)
    )
    section = Section(name="loaders", title="", results=results, settings=settings)
    return Report(environment={"machine": {"cpu": "x"}, "versions": {}}, sections=(section,))


def verdicts(section: Section) -> list[str]:
    return [each.details["verdict"] for each in section.results]


def test_a_difference_within_the_spread_between_runs_is_undecided() -> None:
    # Steady repeats alone would call 8 % decided.
    assert verdicts(compare_records(record(100.0), record(92.0))) == ["undecided"]
    assert verdicts(compare_records(record(100.0), record(70.0))) == ["slower"]
    assert verdicts(compare_records(record(100.0), record(140.0))) == ["faster"]


def test_records_of_steady_runs_narrow_the_interval() -> None:
    more = [record(100.2), record(99.9)]
    section = compare_records(record(100.0), record(92.0), more)
    assert verdicts(section) == ["slower"]
    assert section.results[0].details["between_runs"] < BETWEEN_RUNS
    assert section.notes[0] == "spread between runs: measured on 3 records"


def test_the_spread_between_runs_is_that_of_the_medians() -> None:
    spread = between_runs([record(100.0), record(110.0)])
    assert spread["loaders", "loader 0"] == pytest.approx(0.0674, abs=1e-4)


def test_what_else_differs_is_told() -> None:
    section = compare_records(record(100.0, threads=2), record(100.0, threads=4))
    assert "threads differs: 2 before, 4 now" in section.notes


def test_records_without_a_common_rate_are_refused() -> None:
    other = Report(environment={}, sections=(Section(name="a", title="", results=()),))
    with pytest.raises(UserError, match="no rate in common"):
        compare_records(record(1.0), other)


def test_a_file_that_is_no_record_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"a\.json is no record that `bench \.\.\. --json FILE` wrote: it names no"
    ):
        read_record(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"cannot read .*none\.json"):
        read_record(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"environment": "here"}, "a part of it is of another kind than bench writes"),
        ({"environment": {"machine": []}}, "a part of it is of another kind than bench writes"),
        ({}, "it has no sections"),
        ({"sections": "none"}, "a part of it is of another kind than bench writes"),
        ({"sections": [{"name": "ladder"}]}, "it has no results"),
        ({"record_version": 99}, "its record_version is 99, expected 1"),
    ],
)
def test_a_record_that_was_changed_by_hand_is_one_line(
    tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    content = json.loads(record(100.0).to_json()) | changed
    if not changed:
        del content["sections"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as refused:
        read_record(tmp_path / "a.json")
    assert refused.value.format_message() == (
        f"{tmp_path / 'a.json'} is no record that `bench ... --json FILE` wrote: {said}"
    )


def test_the_command_prints_ratio_interval_and_verdict(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(record(100.0).to_json())
    (tmp_path / "b.json").write_text(record(50.0).to_json())
    done = CliRunner().invoke(compare, [str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[1].split() == ["new", "/", "base", "95", "%"]
    assert lines[2].startswith("  loaders: loader 0        0.50  0.4")
    assert lines[2].endswith("  slower")
