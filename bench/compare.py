"""Two records of ``bench``, figure by figure: what may be said of runs that were not interleaved.

Repeats within a run say how steady that run was, not how far the next run may be off: the machine
is warmer, the memory lies elsewhere. So the interval of a ratio is widened by the spread between
runs, which is itself measured: records of the same command, one after another.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.paired import Comparison
from bench.result import Report, Result, Section, text_table
from shards.errors import UserError

BETWEEN_RUNS = 0.05
"""Standard deviation of the logarithm of a median between runs, where no records tell it: a guess
for a machine of one's own. ``--runs`` takes its place by a measurement."""
Z = 1.96
"""Of a 95 % interval."""
HIGHER_IS_BETTER = ("images/s", "photos/s", "TFLOP/s", "FLOP/s", "bytes/s")


def read_record(file: Path) -> Report:
    """A record that ``--json`` wrote.

    Raises:
        UserError: It cannot be read, or is none.
    """
    try:
        return Report.from_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(
            f"{file} is no record that `bench ... --json FILE` wrote: {error}"
        ) from None


def between_runs(records: Sequence[Report]) -> dict[tuple[str, str], float]:
    """Spread of each figure between records of the same command.

    Standard deviation of the logarithm of the medians, by section and name; of figures that at least
    two records hold.
    """
    logs: dict[tuple[str, str], list[float]] = {}
    for record in records:
        for key, result in rates(record).items():
            assert result.median is not None
            logs.setdefault(key, []).append(math.log(result.median))
    return {key: statistics.stdev(each) for key, each in logs.items() if len(each) > 1}


def rates(record: Report) -> dict[tuple[str, str], Result]:
    """The measured rates of a record, by section and name."""
    found: dict[tuple[str, str], Result] = {}
    seen: dict[str, int] = {}
    for section in record.sections:
        seen[section.name] = seen.get(section.name, 0) + 1
        name = section.name if seen[section.name] == 1 else f"{section.name} {seen[section.name]}"
        for result in section.results:
            if result.measured and result.unit in HIGHER_IS_BETTER and min(result.repeats) > 0:
                found[name, result.name] = result
    return found


def compare_results(new: Result, base: Result, between: float) -> Comparison:
    """The ratio of two medians with an interval for both runs' repeats and for what lies between."""
    assert new.median is not None
    assert base.median is not None
    variance = 2 * (Z * between) ** 2
    for result in (new, base):
        assert result.interval is not None
        variance += (math.log(result.interval[1] / result.interval[0]) / 2) ** 2
    log, half = math.log(new.median / base.median), math.sqrt(variance)
    return Comparison(math.exp(log), math.exp(log - half), math.exp(log + half))


def compare_records(base: Report, new: Report, more: Sequence[Report] = ()) -> Section:
    """Every rate that both records hold.

    Args:
        base: The earlier record.
        new: The later one.
        more: Records of the same command as ``base``, which tell the spread between runs.

    Raises:
        UserError: They have no rate in common.
    """
    between = between_runs([base, *more]) if more else {}
    old, now = rates(base), rates(new)
    common = [key for key in old if key in now]
    if not common:
        raise UserError("the two records have no rate in common: of different suites?")
    results = []
    for key in common:
        spread = between.get(key, BETWEEN_RUNS)
        found = compare_results(now[key], old[key], spread)
        results.append(
            Result(
                name=f"{key[0]}: {key[1]}",
                repeats=(found.ratio,),
                unit="x",
                measured=False,
                note=found.verdict,
                details={
                    "verdict": found.verdict,
                    "interval": [found.low, found.high],
                    "between_runs": spread,
                },
            )
        )
    known = f"measured on {len(more) + 1} records" if more else f"assumed, {BETWEEN_RUNS:.0%}"
    return Section(
        name="compare",
        title="compare: new / base, interval of repeats and of runs",
        results=tuple(results),
        notes=(f"spread between runs: {known}", *_differences(base, new)),
    )


def render_comparison(section: Section) -> str:
    """What :func:`compare_records` found, as text."""
    rows = [["", "new / base", "95 %", ""]]
    for each in section.results:
        low, high = each.details["interval"]
        rows.append([each.name, f"{each.median:.2f}", f"{low:.2f}..{high:.2f}", each.note])
    lines = [section.title, *(f"  {line}" for line in text_table(rows, left=(0, 3)))]
    return "\n".join(lines + [f"  note: {note}" for note in section.notes])


def _differences(base: Report, new: Report) -> list[str]:
    """What else is not the same between two records."""
    found = []
    for what in ("machine", "versions"):
        old, now = base.environment.get(what, {}), new.environment.get(what, {})
        for name in sorted(set(old) | set(now)):
            if name != "memory_available" and old.get(name) != now.get(name):
                found.append(f"{name} differs: {old.get(name)} before, {now.get(name)} now")
    settings = [{**section.settings} for section in (base.sections[0], new.sections[0])]
    for name in sorted(set(settings[0]) & set(settings[1]) - {"cores_of_others"}):
        old, now = (each[name] for each in settings)
        if isinstance(old, str | int) and old != now:
            found.append(f"{name} differs: {old} before, {now} now")
    return found
