"""Two commits are told apart where they differ by a tenth, and not where they are the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.ab import (
    BASE,
    MOST_PAIRS,
    PAIRS,
    WORK,
    AbRequest,
    Block,
    Pairs,
    measure_ab,
    remove_orphans,
    worktree,
)  # fmt: skip
from bench.ab_proof import failures, prove_ab
from bench.ab_side import slowed_down
from bench.compare_commands import ab
from bench.paired import FASTER, SLOWER, UNDECIDED, Comparison, compare_pairs
from bench.result import Report, Result, Section
from shards.errors import JobError, UserError

REPO = Path(__file__).resolve().parents[2]
IN_A_REPOSITORY = pytest.mark.skipif(
    shutil.which("git") is None or not (REPO / ".git").exists(), reason="not a git repository"
)
SLOWED = """
_decode_fast = RegionDecoder._decode


def _decode_slow(self, *args):
    start = time.perf_counter()
    image = _decode_fast(self, *args)
    stop = time.perf_counter() + 0.25 * (time.perf_counter() - start)
    while time.perf_counter() < stop:
        pass
    return image


RegionDecoder._decode = _decode_slow
"""


def pairs(seed: int, ratio: float) -> Iterator[tuple[float, float]]:
    """Rates on a machine that drifts, jitters by a tenth and now and then stalls."""
    rng = np.random.default_rng(seed)
    level = 1000.0
    while True:
        level *= float(np.exp(rng.normal(0, 0.1)))
        new, base = (level * np.exp(rng.normal(0, 0.1)) for _ in range(2))
        new, base = (each * (0.4 if rng.random() < 0.05 else 1) for each in (new, base))
        yield ratio * new, base


def judge(seed: int, ratio: float) -> Comparison:
    """As ``bench ab`` goes about it."""
    new: list[float] = []
    base: list[float] = []
    for one, other in pairs(seed, ratio):
        new.append(one)
        base.append(other)
        if len(new) >= PAIRS and len(new) % 10 == 0:
            found = compare_pairs(new, base)
            if found.is_narrow or len(new) >= MOST_PAIRS:
                return found
    raise AssertionError


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.0, UNDECIDED), (0.9, SLOWER), (1.1, FASTER), (1.01, UNDECIDED)]
)
def test_eighteen_of_twenty_comparisons_are_right(
    ratio: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.paired.DRAWS", 1000)  # for speed; the interval is hardly coarser
    found = [judge(seed, ratio).verdict for seed in range(20)]
    assert found.count(verdict) >= 18


def test_a_comparison_the_other_way_round_is_its_inverse() -> None:
    new, base = zip(*islice(pairs(0, 0.9), PAIRS), strict=True)
    one, other = compare_pairs(new, base), compare_pairs(base, new)
    assert one.ratio == pytest.approx(1 / other.ratio)
    assert one.low == pytest.approx(1 / other.high, rel=0.01)


def test_the_verdict_is_printed_with_ratio_and_interval() -> None:
    text = str(compare_pairs([90.0] * 9, [100.0] * 9))
    assert text == "slower: 0.900x (0.900..0.900)"


@IN_A_REPOSITORY
def test_a_commit_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"no worktree of 'no-such-commit': invalid reference"),
        worktree("no-such-commit", tmp_path / "code"),
    ):
        pass


@IN_A_REPOSITORY
def test_what_a_killed_call_left_is_put_away_but_not_what_another_call_works_in(
    tmp_path: Path,
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    repository, works = tmp_path / "repository", {}
    subprocess.run(["git", "clone", "-q", "--no-checkout", REPO, repository], check=True)
    for number in (ended.pid, os.getpid()):
        works[number] = tmp_path / f"{WORK}{number}-x"
        works[number].mkdir()
        subprocess.run(
            ["git", "-C", repository, "worktree", "add", "-q", "--detach", "--no-checkout",
             works[number] / BASE, "HEAD"],
            check=True,
        )  # fmt: skip
    remove_orphans(repository)
    assert [works[ended.pid].exists(), works[os.getpid()].exists()] == [False, True]
    listed = subprocess.check_output(["git", "-C", repository, "worktree", "list"], text=True)
    assert str(works[ended.pid]) not in listed
    assert str(works[os.getpid()]) in listed


def test_the_proof_takes_no_second_commit() -> None:
    done = CliRunner().invoke(ab, ["HEAD", "--proof", "--to", "HEAD~1"], standalone_mode=False)
    assert isinstance(done.exception, UserError)
    assert done.exception.format_message() == (
        "--proof compares BASE with itself; leave out --to HEAD~1"
    )


def test_a_folder_without_git_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="is no git repository"),
        worktree("HEAD", tmp_path / "code", tmp_path),
    ):
        pass


@pytest.fixture
def slowed(tmp_path: Path) -> Path:
    """A clone of the repository whose last commit decodes slower by a quarter."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--shared", str(REPO), str(clone)], check=True)
    file = clone / "loaders" / "decode.py"
    file.write_text(
        file.read_text().replace("import simplejpeg", "import simplejpeg, time") + SLOWED
    )
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", clone, *name, "commit", "--quiet", "-am", "slower"], check=True)
    return clone


