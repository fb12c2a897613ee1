"""Packing as the tests start it, stop it and look at what it left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from preprocess.discover import read_catalog
from preprocess.image import ImageOptions
from preprocess.pack import pack
from shards.format import WORK_NAME
from shards.photo_times import TIMES_NAME

SHORT_SIDE = 96  # that of pack_set


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a set, without those that hold times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("pack.log", TIMES_NAME)
    }


def start_packing(
    data: Path, out: Path, environment: dict[str, str], workers: int = 2
) -> subprocess.Popen[bytes]:
    """Errors go to a file: what outlives the process would keep a pipe open."""
    arguments = ["--out", out, "--short-side", SHORT_SIDE, "--workers", workers]
    with errors_of(out).open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "preprocess", str(data), *map(str, arguments)],
            env=environment, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
        )  # fmt: skip


def errors_of(out: Path) -> Path:
    return out.with_name("errors.txt")


def wait_for_first_shard(out: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not list((out / WORK_NAME).glob("*-0*.json")):
        assert process.poll() is None, errors_of(out).read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def members_of_session(session: int) -> list[str]:
    """Processes of that session that still run, as ``pid command``."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, fields = status.read_text().rpartition(") ")
        except OSError:  # it has just ended
            continue
        state, _, _, its_session = fields.split()[:4]
        if int(its_session) == session and state != "Z":
            found.append(name)
    return found


def members_after_a_while(session: int, patience_s: float = 20) -> list[str]:
    """Who still runs once Python's own helper, which ends after its parent, had time to end."""
    deadline = time.monotonic() + patience_s
    while (left := members_of_session(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def end_session(session: int) -> None:
    try:
        os.killpg(session, signal.SIGKILL)
    except ProcessLookupError:
        pass


def interrupt_packing(data: Path, out: Path) -> None:
    """Pack with one thread and stop once the first shard is done."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as executor, pytest.raises(KeyboardInterrupt):
        pack(
            read_catalog(data),
            out,
            ImageOptions(short_side=SHORT_SIDE),
            executor,
            on_progress=interrupt,
        )


def identities(split: Any) -> list[tuple[int, str, int]]:
    """``(key, source path, label)`` of every sample."""
    return [
        (int(record["key"]), split.metadata(sample)["path"], int(record["label"]))
        for sample, record in enumerate(split.samples)
    ]
