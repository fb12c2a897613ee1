"""Several processes train as one does: same batches, same gradients, same scores."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shards.errors import UserError
from train.checkpoints.checkpoint import LAST, load_checkpoint, load_content
from train.config import distributed
from train.runs import restore
from train.runs.log import LOG, SUMMARY

END_S = 30


@pytest.mark.parametrize(
    ("images", "processes", "shares"),
    [(16, 2, [8, 8]), (5, 2, [2, 3]), (1, 2, [0, 1]), (7, 3, [2, 2, 3]), (4, 1, [4])],
)
def test_a_global_batch_is_shared_as_the_plan_shares_it(
    monkeypatch: pytest.MonkeyPatch, images: int, processes: int, shares: list[int]
) -> None:
    monkeypatch.setattr(distributed, "size", lambda: processes)
    assert distributed.share_sizes(images) == shares
    assert distributed.largest_share(images) == max(shares)


def test_each_rank_draws_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    for rank in range(4):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        seeds += [distributed.own_seed(1), distributed.own_seed(1, 36), distributed.own_seed(2)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= each < 2**63 for each in seeds)


def test_each_rank_gets_its_own_random_numbers_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        states, drawn = [], []
        for seed in (1, 2):
            torch.manual_seed(seed)
            states.append(torch.get_rng_state())
            drawn.append(torch.rand(3))
        rows = torch.stack(states)
        monkeypatch.setattr(restore, "size", lambda: 2)
        for rank in (0, 1):
            monkeypatch.setattr(restore, "rank", lambda rank=rank: rank)
            own = restore._own(rows)
            assert own.storage_offset() == 0  # else the next line ends the process
            torch.set_rng_state(own)
            assert torch.equal(torch.rand(3), drawn[rank])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


Ranks = list[tuple[int, Path]]
StartRanks = Callable[..., Ranks]


@pytest.fixture
def start_ranks(trainer: Any) -> StartRanks:
    """``start_ranks(2, "--epochs", 1, ...)``: as many processes as torchrun would start."""

    def start(count: int, *args: object, float64: bool = True) -> Ranks:
        shared = {
            "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": free_port(),
        }  # fmt: skip
        return [
            trainer.start(
                [*args],
                env={
                    name: str(value)
                    for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()
                }
                if count > 1
                else {},
                float64=float64,
            )
            for rank in range(count)
        ]

    return start


@pytest.fixture
def train_ranks(trainer: Any, start_ranks: StartRanks) -> Callable[..., None]:
    """The same, waited for; all of them have to end well."""

    def run(count: int, *args: object, **options: Any) -> None:
        ranks = start_ranks(count, *args, **options)
        codes = [trainer.wait(pid) for pid, _ in ranks]
        said = [out.read_text() for _, out in ranks]
        assert codes == [0] * count, said
        assert said[1:] == [""] * (count - 1)

    return run


def options(shards: Path, out: Path, **given: object) -> list[object]:
    """Options of a run of the network whose images have no say in each other."""
    fields = {
        "arch": "plain", "image-size": 32, "batch-size": 16, "epochs": 1, "device": "cpu",
        "precision": "fp32", "threads": 1, "shards": shards, "out": out,
    } | {name.replace("_", "-"): value for name, value in given.items()}  # fmt: skip
    if "samples" in given or "budget" in given:
        del fields["epochs"]
    return [part for name, value in fields.items() for part in (f"--{name}", value)]


def largest_difference(ours: Path, theirs: Path, weights: str = "model") -> float:
    """Between the parameters of two runs at their ends."""
    first, second = (load_content(each / LAST)[weights] for each in (ours, theirs))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "images"),
    [
        pytest.param(2, 80, id="two by eight, five steps"),
        pytest.param(2, 37, id="a last batch of two and three"),
        pytest.param(2, 33, id="a last batch of one, none for the first"),
        pytest.param(3, 37, id="three ranks, shares of five and six"),
    ],
)
def test_ranks_train_and_score_as_one_process_does(
    tmp_path: Path, tiny_shards: Path, train_ranks: Any, metrics_of: Any, ranks: int, images: int
) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    train_ranks(1, *options(tiny_shards, one, epoch_size=images))
    train_ranks(ranks, *options(tiny_shards, many, epoch_size=images))
    assert largest_difference(one, many) < 1e-6
    (ours,), (theirs,) = metrics_of(many), metrics_of(one)
    for name in ("train/loss", "val/loss", "val/miou", "val/mf1", "val/oa", "samples_seen"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6)  # val computes in float32
    summaries = [json.loads((each / SUMMARY).read_text()) for each in (one, many)]
    assert summaries[0]["test"] == summaries[1]["test"]
    assert summaries[0]["test_images"] == summaries[1]["test_images"] == 6


EVERYTHING: dict[str, object] = {
    "samples": 100, "eval_every": 0.5, "start_size": 16, "ema": 0.8, "micro_batch": 4,
    "clip_norm": 1.0, "schedule": "cosine", "warmup": 0.2, "label_smoothing": 0.1,
    "mixup_prob": 0.4, "cutmix_prob": 0.4,
}  # fmt: skip
"""Every part of a step that depends on how far a run is, or on which images a rank has."""


@pytest.mark.slow
def test_ranks_agree_with_one_process_on_the_average_the_sizes_and_the_end_of_a_run(
    tmp_path: Path, tiny_shards: Path, train_ranks: Any, metrics_of: Any
) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    train_ranks(1, *options(tiny_shards, one, **EVERYTHING))
    train_ranks(2, *options(tiny_shards, many, **EVERYTHING))
    assert largest_difference(one, many) < 1e-6
    assert largest_difference(one, many, "stepped") < 1e-6
    ours, theirs = metrics_of(many), metrics_of(one)
    assert [each["epoch"] for each in ours] == [each["epoch"] for each in theirs]
    # Eight steps, the first four of 16 px; evaluated after 2, 3, 4, 6 and 8.
    assert [each["train/image_size"] for each in ours] == [16, 16, 16, 32, 32]
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("train/loss", "train/lr", "val/loss", "val/miou", "samples_seen"):
            assert mine[name] == pytest.approx(other[name], rel=1e-6)
    summaries = [json.loads((each / SUMMARY).read_text()) for each in (one, many)]
    assert summaries[0]["test"] == summaries[1]["test"]


@pytest.mark.slow
def test_ranks_keep_a_budget_together_with_the_schedule_at_its_end(
    tmp_path: Path, tiny_shards: Path, train_ranks: Any
) -> None:
    train_ranks(1, "--list-recipes")  # importing torch is over, as it is where a budget begins
    folder, start = tmp_path / "run", time.monotonic()
    given: dict[str, object] = {
        "budget": "60s", "eval_every": 60, "start_size": 16, "ema": 0.9, "schedule": "linear",
        "min_lr": 0,
    }  # fmt: skip
    train_ranks(2, *options(tiny_shards, folder, **given))
    assert 54 <= time.monotonic() - start <= 60
    summary = json.loads((folder / SUMMARY).read_text())
    assert summary["epochs"] > 1
    assert summary["test_images"] == 6
    last = load_checkpoint(folder / LAST)
    assert last.world_size == 2
    assert last.progress.image_size == 32
    assert last.progress.lr < 0.05e-3


@pytest.mark.slow
def test_only_the_first_rank_writes(tmp_path: Path, tiny_shards: Path, train_ranks: Any) -> None:
    train_ranks(2, *options(tiny_shards, tmp_path / "run", epochs=2))
    lines = (tmp_path / "run" / LOG).read_text().splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 2
    assert "batch 16 over 2 processes" in lines[0]
    assert len(list((tmp_path / "run").glob("events.out.tfevents*"))) == 1


@pytest.mark.slow
def test_ranks_that_were_stopped_go_on_to_the_last_bit(
    tmp_path: Path, tiny_shards: Path, train_ranks: Any, start_ranks: StartRanks, trainer: Any,
    outcome_of: Any,
) -> None:  # fmt: skip
    given: dict[str, object] = {
        "arch": "restless", "batch_size": 4, "epochs": 12, "ema": 0.9, "start_size": 16
    }  # fmt: skip
    train_ranks(2, *options(tiny_shards, tmp_path / "unbroken", **given))
    folder = tmp_path / "run"
    ranks = start_ranks(2, *options(tiny_shards, folder, **given))
    trainer.wait_for(folder / LOG, "epoch   2/12")
    os.kill(ranks[1][0], signal.SIGTERM)  # one that hears it is enough
    assert [trainer.wait(pid) for pid, _ in ranks] == [143, 143]
    assert f'go on with: python -m train --resume "{folder}"' in ranks[0][1].read_text()
    assert load_checkpoint(folder / LAST).world_size == 2
    train_ranks(2, "--resume", folder)
    assert outcome_of(folder) == outcome_of(tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_another_number_of_ranks_goes_on_with_the_same_batches(
    tmp_path: Path, tiny_shards: Path, train_ranks: Any, start_ranks: StartRanks, trainer: Any,
    before: int, after: int,
) -> None:  # fmt: skip
    given: dict[str, object] = {"batch_size": 4, "epochs": 12, "ema": 0.9, "start_size": 16}
    train_ranks(1, *options(tiny_shards, tmp_path / "unbroken", **given))
    folder = tmp_path / "run"
    ranks = start_ranks(before, *options(tiny_shards, folder, **given))
    trainer.wait_for(folder / LOG, "epoch   2/12")
    os.kill(ranks[0][0], signal.SIGTERM)
    assert [trainer.wait(pid) for pid, _ in ranks] == [143] * before
    train_ranks(after, "--resume", folder)
    assert f"note: {after} processes now, were {before}: the same" in (folder / LOG).read_text()
    for weights in ("model", "stepped"):
        assert largest_difference(folder, tmp_path / "unbroken", weights) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("dying", [1, 0])
def test_a_rank_that_dies_ends_the_others_with_a_clear_line(
    tmp_path: Path, tiny_shards: Path, start_ranks: StartRanks, trainer: Any, dying: int
) -> None:
    folder, other = tmp_path / "run", 1 - dying
    ranks = start_ranks(2, *options(tiny_shards, folder, epochs=500))
    trainer.wait_for(folder / LOG, "epoch   3/500")
    os.kill(ranks[dying][0], signal.SIGKILL)
    start = time.monotonic()
    assert trainer.wait(ranks[other][0]) == 1
    assert time.monotonic() - start < END_S
    assert ranks[other][1].read_text().splitlines()[-1] == (
        f"error: rank {other}: another process of the run ended, so this one ends, too; see what that one "
        "said, then go on from the last checkpoint with --resume"
    )
    assert load_checkpoint(folder / LAST).progress.epoch >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"batch_size": 1},
            "--batch-size 1 is over all processes, and there are 2: each needs an ",
        ),
        ({"device": "cuda:1"}, "--device cuda:1 is for one process, and torchrun started 2; use "),
        ({"arch": "pooled", "batch_size": 2}, "holds one image, on which pooled cannot train"),
    ],
)
def test_what_ranks_cannot_do_is_refused_by_each_in_one_line(
    tmp_path: Path, tiny_shards: Path, start_ranks: StartRanks, trainer: Any,
    given: dict[str, object], message: str,
) -> None:  # fmt: skip
    ranks = start_ranks(2, *options(tiny_shards, tmp_path / "run", **given))
    assert [trainer.wait(pid) for pid, _ in ranks] == [2, 2]
    for rank, (_, out) in enumerate(ranks):
        (line,) = out.read_text().splitlines()
        assert line.startswith("error: rank 1: " if rank else "error: ")
        assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_torchrun_starts_a_run(
    tmp_path: Path, tiny_shards: Path, command_environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "train",
            *map(str, options(tiny_shards, tmp_path / "run", arch="shufflenet_v2_x0_5")),
        ],
        env=command_environment, cwd=tmp_path, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   1/1") == 1
    assert (tmp_path / "run" / SUMMARY).exists()


def test_a_head_is_not_fitted_by_several_processes(
    monkeypatch: pytest.MonkeyPatch, make_config: Any
) -> None:
    config = make_config(head="fitted", weights="imagenet")
    distributed.check_processes(config)
    monkeypatch.setattr(distributed, "size", lambda: 2)
    with pytest.raises(UserError, match=r"^--head fitted fits the last layer in one process, and "):
        distributed.check_processes(config)


def test_batch_normalisation_over_all_processes_shares_weights_and_statistics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda model, **_: model)
    for sync, kind in ((False, nn.BatchNorm2d), (True, nn.SyncBatchNorm)):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        before = dict(model.state_dict(keep_vars=True))
        made = distributed.parallel(model, sync_batchnorm=sync)
        after = made.state_dict(keep_vars=True)
        assert type(made[1]) is kind  # type: ignore[index]
        assert list(after) == list(before)
        assert all(after[name] is each for name, each in before.items())


def test_batch_normalisation_over_all_processes_is_for_gpus(
    monkeypatch: pytest.MonkeyPatch, make_config: Any
) -> None:
    config = make_config(sync_batchnorm=True)
    distributed.check_processes(config)  # of one process it changes nothing
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^--sync-batchnorm works on CUDA devices alone "):
        distributed.check_processes(config)


def test_one_process_needs_no_group() -> None:
    assert (distributed.rank(), distributed.size(), distributed.is_first()) == (0, 1, True)
    value = torch.tensor([1.0])
    assert distributed.total(value) is value
    assert distributed.of_each(value) is value
    assert distributed.agree(7) == 7
    assert distributed.from_first(lambda: "made") == "made"