def ask(shards: Path, base: str, new: str) -> AbRequest:
    settings = {
        "shards": str(shards), "image_size": 64, "batch_size": 8, "threads": 1, "resample": "linear"
    }  # fmt: skip
    return AbRequest(base=base, new=new, what="loader", settings=settings, pairs=PAIRS, block_s=0.1)


@IN_A_REPOSITORY
@pytest.mark.slow
def test_a_slower_commit_is_found_and_the_same_commit_is_not(
    slowed: Path, tiny_shards: Path
) -> None:
    section, comparison = measure_ab(ask(tiny_shards, "HEAD~1", "HEAD"), slowed)
    assert comparison.verdict == SLOWER, comparison
    assert section.settings["verdict"] == SLOWER
    assert len(section.results[0].repeats) >= PAIRS
    _, comparison = measure_ab(ask(tiny_shards, "HEAD~1", "HEAD~1"), slowed)
    assert comparison.verdict == UNDECIDED, comparison
    left = subprocess.run(
        ["git", "-C", slowed, "worktree", "list"], capture_output=True, text=True, check=True
    )
    assert len(left.stdout.splitlines()) == 1


@IN_A_REPOSITORY
@pytest.mark.slow
def test_a_side_that_does_not_run_is_named(slowed: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"base \(HEAD~1\): .*no shard folder"):
        measure_ab(ask(tmp_path / "none", "HEAD~1", "HEAD"), slowed)


def test_a_slowed_loader_loses_a_tenth_of_its_threads_time() -> None:
    spent: list[float] = []

    class Work:
        def fill(self, first: int, last: int) -> None:
            stop = time.thread_time() + 0.02
            while time.thread_time() < stop:
                pass

    slowed = slowed_down(Work.fill, 0.1)
    for fill in (Work.fill, slowed):
        start = time.thread_time()
        for at in range(5):
            fill(Work(), at, at + 1)
        spent.append(time.thread_time() - start)
    assert spent[0] / spent[1] == pytest.approx(0.9, abs=0.02)


class Judge:
    """In place of real comparisons: remembers what it was asked, and errs now and then."""

    def __init__(self, wrong: int = 0) -> None:
        self.asked: list[AbRequest] = []
        self.wrong = wrong

    def __call__(self, request: AbRequest) -> tuple[Section, Comparison]:
        self.asked.append(request)
        slow = bool(request.slowed) != (len(self.asked) <= self.wrong)
        ratio = 0.9 if slow else 1.0
        base = Result(name="base", repeats=(1.0,) * 40)
        settings = {"by_cpu": False}
        measured = Section(name="ab", title="", results=(base,), settings=settings)
        return measured, Comparison(ratio, ratio - 0.01, ratio + 0.01)


def known(base: str = "abc") -> AbRequest:
    return AbRequest(base=base, new=base, what="loader", settings={"shards": "set"})


