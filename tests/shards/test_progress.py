"""Progress in a log file: plain lines with count, rate and time left."""

from __future__ import annotations

import re

import pytest

from shards import progress
from shards.progress import Progress


def test_off_a_terminal_plain_lines_show_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with Progress("packing", 1000, "photos", initial=500) as bar:
        bar.update(100, "3.0 MB/s read")
    line = capsys.readouterr().err
    assert re.fullmatch(r"packing: 600/1,000 photos, [\d,]+/s, .+ left, 3\.0 MB/s read\n", line)


def test_off_a_terminal_little_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("packing", 10, "photos") as bar:
        bar.update(10)
    assert capsys.readouterr() == ("", "")
