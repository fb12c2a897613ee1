"""Whether the verdicts of ``bench ab`` can be trusted here: what is known is asked many times.

A commit against itself has to be undecided; against itself with a loader that is slowed by a tenth,
slower. Each trial is a whole comparison: new worktrees, new processes, new memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bench.ab import AbRequest, measure_ab
from bench.paired import SLOWER, UNDECIDED, Comparison
from bench.result import Result, Section, not_measured
from shards.errors import UserError

NAME = "ab proof"
RIGHT = 0.9
"""Share of the trials that have to give the verdict that is due."""


@dataclass(frozen=True, slots=True)
class Case:
    """A comparison whose answer is known."""

    name: str
    slowed: float
    """Share of its rate that one side's loader loses."""
    due: str
    """The verdict."""


CASES = (
    Case("against itself", 0.0, UNDECIDED),
    Case("loader slowed by a tenth", 0.1, SLOWER),
)
Measure = Callable[[AbRequest], tuple[Section, Comparison]]


def prove_ab(
    request: AbRequest,
    trials: int,
    keep: Callable[[Section], None],
    begun: Section | None = None,
    measure: Measure = measure_ab,
) -> Section:
    """Do every case ``trials`` times, in turn.

    Args:
        request: Of the loader, a commit against itself.
        trials: Of each case.
        keep: Gets the section after each trial, as far as it is.
        begun: What an earlier call kept, to go on with.
        measure: A comparison.

    Raises:
        UserError: ``begun`` is of another commit or loader.
        JobError: A side does not run.
    """
    section = _section(request, {case.name: [] for case in CASES})
    if begun is not None:
        if (begun.name, begun.settings) != (section.name, section.settings):
            raise UserError(f"the trials so far are of something else ({begun.title})")
        section = begun
    for _ in range(trials):
        for case in CASES:
            known = {each.name: each.details["trials"] for each in section.results}
            if len(known[case.name]) >= trials:
                continue
            measured, found = measure(replace(request, slowed=case.slowed))
            known[case.name] = [*known[case.name], _trial(measured, found)]
            section = _section(request, known)
            keep(section)
    return section


def failures(section: Section) -> list[str]:
    """The cases that gave the verdict that is due too seldom, in words."""
    return [
        f"{each.name}: {each.note}"
        for each in section.results
        if each.details["right"] < RIGHT * len(each.details["trials"])
    ]


def _trial(measured: Section, found: Comparison) -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "ratio": found.ratio,
        "interval": [found.low, found.high],
        "pairs": len(measured.results[0].repeats),
    }


def _section(request: AbRequest, known: dict[str, list[dict[str, Any]]]) -> Section:
    return Section(
        name=NAME,
        title=(
            f"ab proof: {request.base} against itself, pairs of blocks of {request.block_s:g} s, "
            "ratio new / base of each trial"
        ),
        results=tuple(_result(case, known[case.name]) for case in CASES),
        settings={**request.settings, "what": request.what, "commit": request.base},
    )


def _result(case: Case, trials: list[dict[str, Any]]) -> Result:
    right = [each["verdict"] for each in trials].count(case.due)
    details = {"due": case.due, "right": right, "trials": trials}
    if not trials:
        return replace(not_measured(case.name, "no trial yet", "x"), details=details)
    return Result(
        name=case.name,
        repeats=tuple(each["ratio"] for each in trials),
        unit="x",
        note=f"{case.due} in {right} of {len(trials)} trials",
        details=details,
    )
