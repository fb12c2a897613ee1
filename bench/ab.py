"""Two commits of the project against each other: two worktrees, two processes, blocks in turn.

While one side is measured the other stands still, stopped by a signal. Pairs change their order from
one to the next, so that neither side is always the first. Where others use the machine meanwhile, time
says more about them than about either side: then processor time decides, which is the sides' own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import ab_side
from bench.load import LoadMeter, was_busy
from bench.paired import Comparison, compare_pairs
from bench.peers.process import PeerProcess
from bench.result import Result, Section
from shards.errors import JobError, UserError
from shards.progress import Progress
from shards.settings import CODE_ROOT

OPEN_S, BLOCK_EXTRA_S = 120.0, 60.0
"""How long opening may take, and a block beyond its own length."""
BASE, NEW = "base", "new"
WORK = "hyphae-bench-ab-"
"""How the names of temporary folders begin; the number of the process follows."""
CHECK_EVERY = 10
"""Pairs."""
PAIRS, MOST_PAIRS, BLOCK_S = 40, 400, 0.1
"""Many short pairs rather than few long ones: what disturbs the machine comes and goes in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AbRequest:
    """What to compare, and how long."""

    base: str
    """A commit, branch or tag."""
    new: str
    what: str
    """A name of :data:`bench.ab_side.OPEN`."""
    settings: dict[str, Any]
    """Of the loader or step."""
    pairs: int = PAIRS
    """At least; more until the interval is narrow enough."""
    most_pairs: int = MOST_PAIRS
    block_s: float = BLOCK_S
    """Least length of a block [s]."""
    slowed: float = 0.0
    """Share of its rate that is taken from the loader of ``new``: to prove the method."""


