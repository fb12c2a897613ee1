"""One session of a sweep: its runs one after the other, what is finished already skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from shards.commands import stop_on_signals
from shards.errors import Interrupted, JobError, UserError
from train.checkpoints.folder import held
from train.config.grid import Point, describe
from train.config.safety import Safety
from train.config.source import ShardSource
from train.runs.log import CONFIG
from train.sweeps.search import Request, Study
from train.sweeps.sweep_report import RESULTS, table_lines, write_results
from train.sweeps.sweep_run import Outcome, run_point, state_of

SEED = 0
"""Of the proposals of a search; the seed of the runs is a field like others."""


@dataclass
class Session:
    """What the runs of a sweep share."""

    folder: Path
    source: ShardSource
    fingerprint: str
    safety: Safety
    arguments: str
    """Of the command that goes on."""
    outcomes: list[Outcome] = field(default_factory=list)

    def grid(self, points: Sequence[Point], sizes: str, dry_run: bool) -> None:
        """Run every point.

        Raises:
            Interrupted: A signal or the time limit asked to stop; everything is saved.
            JobError: Some runs failed.
        """
        states = [state_of(self._place(each)) for each in points]
        counts = Counter(states)
        runs = f"{len(points)} run{'s' * (len(points) > 1)}"
        parts = ", ".join(f"{count} {state}" for state, count in counts.items())
        click.echo(f"{runs}{': ' if sizes else ''}{sizes}; {parts}; {self.folder}")
        if dry_run:
            for number, (point, state) in enumerate(zip(points, states, strict=True), 1):
                click.echo(f"{number:>4}  {point}  ({state})")
            return
        self._run(len(points), lambda: (self._outcome(each, len(points)) for each in points))

    def search(self, request: Request, name: str, dry_run: bool) -> None:
        """Run the trials of a search.

        Args:
            request: What is searched.
            name: Of the search: the same for all its sessions.
            dry_run: Only say what would be done.

        Raises:
            Interrupted: A signal or the time limit asked to stop; everything is saved.
            JobError: Some runs failed.
        """
        runs = f"{request.trials} run{'s' * (request.trials > 1)}"
        click.echo(f"{runs}: {request}; {self.folder}")
        if dry_run:
            return

        def outcomes() -> Iterator[Outcome]:
            study = Study(self.folder, name, request)
            return study.run(request.trials, SEED, lambda values: self._try(request, values))

        self._run(request.trials, outcomes)

    def _try(self, request: Request, values: Mapping[str, Any]) -> Outcome:
        try:
            point = request.point(values)
        except UserError as error:  # two values that contradict each other
            return Outcome(values=values, folder=None, summary=None, error=error.format_message())
        return self._outcome(point, request.trials)

    def _outcome(self, point: Point, total: int) -> Outcome:
        place = self._place(point)
        if (state := state_of(place)) != "finished":
            number = len(self.outcomes) + 1
            click.echo(f"\nrun {number} of {total}, {state}: {point}")
        outcome = run_point(point, place, self.source, self.safety)
        if outcome.error:
            click.echo(f"failed: {outcome.error}")
        return outcome

    def _place(self, point: Point) -> Path:
        return self.folder / point.name(self.fingerprint)

    def _run(self, total: int, outcomes: Callable[[], Iterable[Outcome]]) -> None:
        try:
            with self._opened(), stop_on_signals(""):
                for each in outcomes():
                    self.outcomes.append(each)
                    write_results(self.folder, self.outcomes)
        except Interrupted as stop:
            finished = sum(each.summary is not None for each in self.outcomes)
            raise Interrupted(
                f"sweep stopped, {finished} of {total} runs finished; go on with: "
                f"python -m train.sweep {self.arguments}",
                stop.exit_code,
            ) from None
        self._report()

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Make the folder, and keep other processes from the sweep.

        Raises:
            UserError: It cannot be made, holds something else, or another process is at work there.
        """
        if self.folder.is_dir() and (self.folder / CONFIG).exists():
            raise UserError(f"output folder {self.folder} is a run, not a sweep; choose another")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot create output folder {self.folder}: {error.strerror}; choose another"
            ) from None
        with held(self.folder):
            yield

    def _report(self) -> None:
        failed = [each for each in self.outcomes if each.error]
        click.echo()
        for line in table_lines(self.outcomes):
            click.echo(line)
        click.echo(f"written to {self.folder / RESULTS}")
        if not failed:
            return
        click.echo(f"\nfailed ({len(failed)}):")
        for each in failed:
            click.echo(f"  {describe(each.values)}: {each.error}")
        raise JobError(
            f"{len(failed)} of {len(self.outcomes)} runs failed: "
            f"{'; '.join(describe(each.values) for each in failed)}. The same command tries them again"
        )
