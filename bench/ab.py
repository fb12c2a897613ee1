"""Two commits of the project against each other: two worktrees, two processes, blocks in turn.

While one side is measured the other stands still, stopped by a signal. Pairs change their order from
one to the next, so that neither side is always the first.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import ab_side
from bench.paired import Comparison, compare_pairs
from bench.peers.process import PeerProcess
from bench.result import Result, Section
from shards.errors import JobError, UserError
from shards.progress import Progress
from shards.settings import CODE_ROOT

OPEN_S, BLOCK_EXTRA_S = 120.0, 60.0
"""How long opening may take, and a block beyond its own length."""
BASE, NEW = "base", "new"
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


def measure_ab(request: AbRequest, repository: Path = CODE_ROOT) -> tuple[Section, Comparison]:
    """Pairs of blocks of both commits, and which one is faster if that can be told.

    Raises:
        UserError: There is no such commit.
        JobError: A side does not run; the message names it.
    """
    rates: dict[str, list[float]] = {BASE: [], NEW: []}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hyphae-bench-ab-")))
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
        progress = stack.enter_context(Progress("ab", request.most_pairs, "pairs at most"))
        for pair in range(request.most_pairs + 1):  # the first is a warm-up
            for side in (BASE, NEW) if pair % 2 else (NEW, BASE):
                rate = sides[side].block(pair, request.block_s)
                if pair > 0:
                    rates[side].append(rate)
            progress.update(1)
            # When to stop depends on how sure the ratio is, never on the ratio itself.
            if pair >= request.pairs and pair % CHECK_EVERY == 0:
                if compare_pairs(rates[NEW], rates[BASE]).is_narrow:
                    break
    comparison = compare_pairs(rates[NEW], rates[BASE])
    return _section(request, commits, rates, comparison), comparison


def _section(
    request: AbRequest,
    commits: dict[str, str],
    rates: dict[str, list[float]],
    comparison: Comparison,
) -> Section:
    ratios = tuple(a / b for a, b in zip(rates[NEW], rates[BASE], strict=True))
    return Section(
        name="ab",
        title=(
            f"ab, {request.what}: {request.new} ({commits[NEW]}) against {request.base} "
            f"({commits[BASE]}), {len(ratios)} pairs of blocks of {request.block_s:g} s"
        ),
        results=(
            Result(name=BASE, repeats=tuple(rates[BASE])),
            Result(name=NEW, repeats=tuple(rates[NEW])),
            Result(name="new / base", repeats=ratios, unit="x", measured=False),
        ),
        settings={
            **request.settings,
            "what": request.what,
            "commits": commits,
            "verdict": comparison.verdict,
            "ratio": comparison.ratio,
            "interval": [comparison.low, comparison.high],
        },
        notes=(f"{comparison}",),
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

    def begin_to_open(self, what: str, settings: dict[str, Any]) -> None:
        """Import the commit's packages and open what is measured; both sides at once."""
        self.tell({"do": "open", "what": what, "settings": settings})

    def await_open(self) -> None:
        """Wait until it stands ready."""
        answer = self._heard(OPEN_S)
        if Path(answer["code"]).resolve() != self._code.resolve():
            raise JobError(f"{self._name} imported {answer['code']} instead of {self._code}")

    def block(self, epoch: int, min_s: float) -> float:
        """Images a second of a block."""
        self.tell({"do": "block", "epoch": epoch, "min_s": min_s})
        answer = self._heard(min_s + BLOCK_EXTRA_S)
        return float(answer["images"]) / float(answer["seconds"])

    def _heard(self, timeout_s: float) -> dict[str, Any]:
        try:
            return self.hear(timeout_s)
        except JobError as error:
            raise JobError(f"{self._name}: {error.message}") from None
