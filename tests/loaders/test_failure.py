"""Damaged samples, dying workers and sudden ends: one clear error, or the next planned sample."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from loaders import opencv
from loaders.augment import AugmentConfig
from loaders.batch import Batch, Loader
from loaders.config import LoaderConfig
from loaders.factory import create_loader
from shards.errors import JobError, ShardError
from shards.reader import SampleError, ShardSet

SIZE = 64
DALI = pytest.param("dali-cpu", marks=pytest.mark.dali)
SKIPPING = ["opencv", "torchvision", DALI]

Open = Callable[..., Loader]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Fail rather than hang: the alarm interrupts any wait of the main thread."""

    def fail(_signum: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"still waiting after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def open_loader(tiny_shards: Path) -> Iterator[Open]:
    """``open_loader(backend, ...)`` for training, closed at the end of the test."""
    opened: list[Loader] = []

    def make(backend: Any, **options: Any) -> Loader:
        defaults: dict[str, Any] = {
            "shards": tiny_shards, "image_size": SIZE, "batch_size": 10, "threads": 2,
            "augment": AugmentConfig(), "seed": 5,
        }  # fmt: skip
        opened.append(create_loader(LoaderConfig(backend=backend, **defaults | options)))
        return opened[-1]

    yield make
    for loader in opened:
        loader.close()


@dataclass
class Damage:
    """A copy of a shard set to damage."""

    shards: Path

    def flip_bit(self, *samples: int, split: str = "train") -> None:
        """A bit that the crc32 finds; the JPEG still decodes or not."""
        for sample in samples:
            self._write(split, sample, 200, lambda data: bytes([data[0] ^ 1]))

    def spoil(self, *samples: int, split: str = "train") -> None:
        """Zeros in place of the header, which no decoder takes."""
        for sample in samples:
            self._write(split, sample, 0, lambda data: bytes(min(400, len(data))))

    def _write(self, split: str, sample: int, at: int, change: Callable[[bytes], bytes]) -> None:
        opened = ShardSet(self.shards).split(split)
        shard, offset, size = opened.place(sample)
        with (self.shards / f"{split}-{shard:06d}.tar").open("r+b") as file:
            file.seek(offset + at)
            new = change(file.read(size - at))
            file.seek(offset + at)
            file.write(new)


@pytest.fixture
def damage(shards_copy: Path) -> Damage:
    return Damage(shards_copy)


def joined(batches: list[Batch]) -> Batch:
    return Batch(*(torch.cat([getattr(each, name) for each in batches])
                   for name in ("images", "labels", "ids")))  # fmt: skip


def replaced(ids: list[int], bad: set[int]) -> list[int]:
    """An epoch's ids with the next good one, from each position on and around the end."""
    return [next(each for each in ids[at:] + ids[:at] if each not in bad) for at in range(len(ids))]


@contextmanager
def running(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A Python process, which does not outlive the block."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def failing_consumer(loader: Loader) -> None:
    for batch in loader.epoch(0):
        raise ZeroDivisionError(f"with {len(batch)} images in hand")


def threads_of_loaders() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("hyphae")]


@pytest.mark.parametrize("backend", SKIPPING)
class TestSkipping:
    def test_the_next_planned_sample_stands_in_with_its_label_and_id(
        self, backend: str, open_loader: Open, damage: Damage, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = {"shards": damage.shards, "on_bad_sample": "skip", "batch_size": 6}
        whole = joined(list(open_loader(backend, **options).epoch(1)))
        planned = whole.ids.tolist()
        bad = {planned[3], planned[4], planned[-1]}
        damage.flip_bit(*bad)
        loader = open_loader(backend, **options)
        shown = joined(list(loader.epoch(1)))
        assert shown.ids.tolist() == replaced(planned, bad)
        labels = ShardSet(damage.shards).split("train").labels
        assert shown.labels.tolist() == labels[shown.ids.numpy()].tolist()
        same = shown.ids == whole.ids
        assert 0 < same.sum() < len(same)
        assert torch.equal(shown.images[same], whole.images[same])

        assert set(loader.bad_samples) == bad
        assert all("crc32 does not match" in why for why in loader.bad_samples.values())
        list(loader.epoch(2))  # met again, and not told again
        warnings = capsys.readouterr().err.splitlines()
        assert sorted(warnings) == sorted(
            f"warning: skipped: {why}" for why in loader.bad_samples.values()
        )

    def test_ranks_and_resumed_runs_agree_on_what_stands_in(
        self, backend: str, open_loader: Open, damage: Damage
    ) -> None:
        damage.flip_bit(2, 3, 11)
        options = {"shards": damage.shards, "on_bad_sample": "skip"}
        whole = list(open_loader(backend, **options).epoch(0))
        ranks = [
            list(open_loader(backend, rank=rank, world_size=2, **options).epoch(0))
            for rank in (0, 1)
        ]
        resumed = list(open_loader(backend, **options).epoch(0, 2))
        for batch, *shares in zip(whole, *ranks, strict=True):
            assert torch.equal(batch.ids, joined(shares).ids)
            assert torch.equal(batch.images, joined(shares).images)
        for batch, again in zip(whole[2:], resumed, strict=True):
            assert torch.equal(batch.ids, again.ids)
            assert torch.equal(batch.images, again.images)

    def test_an_evaluation_raises_all_the_same(
        self, backend: str, open_loader: Open, damage: Damage
    ) -> None:
        damage.flip_bit(4, split="val")
        loader = open_loader(
            backend, shards=damage.shards, on_bad_sample="skip", split="val", augment=None,
            shuffle=False, sampling="natural", batch_size=4,
        )  # fmt: skip
        epoch = loader.epoch(0)
        assert next(epoch).ids.tolist() == [0, 1, 2, 3]
        with pytest.raises(SampleError, match="crc32 does not match"):
            next(epoch)
        assert not loader.bad_samples

    def test_a_set_without_a_whole_sample_is_an_error(
        self, backend: str, open_loader: Open, damage: Damage
    ) -> None:
        damage.flip_bit(*range(24))
        loader = open_loader(backend, shards=damage.shards, on_bad_sample="skip")
        with time_limit(60), pytest.raises(ShardError, match="no sample of the epoch is whole"):
            list(loader.epoch(0))

    def test_a_missing_shard_is_not_skipped(
        self, backend: str, open_loader: Open, damage: Damage
    ) -> None:
        loader = open_loader(backend, shards=damage.shards, on_bad_sample="skip")
        for shard in damage.shards.glob("train-*.tar"):
            shard.unlink()
        with pytest.raises(ShardError, match="cannot open shard") as caught:
            list(loader.epoch(0))
        assert not isinstance(caught.value, SampleError)


@pytest.mark.parametrize("backend", SKIPPING)
def test_a_sample_that_does_not_decode_stops_training_and_is_named(
    backend: str, open_loader: Open, damage: Damage
) -> None:
    damage.spoil(7)
    source = ShardSet(damage.shards).split("train").metadata(7)["path"]
    loader = open_loader(backend, shards=damage.shards, verify="never")
    with pytest.raises(ShardError, match=r"sample 0+\d+ of .*train-000000.tar") as caught:
        list(loader.epoch(0))
    assert f"(source {source}) does not decode: " in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("backend", ["opencv", "torchvision"])
def test_a_sample_that_does_not_decode_is_skipped(
    backend: str, open_loader: Open, damage: Damage
) -> None:
    options = {"shards": damage.shards, "verify": "never", "on_bad_sample": "skip"}
    planned = joined(list(open_loader("synthetic", **options).epoch(0))).ids.tolist()
    damage.spoil(7)
    loader = open_loader(backend, **options)
    assert joined(list(loader.epoch(0))).ids.tolist() == replaced(planned, {7})
    assert "does not decode" in loader.bad_samples[7]


@pytest.mark.dali
def test_dali_says_that_it_cannot_skip_what_does_not_decode(
    open_loader: Open, damage: Damage
) -> None:
    damage.spoil(7)
    loader = open_loader("dali-cpu", shards=damage.shards, verify="never", on_bad_sample="skip")
    with pytest.raises(ShardError, match=r"does not decode: .*; DALI skips .* --loader opencv"):
        list(loader.epoch(0))


@pytest.mark.dali
def test_a_stand_in_is_augmented_as_its_position_says_on_every_planned_back_end(
    open_loader: Open, damage: Damage
) -> None:
    damage.flip_bit(*range(0, 24, 3))
    ours, dali = (
        joined(list(open_loader(each, shards=damage.shards, on_bad_sample="skip").epoch(0)))
        for each in ("opencv", "dali-cpu")
    )
    assert torch.equal(ours.ids, dali.ids)
    difference = (ours.images.int() - dali.images.int()).abs()
    assert difference.float().mean() < 0.4
    assert difference.max() <= 5


class TestThreads:
    def test_a_failure_in_a_thread_reaches_the_consumer(
        self, open_loader: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loader = open_loader("opencv")
        with monkeypatch.context() as patched:
            patched.setattr(cv2, "transform", lambda *_, **__: np.empty(1 << 55))
            with time_limit(20), pytest.raises(MemoryError):
                list(loader.epoch(0))
        assert len(list(loader.epoch(0))) == 4, "the loader is of use again"

    def test_closing_with_an_epoch_open_makes_it_raise(self, open_loader: Open) -> None:
        loader = open_loader("opencv", batch_size=2)
        epoch = loader.epoch(0)
        kept = next(epoch)
        copy = kept.images.clone()
        with time_limit(20):
            loader.close()
            with pytest.raises(RuntimeError, match="opencv loader was closed"):
                next(epoch)
            with pytest.raises(RuntimeError, match="opencv loader was closed"):
                next(loader.epoch(1))
        assert not threads_of_loaders()
        assert torch.equal(kept.images, copy)

    def test_closing_while_another_thread_waits_for_a_batch_wakes_it(
        self, open_loader: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        may_go_on = threading.Event()
        monkeypatch.setattr(opencv._Work, "fill", lambda *_: may_go_on.wait(20))
        loader = open_loader("opencv", batch_size=2)
        errors: list[BaseException] = []

        def consume() -> None:
            try:
                next(loader.epoch(0))
            except BaseException as error:
                errors.append(error)

        consumer = threading.Thread(target=consume)
        consumer.start()
        time.sleep(0.1)
        closer = threading.Thread(target=loader.close)
        closer.start()
        time.sleep(0.1)
        may_go_on.set()
        for each in (consumer, closer):
            each.join(10)
            assert not each.is_alive()
        assert all("was closed" in str(error) for error in errors)

    def test_a_consumer_that_raises_leaves_nothing_behind(self, open_loader: Open) -> None:
        loader = open_loader("opencv", batch_size=2)
        with time_limit(20):
            with pytest.raises(ZeroDivisionError):
                failing_consumer(loader)
            assert len(list(loader.epoch(1))) == 18
            loader.close()
        assert not threads_of_loaders()

    def test_a_loader_that_nobody_closes_goes_with_its_last_reference(
        self, tiny_shards: Path
    ) -> None:
        gc.collect()
        files = len(os.listdir("/proc/self/fd"))
        config = LoaderConfig(
            shards=tiny_shards, backend="opencv", image_size=SIZE, batch_size=2, threads=2,
            augment=AugmentConfig(),
        )  # fmt: skip
        loader = create_loader(config)
        epoch = loader.epoch(0)
        next(epoch)
        del loader, epoch
        gc.collect()
        deadline = time.monotonic() + 10
        while threads_of_loaders() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not threads_of_loaders()
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= files


CONSUMER = """
import sys, time
from contextlib import closing
from pathlib import Path
from loaders.augment import AugmentConfig
from loaders.config import LoaderConfig
from loaders.factory import create_loader

config = LoaderConfig(
    shards=Path(sys.argv[1]), backend=sys.argv[2], image_size=64, batch_size=2, threads=2,
    augment=AugmentConfig(),
)
loader = create_loader(config)
epoch = 0
while True:
    for batch in loader.epoch(epoch):
        print(len(batch), flush=True)
        if sys.argv[3] == "slow consumer":
            time.sleep(60)
    epoch += 1
"""


@pytest.mark.parametrize("backend", ["opencv", pytest.param("torchvision", marks=pytest.mark.slow)])
@pytest.mark.parametrize("where", ["slow consumer", "waiting for batches"])
def test_ctrl_c_ends_a_process_in_the_middle_of_an_epoch(
    backend: str, where: str, tiny_shards: Path, command_environment: dict[str, str]
) -> None:
    command = ["-c", CONSUMER, str(tiny_shards), backend, where]
    with running(command, command_environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "2\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert "Exception ignored" not in errors


class Interrupt(BaseException):
    """Raised as the handler of a signal does it: between any two instructions of this thread."""


def run_interrupted(work: Callable[[], object], at: int) -> int:
    """Call ``work`` and raise an Interrupt before its instruction ``at``; instructions it got to."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == at:
                raise Interrupt  # which ends the tracing, too
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("backend", ["opencv", "webdataset"])
def test_an_interrupt_anywhere_is_raised_and_leaves_the_loader_usable(
    backend: str, open_loader: Open
) -> None:
    loader = open_loader(backend, batch_size=9, prefetch=1, sampling="natural", threads=1)
    images = loader.samples_per_epoch

    def epoch() -> int:
        with closing(loader.epoch(0)) as batches:
            return sum(len(batch) for batch in batches)

    assert epoch() == images
    instructions = run_interrupted(epoch, at=0) * 19 // 20  # no two epochs have just as many
    with time_limit(120):
        for at in range(1, instructions, instructions // 100):
            with pytest.raises(Interrupt):
                run_interrupted(epoch, at)
            assert epoch() == images
        loader.close()
    assert not threads_of_loaders()


class TestWorkerProcesses:
    @pytest.mark.slow  # torch looks every 5 s
    def test_a_killed_worker_ends_the_epoch_with_one_line(self, open_loader: Open) -> None:
        loader = open_loader("torchvision", batch_size=1, prefetch=1)
        with time_limit(30):
            epoch = loader.epoch(0)
            next(epoch)
            before = signal.getsignal(signal.SIGCHLD)
            os.kill(worker_processes(os.getpid())[0], signal.SIGKILL)
            with pytest.raises(JobError, match=r"a worker .* died .*--threads") as caught:
                list(epoch)
        assert "\n" not in caught.value.message
        assert caught.value.exit_code == 1
        assert signal.getsignal(signal.SIGCHLD) == before

    def test_a_worker_that_dies_never_raises_in_the_consumers_own_code(
        self, open_loader: Open
    ) -> None:
        loader = open_loader("torchvision", batch_size=1, prefetch=1)
        epoch = loader.epoch(0)
        next(epoch)
        os.kill(worker_processes(os.getpid())[0], signal.SIGKILL)
        time.sleep(0.3)  # torch's own handler would raise here
        epoch.close()

    @pytest.mark.slow
    def test_who_trains_at_the_command_line_sees_one_line(
        self, tiny_shards: Path, tmp_path: Path, command_environment: dict[str, str]
    ) -> None:
        command = [
            "-m", "train", "--shards", str(tiny_shards), "--loader", "torchvision", "--arch",
            "resnet18", "--image-size", "32", "--batch-size", "2", "--epochs", "200",
            "--threads", "2", "--out", str(tmp_path / "run"),
        ]  # fmt: skip
        with running(command, command_environment) as process:
            assert process.stdout is not None
            while not process.stdout.readline().startswith("epoch "):
                pass
            # One that has nothing left to do is not missed, so the workers of a later moment, too.
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                with suppress(ProcessLookupError, FileNotFoundError):  # it may end just now
                    for worker in worker_processes(process.pid):
                        os.kill(worker, signal.SIGKILL)
                time.sleep(0.5)
            _, errors = process.communicate(timeout=10)
        assert process.returncode == 1
        assert "Traceback" not in errors
        assert "error: a worker of the torchvision loader died" in errors.splitlines()[-1]


def worker_processes(parent: int) -> list[int]:
    """Children of a process: what its main thread has forked, but for Python's resource tracker."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [
        int(each)
        for each in children
        if b"resource_tracker" not in Path(f"/proc/{each}/cmdline").read_bytes()
    ]