def test_the_proof_asks_what_is_known_and_counts_the_right_verdicts() -> None:
    judge = Judge()
    section = prove_ab(known(), 20, lambda _: None, measure=judge)
    assert [each.slowed for each in judge.asked] == [0.0, 0.1] * 20
    assert all(each.base == each.new for each in judge.asked)
    same, slowed = section.results
    assert same.note == "undecided in 20 of 20 trials"
    assert slowed.note == "slower in 20 of 20 trials"
    assert slowed.repeats == (0.9,) * 20
    assert failures(section) == []


@pytest.mark.parametrize(("wrong", "failed"), [(4, []), (6, ["undecided in 17", "slower in 17"])])
def test_more_than_two_wrong_of_twenty_fail_the_proof(wrong: int, failed: list[str]) -> None:
    found = failures(prove_ab(known(), 20, lambda _: None, measure=Judge(wrong)))
    assert len(found) == len(failed)
    assert all(part in line for part, line in zip(failed, found, strict=True))


def test_a_proof_that_was_killed_goes_on_and_ends_as_if_it_had_not(tmp_path: Path) -> None:
    kept: list[Section] = []
    whole = prove_ab(known(), 3, kept.append, measure=Judge())
    text = Report(environment={}, sections=(kept[3],)).to_json()  # of six trials, four are kept
    (begun,) = Report.from_json(text).sections
    judge = Judge()
    assert prove_ab(known(), 3, lambda _: None, begun, judge) == whole
    assert len(judge.asked) == 2


def test_trials_of_another_commit_are_not_gone_on_with() -> None:
    begun = prove_ab(known("old"), 1, lambda _: None, measure=Judge())
    with pytest.raises(UserError, match="the trials so far are of something else"):
        prove_ab(known("new"), 1, lambda _: None, begun, Judge())


def test_the_proof_is_of_the_loader_alone() -> None:
    done = CliRunner().invoke(ab, ["HEAD", "--proof", "--what", "step"])
    assert done.exit_code == 2
    assert "--proof is of the loader" in done.output


@IN_A_REPOSITORY
def test_a_base_that_is_no_commit_is_one_line() -> None:
    done = CliRunner().invoke(ab, ["no-such-commit"])
    assert done.exit_code == 2
    assert "no commit, branch or tag 'no-such-commit'" in done.output


@IN_A_REPOSITORY
@pytest.mark.slow
def test_the_proof_runs_with_real_processes(tiny_shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "proof.json"
    args = ["HEAD", "--proof", "--trials", "1", "--shards", str(tiny_shards), "--threads", "1"]
    done = CliRunner().invoke(ab, [*args, "--image-size", "64", "--json", str(file)])
    assert done.exit_code in (0, 1), done.output  # one trial on a busy machine may well be wrong
    (section,) = Report.from_json(file.read_text()).sections
    same, slowed = section.results
    assert 0.85 < slowed.repeats[0] / same.repeats[0] < 0.95
    assert not list(tmp_path.glob("*.part"))


def blocks(wall: float, cpu: float, others_s: float) -> Block:
    return Block(images=100.0, seconds=wall, cpu_s=cpu, others_s=others_s, asked_s=1.0)


def test_on_a_quiet_machine_time_decides() -> None:
    pairs = Pairs()
    for _ in range(PAIRS):
        pairs.add(blocks(1.2, 1.0, 0.0), blocks(1.0, 1.0, 0.0))
    assert not pairs.by_cpu
    assert pairs.compare().verdict == SLOWER
    assert pairs.rates("base") == (100.0,) * PAIRS


def test_on_a_busy_machine_the_sides_own_processor_time_decides() -> None:
    pairs = Pairs()
    rng = np.random.default_rng(0)
    for _ in range(PAIRS):  # robbed of half the time and more, by chance
        new, base = rng.uniform(1.0, 3.0, 2)
        pairs.add(blocks(new, 1.1, 5.0), blocks(base, 1.0, 5.0))
    assert pairs.others == 5.0
    assert pairs.by_cpu
    found = pairs.compare()
    assert found.verdict == SLOWER
    assert found.ratio == pytest.approx(1 / 1.1)
