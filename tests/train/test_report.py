"""The page about a run: the numbers of the evaluation, hostile names as text, in a real browser."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from train.evaluate import main as evaluate_main
from train.report.__main__ import main
from train.report.content import Content, read_content
from train.report.figures import iou_colour
from train.report.model_card import model_card
from train.report.run_page import run_page
from train.runs.log import CONFIG, SUMMARY
from train.scores.species import taxonomy_of

HOSTILE = ("<script>alert(1)</script>", "</script><img src=x onerror=alert(2)>", "{{ 7 * 7 }} & co")


@pytest.fixture(scope="session")
def content(finished_run: Path) -> Content:
    return read_content(finished_run, None, None)


@pytest.fixture(scope="session")
def page(content: Content) -> str:
    return run_page(content)


@pytest.fixture(scope="session")
def hostile(content: Content) -> Content:
    """The same run with classes that want to be markup."""
    names = dict(zip((each["name"] for each in content.row["classes"]), HOSTILE, strict=True))
    row = json.loads(json.dumps(content.row))
    for each in row["classes"]:
        each["name"] = names[each["name"]]
    return replace(
        content,
        row=row,
        taxonomy=taxonomy_of(HOSTILE),
        mistakes=tuple(
            replace(each, true=names[each.true], predicted=names[each.predicted])
            for each in content.mistakes
        ),
    )


def cells(page: str) -> list[list[str]]:
    """Of the table of classes."""
    body = page.partition('id="classes"')[2].partition("</table>")[0]
    return [
        re.findall(r"<td>(.*?)</td>", line)
        for line in body.splitlines()
        if line.startswith("<tr><td>")
    ]


def test_every_figure_equals_that_of_the_evaluation(
    finished_run: Path, command_line: Any, content: Content, page: str, tmp_path: Path
) -> None:
    assert command_line(evaluate_main, finished_run, "--json", tmp_path / "row.json").code == 0
    row = json.loads((tmp_path / "row.json").read_text())
    shown = json.loads(json.dumps(content.row))
    assert {**shown, "seconds": None} == {**row, "seconds": None}
    for name, key in (("mIoU", "miou"), ("mF1", "mf1"), ("OA", "oa"), ("top-5", "top5")):
        assert f'id="result-{name}">{row[key]:.4f}<' in page
        low, high = row["intervals"][key]
        assert f"{low:.4f} to {high:.4f}" in page
    found = cells(page)
    assert len(found) == len(row["classes"]) == 3
    for each, line in zip(row["classes"], found, strict=True):
        numbers = [each[name] for name in ("precision", "recall", "f1", "iou")]
        assert line[:3] == [each["name"], str(each["support"]), str(each["predicted"])]
        assert line[3:7] == ["-" if value is None else f"{value:.4f}" for value in numbers]
    plain = row["danger"]["prices"][0]
    assert f"{plain['dangerous']} of {row['danger']['images']} images" in page


def test_the_page_needs_no_network(page: str) -> None:
    assert not re.search(r'(src|href)="(?!data:)', page.replace(get_plotlyjs(), ""))


def test_hostile_class_names_stay_text(hostile: Content) -> None:
    page = run_page(hostile).replace(get_plotlyjs(), "")
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "{{ 7 * 7 }} &amp; co" in page
    card = model_card(hostile)
    assert "<script>" not in card.replace("\\<", "")


def test_the_page_says_how_the_run_was_made(finished_run: Path, page: str) -> None:
    config = json.loads((finished_run / CONFIG).read_text())
    assert config["command"] == shlex.join(sys.orig_argv)  # what began this process
    assert "batch_size" in page
    for name in ("torch", "numpy"):
        assert f"{name} {config['versions'][name]}" in page


def test_the_command_writes_page_and_card(
    finished_run: Path, command_line: Any, tmp_path: Path
) -> None:
    ended = command_line(main, finished_run, "--out", tmp_path / "page.html")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith(f"{tmp_path / 'page.html'}\n{tmp_path / 'MODEL_CARD.md'}\n")
    card = (tmp_path / "MODEL_CARD.md").read_text()
    summary = json.loads((finished_run / SUMMARY).read_text())
    assert f"| mIoU | {summary['test']['miou']:.4f} | " in card
    assert "No model decides what may be eaten" in card


@pytest.mark.parametrize(("name", "text"), [(SUMMARY, None), (CONFIG, "{"), (SUMMARY, "[]")])
def test_a_run_that_is_not_finished_or_damaged_is_refused(
    command_line: Any, tmp_path: Path, name: str, text: str | None
) -> None:
    for each in (SUMMARY, CONFIG):
        (tmp_path / each).write_text("{}")
    if text is None:
        (tmp_path / name).unlink()
        expected = f"{tmp_path} is no finished run: it has no {name}"
    else:
        (tmp_path / name).write_text(text)
        expected = f"{tmp_path / name} is damaged: "
    ended = command_line(main, tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {expected}")


def test_colours_go_from_red_over_yellow_to_green() -> None:
    assert iou_colour(0.0) == "rgb(179,32,42)"
    assert iou_colour(0.5) == "rgb(240,214,110)"
    assert iou_colour(1.0) == "rgb(47,107,60)"
    assert iou_colour(float("nan")) == "#d5d8d5"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_the_page_draws_sorts_and_runs_nothing_of_a_name(
    hostile: Content, tmp_path: Path, width: int
) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    (tmp_path / "page.html").write_text(run_page(hostile))
    wrong: list[str] = []
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        view = opened.new_page(viewport={"width": width, "height": 900})
        view.on("pageerror", lambda error: wrong.append(str(error)))
        view.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        view.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:", "blob:")) or wrong.append(request.url)
            ),
        )
        view.goto((tmp_path / "page.html").as_uri())
        view.wait_for_selector("#figure-tree .slicetext", state="attached")
        assert view.locator("#figure-confusion .heatmaplayer image").count() == 1
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        heading = view.locator("#classes th", has_text="IoU")
        for expected in ("ascending", "descending"):
            heading.click()
            assert heading.get_attribute("aria-sort") == expected
            shown = [
                float(text)
                for text in view.locator("#classes tbody td:nth-child(7)").all_inner_texts()
                if text != "-"
            ]
            assert shown == sorted(shown, reverse=expected == "descending")
        names = view.locator("#classes tbody td:first-child").all_inner_texts()
        assert sorted(names) == sorted(HOSTILE)
        opened.close()
    assert wrong == []
