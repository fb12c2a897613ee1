"""The page holds every figure, is well-formed, and asks for nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.chart import BARS, log_chart
from bench.compare_commands import report
from bench.end_to_end import STEP
from bench.environment import environment
from bench.ladder import SHARED, TOGETHER
from bench.page import page
from bench.result import Report, Result, Section, not_measured
from bench.rungs import DECODE
from bench.table import table_section

VOID = {"meta", "br", "line", "rect"}
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PHONE_PX = 500
"""Chromium's own least width of a window."""
MEASURE = (
    "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth;"
    "document.querySelectorAll('svg').length || console.error('no picture')</script>"
)


class Page(HTMLParser):
    """Text and tags of a document; fails on a tag that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def records() -> list[Report]:
    ladder = Section(
        name="ladder",
        title="ladder: resnet18, <set>",
        results=(
            Result(name=DECODE, repeats=(1000.0, 1100.0, 900.0)),
            Result(name=STEP, repeats=(9.0, 10.0, 11.0)),
            Result(name=TOGETHER, repeats=(9.5, 9.8, 10.2)),
            Result(name=SHARED, repeats=(9.9,), measured=False),
        ),
        settings={
            "limit": STEP,
            "option": "`--image-size 160`",
            "image_ms": {DECODE: 1.0, STEP: 100.0},
            "cores_to_feed_the_step": 0.02,
            "model": SHARED,
        },
    )
    loaders = Section(
        name="loaders",
        title="loaders: 224 px",
        results=(
            Result(name="decode", repeats=(1234.5, 1200.0, 1300.0)),
            not_measured("dali", "no CUDA device"),
        ),
        reference="decode",
        notes=("a note & more",),
    )
    content = environment()
    return [
        Report(environment=content, sections=(ladder, loaders)),
        Report(environment=content, sections=(table_section({}),)),
    ]


def test_the_page_is_well_formed_and_holds_every_figure(records: list[Report]) -> None:
    parsed = Page(page(records))
    assert parsed.open == []
    text = " ".join(parsed.text)
    for figure in (
        "1,234 images/s",
        "10.0 images/s",
        "not measured: no CUDA device",
        "16 h 43 min",
    ):
        assert figure in text
    assert "limit: the step, 100 ms of the 101 ms" in text
    assert "ladder: resnet18, <set>" in text
    assert "resnet101.ckpt" in text


def test_the_page_asks_for_nothing_from_elsewhere(records: list[Report]) -> None:
    text = page(records)
    parsed = Page(text)
    loading = [value for name, value in parsed.attributes if name in ("src", "href")]
    assert loading == []
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert ("name", "viewport") in parsed.attributes


def test_a_chart_has_a_bar_for_each_measured_figure_in_proportion() -> None:
    results = [
        Result(name="a", repeats=(1000.0,)),
        Result(name="b & c", repeats=(10.0,)),
        not_measured("d", "no GPU"),
    ]
    tree = ET.fromstring(log_chart(results, "t"))
    bars = [each for each in tree.iter() if each.tag.endswith("rect")]
    widths = [float(each.get("width", 0)) for each in bars]
    assert len(widths) == 2
    assert widths == pytest.approx([BARS, 1])  # from 10 to 1,000
    assert log_chart([not_measured("d", "no GPU")], "t") == ""


def test_the_command_writes_page_and_picture(records: list[Report], tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(records[0].to_json())
    args = [str(file), "--out", str(tmp_path / "a.html"), "--svg", str(tmp_path / "a.svg")]
    done = CliRunner().invoke(report, args)
    assert done.exit_code == 0, done.output
    assert "1,234" in (tmp_path / "a.html").read_text()
    ET.fromstring((tmp_path / "a.svg").read_text())


def test_a_page_replaces_no_record_and_no_picture(records: list[Report], tmp_path: Path) -> None:
    file, page_file = tmp_path / "a.json", tmp_path / "a.html"
    file.write_text(records[0].to_json())
    before = file.read_bytes()
    for asked, named in (
        (["--out", file], f"--out {file}"),
        (["--out", page_file, "--svg", file], f"--svg {file}"),
        (["--out", page_file, "--svg", page_file], f"--svg {page_file}"),
    ):
        done = CliRunner().invoke(report, [str(each) for each in (file, *asked)])
        assert done.exit_code == 2
        assert f"{named} would replace what this command reads or writes" in done.output
    done = CliRunner().invoke(report, [str(file), "--out", str(tmp_path / "none" / "a.html")])
    assert done.exit_code == 2
    assert f"no folder {tmp_path / 'none'}" in done.output
    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_picture_without_a_ladder_is_one_line(records: list[Report], tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(records[1].to_json())
    done = CliRunner().invoke(report, [str(file), "--svg", str(tmp_path / "a.svg")])
    assert done.exit_code == 2
    assert "none of the records holds a ladder" in done.output
    assert not (tmp_path / "a.svg").exists()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_shows_the_figures_within_the_width_of_a_phone(
    records: list[Report], tmp_path: Path
) -> None:
    file = tmp_path / "bench.html"
    file.write_text(page(records) + MEASURE, encoding="utf-8")
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--window-size={PHONE_PX},900", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    assert "1,234 images/s" in done.stdout
    title = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert title is not None
    assert int(title[1]) <= int(title[2])
