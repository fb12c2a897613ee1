"""The published half is what the raw table says; the other half is measured or marked."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.end_to_end import STEP, TOGETHER
from bench.result import Report, Result, Section
from bench.runs import finished_runs
from bench.table import render_table, table_section
from shards.format import Manifest
from train.scores import published
from train.scores.published import CAUTIONS

REPO = Path(__file__).resolve().parents[2]
ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


@pytest.fixture
def measured() -> dict[str, Section]:
    settings = {
        "batch_size": 8, "precision": "bf16", "device": "cpu", "loader": "opencv", "shards": "set"
    }  # fmt: skip
    results = (
        Result(name=STEP, repeats=(20.0, 19.0, 21.0)),
        Result(name=TOGETHER, repeats=(10.0, 8.0, 11.0)),
    )
    return {
        "resnet18": Section(name="end_to_end", title="", results=results, settings=settings),
        "vgg11": Section(name="end_to_end", title="", results=results, settings=settings),
    }


def line_of(text: str, arch: str) -> str:
    return next(line for line in text.splitlines() if line.split()[:1] == [arch])


def test_published_rates_follow_from_the_raw_table() -> None:
    section = table_section({})
    rows = {row["arch"]: row for row in section.settings["published"]}
    with (REPO / "train" / "data" / "baseline.csv").open(encoding="utf-8") as file:
        raw = list(csv.DictReader(file))
    assert tuple(row["arch"] for row in raw) == ARCHS
    for row in raw:
        hours, minutes = map(int, row["training_time"].split("h"))
        implied = 689_520 * 20 / (3600 * hours + 60 * minutes)
        assert rows[row["arch"]]["images_per_s_implied"] == pytest.approx(implied)
        assert rows[row["arch"]]["miou"] == pytest.approx(float(row["test_miou"]) / 100)
        cells = line_of(render_table(section), row["arch"]).split()
        assert cells[1:4] == [row["test_miou"], row["test_mf1"], row["test_oa"]]
        assert cells[4:8] == [str(hours), "h", f"{minutes:02d}", "min"]
        assert cells[8:10] == [f"{implied:,.0f}", row["file"]]


@pytest.mark.parametrize(
    ("arch", "implied"),
    [
        ("resnet18", 1242),
        ("resnet34", 690),
        ("resnet50", 440),
        ("resnet101", 229),
        ("resnet152", 213),
    ],
)
def test_rates_follow_from_the_published_times(arch: str, implied: int) -> None:
    rows = {row["arch"]: row for row in table_section({}).settings["published"]}
    assert round(rows[arch]["images_per_s_implied"]) == implied


def test_every_figure_of_ours_follows_from_the_measured_rate_and_the_raw_table() -> None:
    with (REPO / "train" / "data" / "baseline.csv").open(encoding="utf-8") as file:
        raw = {row["arch"]: row for row in csv.DictReader(file)}
    settings = {
        "batch_size": 8, "precision": "fp32", "device": "cpu", "loader": "opencv", "shards": "set"
    }  # fmt: skip
    rates = {arch: 10.0 * (at + 1) for at, arch in enumerate(ARCHS)}
    section = table_section(
        {
            arch: Section(
                name="end_to_end",
                title="",
                results=(
                    Result(name=STEP, repeats=(2 * rate,)),
                    Result(name=TOGETHER, repeats=(rate,)),
                ),
                settings=settings,
            )
            for arch, rate in rates.items()
        }
    )
    for arch, rate in rates.items():
        hours, minutes = map(int, raw[arch]["training_time"].split("h"))
        implied = 689_520 * 20 / (3600 * hours + 60 * minutes)
        total = section.find(f"{arch}, 13.79 million images")
        assert total is not None
        assert total.median == pytest.approx(689_520 * 20 / rate)
        hours, minutes = divmod(round(689_520 * 20 / rate) // 60, 60)
        line = line_of(render_table(section), arch)
        assert line.endswith(f"{hours} h {minutes:02d} min (extrapolated)")
        assert float(line.split()[-6].removesuffix("x")) == pytest.approx(rate / implied, abs=0.005)


def test_archs_that_were_not_measured_show_a_dash(measured: dict[str, Section]) -> None:
    section = table_section(measured)
    assert line_of(render_table(section), "resnet101").split()[-3:] == ["-"] * 3
    for result in section.results:
        assert result.measured == (
            result.name.startswith(("resnet18", "vgg11")) and "million" not in result.name
        )


def test_the_time_at_the_measured_rate_is_marked_extrapolated(measured: dict[str, Section]) -> None:
    section = table_section(measured)
    result = section.find("resnet18, 13.79 million images")
    assert result is not None
    assert result.median == pytest.approx(13_790_400 / 10)
    assert (result.measured, "extrapolated" in result.note) == (False, True)
    line = line_of(render_table(section), "resnet18")
    assert line.endswith("383 h 04 min (extrapolated)")
    assert "10.0 (8.00..11.0, n 3)" in line


def test_an_arch_that_was_not_published_stands_in_the_table_too(
    measured: dict[str, Section],
) -> None:
    assert line_of(render_table(table_section(measured)), "vgg11").split()[1:7] == ["-"] * 6


def test_the_cautions_are_always_shown(measured: dict[str, Section]) -> None:
    for section in (table_section({}), table_section(measured)):
        assert all(caution in render_table(section) for caution in CAUTIONS)


def test_a_table_survives_json(measured: dict[str, Section], runs: Path) -> None:
    report = Report(environment={}, sections=(table_section(measured, finished_runs(runs)),))
    assert Report.from_json(report.to_json()) == report


def summary(directory: Path, **changes: Any) -> dict[str, Any]:
    manifest = Manifest.read(directory)
    return {
        "arch": "resnet18",
        "recipe": "baseline",
        "image_size": 384,
        "epochs": 3,
        "seconds": 4000.0,
        "images_per_s": 20.0,
        "test": {"miou": 0.7},
        "test_images": manifest.splits["test"].samples,
        "shards": {"directory": str(directory), "fingerprint": manifest.fingerprint},
    } | changes


@pytest.fixture
def runs(tmp_path: Path, tiny_shards: Path) -> Path:
    gone = {"directory": str(tmp_path / "gone"), "fingerprint": ""}
    summaries = {
        "a run": summary(tiny_shards),
        "gone": summary(tiny_shards, shards=gone),
        "no test": {**summary(tiny_shards), "test": None},
    }
    del summaries["no test"]["test"]
    for name, content in summaries.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "summary.json").write_text(json.dumps(content))
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "summary.json").write_text("{")
    (tmp_path / "runs" / "unfinished").mkdir()
    return tmp_path / "runs"


def test_runs_on_other_data_are_listed_with_their_time_but_not_compared(runs: Path) -> None:
    found = {run["run"]: run for run in finished_runs(runs)}
    assert set(found) == {"a run", "gone", "no test", "damaged"}
    assert "other classes" in found["a run"]["incomparable"]
    assert "not there any more" in found["gone"]["incomparable"]
    assert "unreadable" in found["damaged"]
    text = render_table(table_section({}, list(found.values())))
    line = next(line for line in text.splitlines() if line.strip().startswith("a run"))
    assert "1 h 06 min" in line
    assert "70.0  different data, not comparable (other classes" in line
    assert not any("published_miou" in run for run in found.values())


def test_a_run_on_the_published_data_stands_beside_the_published_score(
    runs: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.read(tiny_shards)
    monkeypatch.setattr(published, "published_class_names", lambda: manifest.class_names)
    monkeypatch.setattr(published, "TEST_COUNT", manifest.splits["test"].samples)
    shutil.rmtree(runs / "damaged")
    found = {run["run"]: run for run in finished_runs(runs)}
    assert found["a run"]["published_miou"] == pytest.approx(0.69)
    text = render_table(table_section({}, list(found.values())))
    assert "70.0  69.0" in text


def test_no_runs_folder_is_no_error(tmp_path: Path) -> None:
    assert finished_runs(tmp_path / "none") == []
