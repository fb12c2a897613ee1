"""``bench records``: measures every record behind the documents, one after the other, in peace.

What is measured waits in ``data/records``, so that the code stays at its commit meanwhile; ``--publish``
moves the records to their place and writes the documents that quote them and the picture.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from shards.commands import HELP
from shards.errors import JobError, UserError, unknown_name
from shards.settings import CODE_ROOT

PHOTOGRAPHS = "flowers17"
SETS = {"data/flowers17-256": 256, "data/flowers17-440": 440}
"""Shard sets of the photographs, by the shorter side that they store [px]."""
WAITING, RESULTS = Path("data/records"), Path("bench/results")
LADDER = "ladder-resnet18-flowers17-224px"


@dataclass(frozen=True, slots=True)
class Record:
    """A measurement of this list."""

    name: str
    """Of its file, without ``.json``."""
    command: str
    """Behind ``bench``."""
    minutes: int
    """On two cores."""


RECORDS = {
    each.name: each
    for each in (
        Record(LADDER, "ladder --shards data/flowers17-440 --repeats 25", 5),
        Record(
            "ladder-none-flowers17-224px",
            "ladder --arch none --shards data/flowers17-440 --repeats 11",
            2,
        ),
        Record(
            "train-flowers17-224px",
            "train --shards data/flowers17-256 --epoch-size 384 --repeats 5",
            9,
        ),
        Record("roofline-224px", "roofline --arch all --batch-size 4", 5),
        Record(
            "step-224px",
            "step --arch resnet18,resnet50 --precision fp32 --memory-format nchw,channels_last "
            "--compile off,on --batch-size 8",
            9,
        ),
        Record("ab-proof-flowers17-224px", "ab HEAD --proof --shards data/flowers17-256", 25),
        Record("pack-flowers17", f"pack {PHOTOGRAPHS}", 4),
        Record(
            "loaders-flowers17-224px",
            f"loaders --shards data/flowers17-256 --originals {PHOTOGRAPHS} --image-size 224",
            1,
        ),
        Record(
            "loaders-flowers17-384px",
            f"loaders --shards data/flowers17-440 --originals {PHOTOGRAPHS} --image-size 384",
            2,
        ),
        Record(
            "peers-flowers17-224px",
            f"peers --shards data/flowers17-256 --originals {PHOTOGRAPHS} --image-size 224",
            9,
        ),
        Record(
            "peers-flowers17-384px",
            f"peers --shards data/flowers17-440 --originals {PHOTOGRAPHS} --image-size 384",
            9,
        ),
        Record("parity-flowers17-224px", "parity --shards data/flowers17-256 --samples 6400", 4),
    )
}


@click.command(context_settings=HELP)
@click.argument("names", nargs=-1)
@click.option("--list", "only_list", is_flag=True, help="Show the commands and what is there.")
@click.option(
    "--publish",
    "only_publish",
    is_flag=True,
    help="Measure nothing: write what waits into bench/results, the documents, and the picture.",
)
def records(names: tuple[str, ...], only_list: bool, only_publish: bool) -> None:
    """Measure the records behind the documents, all or NAMES; they wait in data/records.

    For a machine that does nothing else. Needs ./flowers17, a folder or link with the photographs.
    What this commit has measured is not measured again, so a stopped call can be repeated.
    """
    for name in names:
        if name not in RECORDS:
            raise UserError(unknown_name("record", name, RECORDS))
    chosen = [RECORDS[name] for name in names or RECORDS]
    if only_list:
        for each in chosen:
            click.echo(
                f"{_state(each):<8} {each.minutes:>3} min  {each.name}: bench {each.command}"
            )
        return
    if only_publish:
        for line in publish([each.name for each in chosen]):
            click.echo(line)
    else:
        _measure(chosen)
        click.echo("\nall measured; `bench records --publish` puts them into the documents")


def publish(names: Sequence[str], root: Path = CODE_ROOT) -> list[str]:
    """Put what waits into ``bench/results`` and the documents; what was done, in lines.

    Args:
        names: Of the records; those that do not wait are left alone.
        root: Of the project.
    """
    from bench.chart import log_chart
    from bench.compare import read_record
    from bench.documents import PICTURE, updated

    said = []
    documents = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    for name in names:
        waiting, place = root / WAITING / f"{name}.json", root / RESULTS / f"{name}.json"
        if not waiting.is_file():
            continue
        new, old = read_record(waiting), read_record(place) if place.is_file() else None
        for document in documents:
            before = document.read_text(encoding="utf-8")
            after, unclear = updated(before, place.name, old, new)
            if after != before:
                document.write_text(after, encoding="utf-8")
                said.append(f"{document.relative_to(root)}: figures of {place.name}")
            if unclear:
                figures = ", ".join(unclear)
                said.append(f"{document.relative_to(root)}: not clear, write by hand: {figures}")
        shutil.move(waiting, place)
        said.append(f"written: {place.relative_to(root)}")
        if name == LADDER:
            (ladder,) = new.sections
            rungs = [each for each in ladder.results if each.unit == "images/s"]
            (root / PICTURE).write_text(log_chart(rungs, ladder.title) + "\n", encoding="utf-8")
            said.append(f"written: {PICTURE}")
    return said


def _measure(chosen: Sequence[Record]) -> None:
    missing = [each for each in chosen if _state(each) != "measured"]
    if not missing:
        return
    commit = _commit()
    if commit is None or commit.endswith("changes"):
        raise UserError(
            "records name the commit that they are of, and this is none: commit the changes first"
        )
    if not (CODE_ROOT / PHOTOGRAPHS).is_dir():
        raise UserError(
            f"no folder {CODE_ROOT / PHOTOGRAPHS}: make a link of that name to the photographs "
            "(docs/bench.md says which)"
        )
    for directory, side in SETS.items():
        if not (CODE_ROOT / directory / "manifest.json").is_file():
            _run(f"-m preprocess {PHOTOGRAPHS} --out {directory} --short-side {side}")
    (CODE_ROOT / WAITING).mkdir(parents=True, exist_ok=True)
    failed = []
    for at, each in enumerate(missing, start=1):
        click.echo(f"\n--- {at}/{len(missing)} {each.name}, about {each.minutes} min")
        if not _run(f"-m bench {each.command} --json {WAITING / each.name}.json"):
            failed.append(each.name)
    if failed:
        raise JobError(f"failed: {', '.join(failed)}; the rest waits for `bench records --publish`")


def _run(command: str) -> bool:
    """Run one of our own commands; whether it did its job."""
    process = subprocess.Popen([sys.executable, *shlex.split(command)], cwd=CODE_ROOT)
    try:
        return process.wait() == 0
    except BaseException:
        process.terminate()  # so that it ends what it started
        process.wait()
        raise


def _state(record: Record) -> str:
    """``measured`` of this commit, ``older``, or ``none``."""
    from bench.compare import read_record

    for folder in (WAITING, RESULTS):
        file = CODE_ROOT / folder / f"{record.name}.json"
        if file.is_file():
            same = read_record(file).environment["commit"] == _commit()
            return "measured" if same else "older"
    return "none"


def _commit() -> str | None:
    from bench.environment import git_commit

    return git_commit()
