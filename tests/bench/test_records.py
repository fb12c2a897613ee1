"""A figure of the documents that names a record under bench/results equals it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.__main__ import cli
from bench.chart import log_chart
from bench.documents import (
    BLOCK,
    PICTURE,
    Figure,
    block_text,
    figures,
    quotations,
    renderings,
    updated,
)
from bench.end_to_end import STEP
from bench.ladder import SHARED, TOGETHER
from bench.records import LADDER, RECORDS, publish
from bench.result import Report, Result, Section
from bench.rungs import DECODE

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "bench" / "results"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

QUOTED = [
    (document, each)
    for document in DOCUMENTS
    for each in quotations(document.read_text(encoding="utf-8"))
]
ROWS = [
    pytest.param(each.records, cells, id=f"{document.name}: {cells[0]}")
    for document, each in QUOTED
    for cells in each.rows
]
PROSE = [
    pytest.param(each.records, each.prose, id=f"{document.name}: {', '.join(each.records)}")
    for document, each in QUOTED
    if each.prose
]
COMMITTED = sorted(FOLDER.glob("*.json"))


def read(name: str) -> Report:
    return Report.from_json((FOLDER / name).read_text(encoding="utf-8"))


def known(records: list[str]) -> set[Figure]:
    return {figure for name in records for figure in renderings(read(name)).values()}


def test_the_readme_names_a_record() -> None:
    assert any("README.md" in str(each.id) for each in ROWS)


@pytest.mark.parametrize(("records", "cells"), ROWS)
def test_the_figures_of_a_row_are_those_of_its_records(
    records: list[str], cells: list[str]
) -> None:
    stated = figures(cells)
    for figure in stated:
        assert figure in known(records), f"{figure} is no figure of {records}"


@pytest.mark.parametrize(("records", "prose"), PROSE)
def test_the_figures_of_the_text_are_those_of_its_records(
    records: list[str], prose: list[Figure]
) -> None:
    for figure in prose:
        assert figure in known(records), f"{figure} is no figure of {records}"


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.name)
def test_every_committed_record_can_be_read_and_is_named_in_a_document(file: Path) -> None:
    report = Report.from_json(file.read_text(encoding="utf-8"))
    assert report.environment["commit"]
    assert any(file.name in each.read_text(encoding="utf-8") for each in DOCUMENTS)
    assert file.stem in RECORDS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_what_is_written_from_a_record_is_as_it_was_written(document: Path) -> None:
    for block in BLOCK.finditer(document.read_text(encoding="utf-8")):
        file = FOLDER / block["record"]
        expected = block_text(block, read(file.name)) if file.exists() else ""
        assert block["text"] == expected, f"`bench records --publish` writes {file.name} anew"


def test_the_picture_of_the_ladder_is_that_of_its_record() -> None:
    file = FOLDER / f"{LADDER}.json"
    if not file.exists():
        assert not (ROOT / PICTURE).exists()
        return
    (ladder,) = read(file.name).sections
    rungs = [each for each in ladder.results if each.unit == "images/s"]
    assert (ROOT / PICTURE).read_text(encoding="utf-8") == log_chart(rungs, ladder.title) + "\n"


def test_the_committed_ladders_name_limit_and_option_and_keep_to_their_model() -> None:
    for file in (each for each in COMMITTED if each.name.startswith("ladder-")):
        (ladder,) = read(file.name).sections
        without_model = ladder.settings["arch"] == "none"
        assert ladder.settings["limit"] == (DECODE if without_model else STEP)
        option = "`--short-side 257`" if without_model else "`--image-size 160`"
        assert ladder.settings["option"].startswith(option)
        together, model = ladder.find(TOGETHER), ladder.find(ladder.settings["model"])
        assert together is not None
        assert model is not None
        assert together.median is not None
        assert together.median == pytest.approx(model.median, rel=0.1)


def test_the_committed_proof_of_ab_is_right_in_eighteen_of_twenty_trials() -> None:
    for file in (each for each in COMMITTED if each.name.startswith("ab-proof-")):
        (proof,) = read(file.name).sections
        for case in proof.results:
            assert len(case.details["trials"]) >= 20
            assert case.details["right"] >= 0.9 * len(case.details["trials"]), case.note


def report(*results: Result, command: str = "bench loaders --json a.json") -> Report:
    section = Section(name="loaders", title="loaders: 224 px", results=results)
    environment = {
        "command": command, "commit": "abc", "time": "2026-11-25T10:00:00+0000", "load_before": 0.1,
        "machine": {"cpu": "AMD EPYC", "cores_allowed": 2},
    }  # fmt: skip
    return Report(environment=environment, sections=(section,))


TEXT = (
    "Turn by turn 50 % (48 to 50) (`bench/results/a.json`), n = 3\n\n"
    "| | images/s | range |\n|---|---|---|\n"
    "| decode | 2,582 | 1,893 to 2,620 |\n| opencv | 1,234 images/s (946..1,310) |\n"
    "| half | with colour 2.0 (2.0 to 2.1), else 7 | |\n"
)
DECODED = Result(name="decode", repeats=(1893.0, 2582.0, 2620.0))
OPENCV = Result(name="opencv", repeats=(946.0, 1234.0, 1310.0))
OLD = report(DECODED, OPENCV)


def test_every_figure_of_a_document_is_found() -> None:
    (quoted,) = quotations(TEXT)
    assert quoted.records == ["a.json"]
    assert quoted.prose == [("50", "48 to 50"), ("2.0", "2.0 to 2.1")]
    assert [figures(cells) for cells in quoted.rows] == [
        [("2,582", "1,893 to 2,620")],
        [("1,234", "946..1,310")],
        [],
    ]


def test_a_wrong_figure_is_none_of_its_record() -> None:
    found = set(renderings(OLD).values())
    assert ("2,582", "1,893 to 2,620") in found
    assert ("50", "48 to 50") in found
    assert ("48", "48 to 50") not in found
    assert ("2,583", "1,893 to 2,620") not in found
    ratio = {figure for key, figure in renderings(OLD).items() if "ratio" in key}
    assert ("2.0", "2.0 to 2.1") in ratio


def test_a_new_record_takes_the_place_of_the_old_one_figure_by_figure() -> None:
    new = report(
        replace(DECODED, repeats=(3000.0, 3100.0, 3200.0)),
        replace(OPENCV, repeats=(1500.0, 1550.0, 1600.0)),
    )
    after, unclear = updated(TEXT, "a.json", OLD, new)
    assert unclear == []
    assert after == (
        "Turn by turn 50 % (50 to 50) (`bench/results/a.json`), n = 3\n\n"
        "| | images/s | range |\n|---|---|---|\n"
        "| decode | 3,100 | 3,000 to 3,200 |\n| opencv | 1,550 images/s (1,500..1,600) |\n"
        "| half | with colour 2.0 (2.0 to 2.0), else 7 |  |\n"
    )
    assert updated(after, "a.json", new, new) == (after, [])
    assert updated(TEXT, "b.json", OLD, new) == (TEXT, [])


def test_a_figure_that_could_be_two_results_is_left_and_named() -> None:
    twin = replace(DECODED, name="twin")
    new = report(DECODED, OPENCV, replace(twin, repeats=(1.0, 2.0, 3.0)))
    after, unclear = updated(TEXT, "a.json", report(DECODED, OPENCV, twin), new)
    assert after == TEXT
    assert "2,582 (1,893 to 2,620)" in unclear


def test_a_block_is_written_from_its_record() -> None:
    text = "before\n<!-- bench/results/a.json -->\n<!-- end -->\nafter\n"
    after, _ = updated(text, "a.json", None, OLD)
    assert "| decode | 2,582 (1,893 to 2,620) |  |" in after
    assert "(AMD EPYC, 2 cores, 2026-11-25, load 0.1" in after
    assert "commit abc: `bench loaders`; `bench/results/a.json`)" in after
    assert "Loaders: 224 px; n = 3." in after
    assert after.endswith("<!-- end -->\nafter\n")
    assert updated(after, "a.json", OLD, OLD)[0] == after


def test_a_ladder_is_a_picture_with_its_sentences_where_that_is_asked_for() -> None:
    ladder = Section(
        name="ladder",
        title="ladder: resnet18",
        results=(
            Result(name=STEP, repeats=(10.0,)),
            Result(name=TOGETHER, repeats=(9.5,)),
            Result(name=SHARED, repeats=(10.0,), measured=False),
        ),
        settings={
            "limit": STEP,
            "option": "`--image-size 160`",
            "image_ms": {STEP: 100.0},
            "cores_to_feed_the_step": 0.02,
            "model": SHARED,
        },
    )
    text = "<!-- bench/results/a.json: picture -->\n<!-- end -->\n"
    after, _ = updated(text, "a.json", None, replace(OLD, sections=(ladder,)))
    assert "![ladder: resnet18](docs/images/ladder.svg)" in after
    assert "Limit: the step, 100 ms of the 100 ms" in after
    assert "|" not in after


def test_publishing_moves_the_record_and_writes_its_figures(tmp_path: Path) -> None:
    for folder in ("data/records", "bench/results", "docs/images"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "README.md").write_text("<!-- bench/results/a.json -->\n<!-- end -->\n")
    (tmp_path / "data/records/a.json").write_text(OLD.to_json())
    said = publish(["a", "not measured"], tmp_path)
    assert said == ["README.md: figures of a.json", "written: bench/results/a.json"]
    assert "2,582 (1,893 to 2,620)" in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "bench/results/a.json").read_text()) == json.loads(OLD.to_json())
    assert not (tmp_path / "data/records/a.json").exists()


def test_the_list_shows_every_record_with_its_command_and_minutes() -> None:
    done = CliRunner().invoke(cli, ["records", "--list"])
    assert done.exit_code == 0, done.output
    assert len(done.output.splitlines()) == len(RECORDS)
    listed = RECORDS[LADDER]
    assert f"{listed.minutes} min  {LADDER}: bench {listed.command}\n" in done.output


def test_an_unknown_record_is_one_line() -> None:
    done = CliRunner().invoke(cli, ["records", "lader-none"])
    assert done.exit_code == 2
    assert "unknown record 'lader-none'; did you mean" in done.output


@pytest.mark.parametrize("record", RECORDS.values(), ids=lambda each: each.name)
def test_the_command_of_a_record_exists_with_its_options(record: object) -> None:
    words = str(getattr(record, "command", "")).split()
    done = CliRunner().invoke(cli, [words[0], "--help"])
    assert done.exit_code == 0
    for option in (each for each in words if each.startswith("--")):
        assert option in done.output, f"{option} of bench {words[0]}"
