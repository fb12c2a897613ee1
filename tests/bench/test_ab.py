"""Two commits are told apart where they differ by a tenth, and not where they are the same."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from bench.ab import MOST_PAIRS, PAIRS, AbRequest, measure_ab, worktree
from bench.paired import FASTER, SLOWER, UNDECIDED, Comparison, compare_pairs
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
