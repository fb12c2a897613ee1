"""One ``bench`` command: opens the shard set, prints each section as it is done, writes the JSON."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import click

from bench.environment import describe, environment
from bench.request import Request, shard_set
from bench.result import Report, Section, render
from bench.table import render_table
from shards.commands import stop_on_signals
from shards.errors import UserError
from shards.machine import human_time
from train.device import choose_device
from train.models import check_arch


class BenchSession:
    """Used as a context manager around the measurements.

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
        arch: str | None = None,
        needs_shards: bool = True,
        block_s: float = 1.0,
        budget_s: float = math.inf,
    ) -> None:
        if json_file is not None and (json_file.is_dir() or not json_file.parent.is_dir()):
            what = "is a folder" if json_file.is_dir() else "lies in a folder that does not exist"
            raise UserError(f"--json {json_file} {what}")
        if arch is not None:
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
        self._shards, self._needs_shards, self._json_file = shards, needs_shards, json_file
        self._sections: list[Section] = []

    def __enter__(self) -> BenchSession:
        """Open or draw the shard set, describe the machine."""
        self._start = time.perf_counter()
        self._environment = environment()  # first: drawing and measuring load the machine
        with ExitStack() as stack:
            stack.enter_context(stop_on_signals("stopped; nothing was written"))
            if self._needs_shards:
                self.request = self.request.on(stack.enter_context(shard_set(self._shards)))
            self._stack = stack.pop_all()
        click.echo(describe(self._environment))
        click.echo("medians of n interleaved repeats, and min..max")
        return self

    def show(self, section: Section) -> None:
        """Print a section and keep it for the JSON."""
        self._sections.append(section)
        click.echo("\n" + (render_table if section.name == "table" else render)(section))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove a drawn shard set; unless something failed, write the JSON."""
        self._stack.close()
        if kind is not None:
            return
        click.echo(f"\nmeasured in {human_time(time.perf_counter() - self._start)}")
        if self._json_file is not None:
            report = Report(environment=self._environment, sections=tuple(self._sections))
            self._json_file.write_text(report.to_json(), encoding="utf-8")
            click.echo(f"written: {self._json_file}")
