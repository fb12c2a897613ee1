"""One ``bench`` command: opens the shard set, prints each section as it is done, writes the JSON."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click

from bench.compare import read_record
from bench.environment import describe, environment
from bench.ladder import render_ladder
from bench.load import LoadMeter, was_busy
from bench.recipe_curves import render_curves
from bench.request import Request, photographs, shard_set
from bench.result import Report, Section, render
from bench.roofline import render_roofline
from bench.table import render_table
from shards.commands import stop_on_signals
from shards.errors import UserError
from shards.machine import human_time
from shards.writer import atomic_file
from train.config.device import choose_device
from train.method.models import check_arch

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on


RENDERERS = {
    "table": render_table,
    "ladder": render_ladder,
    "roofline": render_roofline,
    "recipes": render_curves,
}
"""Of sections that are more than rows of figures."""


class Recorder:
    """Prints each section as it is done and writes the JSON at the end; a context manager.

    Raises:
        UserError: From the constructor, where the JSON could not be written.
    """

    def __init__(self, json_file: Path | None) -> None:
        if json_file is not None and (json_file.is_dir() or not json_file.parent.is_dir()):
            what = "is a folder" if json_file.is_dir() else "lies in a folder that does not exist"
            raise UserError(f"--json {json_file} {what}")
        self._json_file = json_file
        self._part = None if json_file is None else json_file.with_name(f"{json_file.name}.part")
        self._sections: list[Section] = []

    def __enter__(self) -> Self:
        """Describe the machine, prepare what is measured."""
        self._start = time.perf_counter()
        self._environment = environment()  # first: drawing and measuring load the machine
        with ExitStack() as stack:
            stack.enter_context(stop_on_signals("stopped; nothing was written"))
            self._prepare(stack)
            self._stack = stack.pop_all()
        self._load = LoadMeter()
        click.echo(describe(self._environment))
        click.echo("medians of n interleaved repeats, and their 95 % intervals (bootstrap)")
        return self

    def _prepare(self, stack: ExitStack) -> None:
        """Whatever the measurements need; ``stack`` puts it away again."""

    def keep(self, section: Section) -> None:
        """Write a section that is not complete beside the JSON, to go on with after a kill."""
        if self._part is not None:
            report = Report(environment=self._environment, sections=(section,))
            with atomic_file(self._part) as file:
                file.write(report.to_json().encode())

    def begun(self) -> Section | None:
        """What :meth:`keep` wrote last, of an earlier call of the same command."""
        if self._part is None or not self._part.exists():
            return None
        click.echo(f"going on with {self._part}")
        return read_record(self._part).sections[0]

    def show(self, section: Section) -> None:
        """Print a section and keep it for the JSON, marked where others used the machine too."""
        others = self._load.others()
        section = replace(section, settings=section.settings | {"cores_of_others": others})
        if others is not None and was_busy(others):
            note = f"busy: other processes kept {others:.1f} cores working meanwhile"
            section = replace(section, notes=(*section.notes, note))
        self._sections.append(section)
        click.echo("\n" + RENDERERS.get(section.name, render)(section))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put away what was prepared; unless something failed, write the JSON."""
        self._stack.close()
        if kind is not None:
            return
        click.echo(f"\nmeasured in {human_time(time.perf_counter() - self._start)}")
        if self._json_file is not None:
            report = Report(environment=self._environment, sections=tuple(self._sections))
            self._json_file.write_text(report.to_json(), encoding="utf-8")
            click.echo(f"written: {self._json_file}")
        if self._part is not None:
            self._part.unlink(missing_ok=True)


class BenchSession(Recorder):
    """A recorder of what is measured on a shard set or a training step.

    Raises:
        UserError: From the constructor, for whatever can be known to fail before it takes time.
        ShardError: On entering, where there is no shard set.
    """

    def __init__(
        self,
        *,
        shards: Path | None = None,
        image_size: int,
        batch_size: int | None,
        threads: int | None,
        device: str,
        repeats: int,
        json_file: Path | None,
        archs: Sequence[str] = (),
        needs_shards: bool = True,
        block_s: float = 1.0,
        budget_s: float = math.inf,
    ) -> None:
        super().__init__(json_file)
        for arch in archs:
            check_arch(arch)
        choose_device(device)
        self.request = Request(
            shards=shards or Path(),
            image_size=image_size,
            batch_size=batch_size,
            threads=threads,
            device=device,
            repeats=repeats,
            block_s=block_s,
            budget_s=budget_s,
        )
        self._shards, self._needs_shards = shards, needs_shards

    def _prepare(self, stack: ExitStack) -> None:
        if self._needs_shards:
            self.request = self.request.on(stack.enter_context(shard_set(self._shards)))


class PackSession(Recorder):
    """A recorder of what packing does with a folder of photographs.

    Raises:
        UserError: From the constructor, where the JSON could not be written.
    """

    def __init__(self, *, data: Path | None, json_file: Path | None) -> None:
        super().__init__(json_file)
        self._given = data
        self.data = Path()
        """The photographs, once entered."""

    def _prepare(self, stack: ExitStack) -> None:
        self.data = stack.enter_context(photographs(self._given))