@contextmanager
def worktree(ref: str, folder: Path, repository: Path = CODE_ROOT) -> Iterator[Path]:
    """A commit's files in ``folder``, for a while.

    Raises:
        UserError: No git, no repository, or no such commit.
    """
    command = [_git(repository), "-C", str(repository), "worktree"]
    done = subprocess.run(
        [*command, "add", "--quiet", "--detach", "--force", str(folder), ref],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise UserError(f"no worktree of {ref!r}: {lines[-1].removeprefix('fatal: ')}")
    try:
        yield folder
    finally:
        subprocess.run(
            [*command, "remove", "--force", str(folder)], capture_output=True, check=False
        )


def remove_orphans(repository: Path = CODE_ROOT) -> None:
    """Put away the worktrees of calls that were killed before they could."""
    command = [_git(repository), "-C", str(repository), "worktree"]
    listed = subprocess.run(
        [*command, "list", "--porcelain"], capture_output=True, text=True, check=False
    )
    for line in listed.stdout.splitlines():
        work = Path(line.removeprefix("worktree ")).parent
        number = work.name.removeprefix(WORK).split("-")[0]
        if not (line.startswith("worktree ") and work.name.startswith(WORK) and number.isdigit()):
            continue
        with suppress(ProcessLookupError, PermissionError):
            os.kill(int(number), 0)
            continue  # it is at work
        tree = line.removeprefix("worktree ")
        subprocess.run([*command, "remove", "--force", tree], capture_output=True, check=False)
        shutil.rmtree(work, ignore_errors=True)


def measure_ab(request: AbRequest, repository: Path = CODE_ROOT) -> tuple[Section, Comparison]:
    """Pairs of blocks of both commits, and which one is faster if that can be told.

    Raises:
        UserError: There is no such commit.
        JobError: A side does not run; the message names it.
    """
    with ExitStack() as stack:
        remove_orphans(repository)
        prefix = f"{WORK}{os.getpid()}-"
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        refs = {BASE: request.base, NEW: request.new}
        codes = {
            side: stack.enter_context(worktree(ref, work / side, repository))
            for side, ref in refs.items()
        }
        commits = {side: commit_of("HEAD", code) for side, code in codes.items()}
        sides = {
            side: stack.enter_context(_Side(f"{side} ({refs[side]})", code, work / f"{side}.log"))
            for side, code in codes.items()
        }
        slowed = {"slowed": request.slowed} if request.slowed else {}
        sides[BASE].begin_to_open(request.what, request.settings)
        sides[NEW].begin_to_open(request.what, request.settings | slowed)
        for each in sides.values():
            each.await_open()
        pairs = Pairs()
        progress = stack.enter_context(Progress("ab", request.most_pairs, "pairs at most"))
        for pair in range(request.most_pairs + 1):  # the first is a warm-up
            order = (BASE, NEW) if pair % 2 else (NEW, BASE)
            blocks = {side: sides[side].block(pair, request.block_s) for side in order}
            if pair > 0:
                pairs.add(blocks[NEW], blocks[BASE])
            progress.update(1)
            # When to stop depends on how sure the ratio is, never on the ratio itself.
            if pair >= request.pairs and pair % CHECK_EVERY == 0 and pairs.compare().is_narrow:
                break
    comparison = pairs.compare()
    return _section(request, commits, pairs, comparison), comparison


@dataclass(frozen=True, slots=True)
class Block:
    """What a side did in one go."""

    images: float
    seconds: float
    cpu_s: float
    """Processor time of all its threads."""
    others_s: float
    """Processor time that everything else spent while the side was asked [s]."""
    asked_s: float
    """How long that took, its warm-up included [s]."""

    def rate(self, *, by_cpu: bool) -> float:
        """Images a second, or a second of processor time."""
        return self.images / (self.cpu_s if by_cpu else self.seconds)


class Pairs:
    """Blocks of both sides, each next to that of the other."""

    def __init__(self) -> None:
        self._blocks: dict[str, list[Block]] = {BASE: [], NEW: []}

    def add(self, new: Block, base: Block) -> None:
        """One more pair."""
        self._blocks[NEW].append(new)
        self._blocks[BASE].append(base)

    @property
    def others(self) -> float:
        """Cores that everything else kept busy, on average."""
        both = [*self._blocks[BASE], *self._blocks[NEW]]
        return max(0.0, sum(each.others_s for each in both) / sum(each.asked_s for each in both))

    @property
    def by_cpu(self) -> bool:
        """Whether processor time decides, because the machine was busy."""
        return was_busy(self.others)

    def rates(self, side: str) -> tuple[float, ...]:
        """Of one side, in the measure that decides."""
        by_cpu = self.by_cpu
        return tuple(each.rate(by_cpu=by_cpu) for each in self._blocks[side])

    def compare(self) -> Comparison:
        """The verdict so far."""
        return compare_pairs(self.rates(NEW), self.rates(BASE))


def _section(
    request: AbRequest,
    commits: dict[str, str],
    pairs: Pairs,
    comparison: Comparison,
) -> Section:
    new, base = pairs.rates(NEW), pairs.rates(BASE)
    ratios = tuple(a / b for a, b in zip(new, base, strict=True))
    unit = "images/CPU s" if pairs.by_cpu else "images/s"
    notes = [str(comparison)]
    if pairs.by_cpu:
        notes.append(
            f"by processor time, as others kept {pairs.others:.1f} cores working meanwhile: what a "
            "side waits for does not show"
        )
    return Section(
        name="ab",
        title=(
            f"ab, {request.what}: {request.new} ({commits[NEW]}) against {request.base} "
            f"({commits[BASE]}), {len(ratios)} pairs of blocks of {request.block_s:g} s"
        ),
        results=(
            Result(name=BASE, repeats=base, unit=unit),
            Result(name=NEW, repeats=new, unit=unit),
            Result(name="new / base", repeats=ratios, unit="x", measured=False),
        ),
        settings={
            **request.settings,
            "what": request.what,
            "commits": commits,
            "by_cpu": pairs.by_cpu,
            "verdict": comparison.verdict,
            "ratio": comparison.ratio,
            "interval": [comparison.low, comparison.high],
        },
        notes=tuple(notes),
    )


def commit_of(ref: str, repository: Path = CODE_ROOT) -> str:
    """Short hash of a commit, branch or tag.

    Raises:
        UserError: No git, no repository, or no such commit.
    """
    command = [_git(repository), "-C", str(repository), "rev-parse", "--short=12", "--verify"]
    done = subprocess.run(
        [*command, "--quiet", f"{ref}^{{commit}}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"no commit, branch or tag {ref!r} in {repository}")
    return done.stdout.strip()


def _git(repository: Path) -> str:
    git = shutil.which("git")
    if git is None or not (repository / ".git").exists():
        raise UserError(f"bench ab compares commits, and {repository} is no git repository")
    return git


class _Side(PeerProcess):
    """The process of one commit."""

    def __init__(self, name: str, code: Path, log: Path) -> None:
        script = str(Path(ab_side.__file__))
        super().__init__([sys.executable, "-I", script, str(code)], log)
        self._name, self._code = name, code
        self._spent_s = 0.0

    def begin_to_open(self, what: str, settings: dict[str, Any]) -> None:
        """Import the commit's packages and open what is measured; both sides at once."""
        self.tell({"do": "open", "what": what, "settings": settings})

    def await_open(self) -> None:
        """Wait until it stands ready."""
        answer = self._heard(OPEN_S)
        if Path(answer["code"]).resolve() != self._code.resolve():
            raise JobError(f"{self._name} imported {answer['code']} instead of {self._code}")

    def block(self, epoch: int, min_s: float) -> Block:
        """What a block of so many seconds brings."""
        start, busy = time.monotonic(), LoadMeter.busy_s()
        self.tell({"do": "block", "epoch": epoch, "min_s": min_s})
        answer = self._heard(min_s + BLOCK_EXTRA_S)
        asked_s, busy_after = time.monotonic() - start, LoadMeter.busy_s()
        spent_s = answer["cpu_total_s"] - self._spent_s
        self._spent_s = answer["cpu_total_s"]
        known = busy is not None and busy_after is not None
        return Block(
            images=float(answer["images"]),
            seconds=float(answer["seconds"]),
            cpu_s=float(answer["cpu_s"]),
            others_s=busy_after - busy - spent_s if known else 0.0,  # type: ignore[operator]
            asked_s=asked_s,
        )

    def _heard(self, timeout_s: float) -> dict[str, Any]:
        try:
            return self.hear(timeout_s)
        except JobError as error:
            raise JobError(f"{self._name}: {error.message}") from None
