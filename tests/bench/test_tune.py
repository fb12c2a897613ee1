"""``bench tune`` changes a default where something is faster beyond doubt, and ``auto`` follows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bench.__main__ import cli
from bench.timing import Subject
from bench.tune import OUT_OF_MEMORY, Choice, micro_batches, settle, thread_counts
from train.config.config import TrainConfig
from train.config.resolve import resolve
from train.config.tuned import Tuned, machine_of, profile_file, read_profile, write_profile

CPU = torch.device("cpu")
CONFIG = TrainConfig(arch="resnet18", image_size=224, batch_size=128, device="cpu")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for profiles; torch's threads are afterwards what they were."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    threads = torch.get_num_threads()
    yield tmp_path / "config" / "hyphae"
    torch.set_num_threads(threads)


def choice(speeds: dict[Any, float], noise: float = 0.02) -> Choice:
    """The first is the default; a speed of 0 does not fit the memory."""
    rng = np.random.default_rng(3)

    def subject(value: Any, _stack: ExitStack) -> Subject:
        def block(_repeat: int) -> float:
            return speeds[value] * float(np.exp(rng.normal(0, noise)))

        return Subject(f"threads {value}", block)

    default, *others = speeds
    return Choice(
        name="threads", default=default, others=tuple(others), subject=subject, seconds=float
    )


@pytest.fixture
def tuned() -> Tuned:
    return Tuned(
        machine=machine_of(CPU),
        date="2026-11-25",
        arch="resnet18",
        image_size=224,
        batch_size=128,
        threads=3,
        prefetch=6,
        micro_batch=32,
    )


def test_what_is_faster_beyond_doubt_takes_the_place_of_the_default() -> None:
    found = settle(choice({2: 100.0, 1: 60.0, 3: 108.0, 4: 112.0}), 1.0)
    assert found.value == 4
    assert found.sentence.startswith("threads is 4 now, faster: 1.1")
    assert next(each.name for each in found.results) == "threads 2 (default)"
    assert found.results[1].note.startswith("slower: 0.6")


def test_a_gain_within_the_noise_changes_nothing() -> None:
    found = settle(choice({2: 100.0, 1: 101.0, 3: 99.0}), 1.0)
    assert (found.value, found.sentence) == (
        2,
        "threads stays 2: nothing is faster beyond doubt",
    )


def test_few_turns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.tune.MOST_TURNS", 4)
    found = settle(choice({2: 100.0, 3: 200.0}), 1.0)
    assert found.value is None
    assert "left alone: 4 turns in the time say too little; give more --minutes" in found.sentence


def test_a_default_beyond_the_memory_gives_way_to_the_fastest_that_fits() -> None:
    found = settle(choice({128: OUT_OF_MEMORY, 64: OUT_OF_MEMORY, 32: 90.0, 16: 80.0}), 1.0)
    assert found.value == 32
    assert found.sentence == "threads is 32 now: 128 does not fit the memory"
    assert [each.note for each in found.results[:2]] == ["not measured: out of memory"] * 2
    nothing = settle(choice({128: OUT_OF_MEMORY, 64: OUT_OF_MEMORY}), 1.0)
    assert nothing.value is None


@pytest.mark.parametrize(
    ("cores", "tried"), [(1, (2,)), (2, (1, 3)), (4, (2, 3, 6)), (64, (32, 48, 96))]
)
def test_the_threads_tried_are_fewer_and_more_than_the_cores(
    cores: int, tried: tuple[int, ...]
) -> None:
    assert thread_counts(cores) == tried


def test_micro_batches_are_halves_of_the_batch() -> None:
    assert micro_batches(128) == (64, 32, 16, 8)
    assert micro_batches(8) == (4,)
    assert micro_batches(6) == ()


def test_auto_follows_the_profile_and_says_so(tuned: Tuned) -> None:
    write_profile(tuned)
    resolved = resolve(CONFIG)
    assert (resolved.threads, resolved.prefetch, resolved.micro_batch) == (3, 6, 32)
    for said in ("threads 3", "prefetch 6", "micro_batch 32"):
        assert f"{said} (tuned on 2026-11-25)" in str(resolved)
    assert torch.get_num_threads() == 3


def test_what_is_asked_for_is_stronger_than_the_profile(tuned: Tuned) -> None:
    write_profile(tuned)
    resolved = resolve(replace(CONFIG, threads=1, prefetch=2, micro_batch=64))
    assert (resolved.threads, resolved.prefetch, resolved.micro_batch) == (1, 2, 64)
    assert resolved.reasons["threads"] == resolved.reasons["prefetch"] == "asked for"


@pytest.mark.parametrize("field", ["arch", "image_size", "batch_size"])
def test_a_micro_batch_is_of_what_it_was_measured_with_alone(tuned: Tuned, field: str) -> None:
    write_profile(replace(tuned, **{field: "resnet50" if field == "arch" else 96}))
    resolved = resolve(CONFIG)
    assert (resolved.threads, resolved.micro_batch) == (3, None)
    assert resolved.reasons["micro_batch"] == "the batch"


def test_without_a_profile_nothing_changes() -> None:
    resolved = resolve(CONFIG)
    assert resolved.prefetch == 3
    assert "cores allowed" in resolved.reasons["threads"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged (profile is of type list, expected a dictionary)"),
        ('{"threads": "many"}', "is damaged"),
        ("\udcff", "is damaged"),
    ],
)
def test_a_damaged_profile_is_named_and_the_defaults_hold(text: str, why: str) -> None:
    file = profile_file(machine_of(CPU))
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    resolved = resolve(CONFIG)
    assert resolved.prefetch == 3
    assert f"the profile {file} {why}" in resolved.reasons["threads"]
    assert "`bench tune` writes it anew" in resolved.reasons["threads"]


def test_values_out_of_bounds_are_damage(tuned: Tuned) -> None:
    file = write_profile(tuned)
    file.write_text(file.read_text().replace('"threads": 3', '"threads": 0'))
    found, problem = read_profile(CPU)
    assert found is None
    assert problem is not None
    assert "threads must be from 1 to 512, got 0" in problem


def test_a_profile_of_another_machine_is_not_used(tuned: Tuned) -> None:
    elsewhere = replace(tuned, machine={**tuned.machine, "cores": 4096})
    assert write_profile(elsewhere) != profile_file(tuned.machine)
    assert read_profile(CPU) == (None, None)
    profile_file(elsewhere.machine).rename(profile_file(tuned.machine))  # copied by hand
    assert "it is of another machine" in str(read_profile(CPU)[1])


def test_a_profile_survives_its_file(tuned: Tuned) -> None:
    write_profile(tuned)
    assert read_profile(CPU) == (tuned, None)


def invoke(*args: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["tune", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_the_command_searches_writes_the_profile_and_forgets_it(
    tiny_shards: Path, home: Path
) -> None:
    code, output = invoke(
        "--shards", tiny_shards, "--arch", "squeezenet1_1", "--image-size", 32, "--batch-size", 8,
        "--minutes", 0.02, "--device", "cpu",
    )  # fmt: skip
    assert code == 0, output
    assert "needs a GPU" in output
    (file,) = home.glob("*.json")
    content = json.loads(file.read_text())
    assert (content["arch"], content["image_size"], content["batch_size"]) == (
        "squeezenet1_1", 32, 8,
    )  # fmt: skip
    assert content["machine"] == machine_of(CPU)
    code, output = invoke("--forget", "--device", "cpu")
    assert (code, output) == (0, f"removed: {file}\n")
    code, output = invoke("--forget", "--device", "cpu")
    assert (code, output) == (0, "there is no profile of this machine\n")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    code, output = invoke("--arch", "resnet5")
    assert code == 2
    assert "did you mean 'resnet50'?" in output
    code, output = invoke("--minutes", "0")
    assert code == 2
    assert "0.0 is not in the range" in output or "0 is not in the range" in output
