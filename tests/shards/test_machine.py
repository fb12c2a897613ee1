"""What the machine allows, containers honoured; figures as people read them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from shards import machine
from shards.machine import allowed_cores, available_memory, free_disk, human_bytes, human_time


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty control group, on a machine of eight cores."""
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    return tmp_path


def test_without_a_quota_the_affinity_decides(cgroup: Path) -> None:
    assert allowed_cores() == 8


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1),
     ("1600000 100000", 8), ("nonsense", 8)],
)  # fmt: skip
def test_a_container_quota_limits_the_cores(cgroup: Path, cpu_max: str, cores: int) -> None:
    (cgroup / "cpu.max").write_text(cpu_max + "\n")
    assert allowed_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("300000", 3)])
def test_a_quota_of_the_first_interface_is_honoured(cgroup: Path, quota: str, cores: int) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert allowed_cores() == cores


def test_a_container_memory_limit_is_honoured(cgroup: Path) -> None:
    unlimited = available_memory()
    assert unlimited > 10**7
    (cgroup / "memory.current").write_text("400000")
    (cgroup / "memory.max").write_text("1000000")
    assert available_memory() == 600_000
    (cgroup / "memory.max").write_text("max")
    assert available_memory() > 10**7


def test_the_disk_of_a_folder_that_is_not_there_yet_is_its_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage)
    assert free_disk(tmp_path / "not" / "there" / "yet") == usage.free
    assert asked == [tmp_path]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1536, "1.5 kB"),
        (12_200_000_000, "12.2 GB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_bytes_are_shown_in_powers_of_1000(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (12.4, "12 s"), (60, "1 min 00 s"), (75, "1 min 15 s"),
     (3599.6, "1 h 00 min"), (7500, "2 h 05 min"), (100_000, "27 h 46 min")],
)  # fmt: skip
def test_durations_are_shown_in_two_units(seconds: float, text: str) -> None:
    assert human_time(seconds) == text
