"""A network that trains in milliseconds, runs of it in this process, and the command line."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import click
import pytest
import torch
from torch import nn
from torchvision.models._api import BUILTIN_MODELS

import train.engine.loop
import train.engine.run
from loaders.augment import AugmentConfig
from shards.commands import run
from train.checkpoints.checkpoint import BEST, LAST, load_content
from train.config.config import TrainConfig
from train.config.recipes import create_recipe
from train.engine.run import resume_run, start_run
from train.runs.interrupt import StopRequest
from train.runs.log import METRICS, SUMMARY
from train.scores.evaluation import Evaluation

TINY_ARCH = "tinynet"
TRAINER = Path(__file__).with_name("trainer.py")
APPEAR_S = 120
HELD_OUT = ("Amanita muscaria", "Boletus edulis")
BATCH_SIZE = 5  # 36 rows: eight steps an epoch, the last of one image; val: five and one
TIMES = (
    "train/images_per_s", "train/data_wait", "val/seconds", "memory/host_gib",
    *(f"time/{each}_s" for each in ("wait", "copy", "step", "evaluation", "logging")),
)  # fmt: skip
PROGRESS_TIMES = ("seconds", "train_s", "wait_s", "copy_s", "step_s", "spent")


def build_tinynet(*, weights: None = None, num_classes: int = 1000) -> nn.Module:
    """Batch norm has state that is not learned, dropout draws numbers: what a resume can lose."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64, num_classes),
    )


@pytest.fixture(scope="session", autouse=True)
def tiny_arch() -> Iterator[str]:
    """The name under which torchvision hands out :func:`build_tinynet`, in this process only."""
    builder: Any = build_tinynet
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "__module__", f"torchvision.models.{TINY_ARCH}")
        patch.setitem(BUILTIN_MODELS, TINY_ARCH, builder)
        yield TINY_ARCH


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No per-machine defaults: the empty ``local.toml`` hides the one beside the packages."""
    (tmp_path / "local.toml").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("DATA_DIR", "SHARDS_DIR", "LOG_DIR"):
        monkeypatch.delenv(f"HYPHAE_{name}", raising=False)


@pytest.fixture(scope="session")
def no_augment() -> AugmentConfig:
    return AugmentConfig(
        crop_scale=(1.0, 1.0), hflip_prob=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
    )


class MakeConfig(Protocol):
    """The baseline recipe, shrunk; any field can be given."""

    def __call__(self, **fields: Any) -> TrainConfig: ...


def tiny_config(**fields: Any) -> TrainConfig:
    small = {
        "arch": TINY_ARCH, "epochs": 3, "batch_size": BATCH_SIZE, "image_size": 32,
        "precision": "fp32", "device": "cpu",
    }  # fmt: skip
    return replace(create_recipe("baseline"), **small | fields)


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    return tiny_config


class TrainTiny(Protocol):
    """Trains in this process; returns the summary."""

    def __call__(self, out: Path, **fields: Any) -> dict[str, Any]: ...


@pytest.fixture
def train_tiny(tiny_shards: Path) -> TrainTiny:
    """``train_tiny(folder, epochs=2, ...)``."""
    return lambda out, **fields: start_run(tiny_config(**fields), tiny_shards, out)


@pytest.fixture(scope="session")
def finished_run(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three epochs that nothing interrupted; to read, never to change."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    start_run(tiny_config(), tiny_shards, out)
    return out


@pytest.fixture(scope="session")
def held_out_run(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never saw Amanita muscaria nor Boletus edulis; to read, but for ``features/``."""
    out = tmp_path_factory.mktemp("runs") / "held out"
    start_run(tiny_config(epochs=1, holdout=HELD_OUT), tiny_shards, out)
    return out


@pytest.fixture
def start(tmp_path: Path, finished_run: Path) -> Path:
    """A checkpoint to start from, in the current folder."""
    (tmp_path / "start").symlink_to(finished_run)
    return tmp_path / "start"


class StopAfter(Protocol):
    """From now on a run gets a signal when it asks for the ``count``-th time whether to stop."""

    def __call__(self, count: int, signum: signal.Signals = signal.SIGINT) -> None: ...


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> StopAfter:
    """A run asks after each step and after each batch of val; each session counts anew."""

    def arm(count: int, signum: signal.Signals = signal.SIGINT) -> None:
        class Stopping(StopRequest):
            asked = 0

            def requested(self) -> bool:
                self.asked += 1
                if self.asked == count:
                    signal.raise_signal(signum)
                return super().requested()

        monkeypatch.setattr(train.engine.run, "StopRequest", Stopping)

    return arm


@pytest.fixture
def resume() -> Callable[..., dict[str, Any]]:
    """``resume(folder, shards=None)`` goes on without any signal to come."""

    def go_on(folder: Path, shards: Path | None = None) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train.engine.run, "StopRequest", StopRequest)
            return resume_run(folder, None if shards is None else str(shards))

    return go_on


@pytest.fixture
def val_hits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``val_hits(1, 3, ...)``: what val says after each epoch; mIoU rises with the number.

    Two classes of ten images each; so many of the first are hit, and all of the second.
    """

    def script(*hits: int) -> None:
        matrices = iter(
            torch.tensor([[each, 10 - each, 0], [0, 10, 0], [0, 0, 0]]) for each in hits
        )
        monkeypatch.setattr(
            train.engine.loop, "evaluate", lambda *_, **__: Evaluation(next(matrices), 1.0, 0.1)
        )

    return script


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


@pytest.fixture(scope="session")
def metrics_of() -> Callable[[Path], list[dict[str, Any]]]:
    """``metrics_of(folder)``: a dictionary an epoch."""
    return read_metrics


@pytest.fixture(scope="session")
def outcome_of() -> Callable[[Path], dict[str, Any]]:
    """``outcome_of(folder)``: all that a run leaves but its times; tensors as hashes."""

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return str(value.dtype), hashlib.sha256(
                value.contiguous().numpy().tobytes()
            ).hexdigest()
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        return value

    def without(content: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        return {name: value for name, value in content.items() if name not in names}

    def outcome(folder: Path) -> dict[str, Any]:
        last, best = load_content(folder / LAST), load_content(folder / BEST)
        summary = json.loads((folder / SUMMARY).read_text())
        return {
            "weights": plain(last["model"]),
            "weights behind an average": plain(last.get("stepped")),
            "optimizer": plain(last["optimizer"]),
            "random numbers": plain(last["rng"]),
            "progress": without(last["progress"], PROGRESS_TIMES),
            "best weights": plain(best["model"]),
            "best progress": without(best["progress"], PROGRESS_TIMES),
            "metrics": [without(each, TIMES) for each in read_metrics(folder)],
            "summary": without(summary, ("seconds", "seconds_of", "images_per_s")),
        }

    return outcome


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class CommandLine(Protocol):
    """Runs a click command in this process as ``python -m`` would."""

    def __call__(self, command: click.Command, *args: str | Path) -> Ended: ...


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    def call(command: click.Command, *args: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["python -m", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(command, "python -m train")
        code = ended.value.code
        assert isinstance(code, int)
        return Ended(code, *capsys.readouterr())

    return call


@pytest.fixture
def train_command(command_line: CommandLine, tiny_shards: Path) -> Callable[..., Ended]:
    """``train_command("--epochs", 1, ...)``: a run like those of ``train_tiny``; later options win."""
    from train.__main__ import main

    def call(*args: object, shards: Path | None = tiny_shards) -> Ended:
        small = ("--recipe", "baseline", "--arch", TINY_ARCH, "--image-size", "32", "--epochs", "1",
                 "--batch-size", str(BATCH_SIZE), "--device", "cpu", "--precision", "fp32")  # fmt: skip
        given = () if shards is None else ("--shards", str(shards))
        return command_line(main, *small, *given, *map(str, args))

    return call


@dataclass
class Trainer:
    """Asks :mod:`trainer` for processes, and waits for them."""

    program: subprocess.Popen[str]
    folder: Path
    running: set[int] = field(default_factory=set)
    asked: int = 0

    def start(
        self, args: list[object], *, env: dict[str, str] | None = None, float64: bool = False
    ) -> tuple[int, Path]:
        """A process number, and the file of what it says."""
        self.asked += 1
        out = self.folder / f"{self.asked}.txt"
        request = {"args": [str(each) for each in args], "env": env or {}, "out": str(out)}
        pid = int(self._answer(request | {"float64": float64})["pid"])
        self.running.add(pid)
        return pid, out

    def wait(self, pid: int) -> int:
        self.running.discard(pid)
        return int(self._answer({"wait": pid})["status"])

    def wait_for(self, file: Path, text: str = "") -> None:
        """Until a file of a run is there, and holds a text."""
        end = time.monotonic() + APPEAR_S
        while not (file.exists() and text in file.read_text(errors="replace")):
            assert time.monotonic() < end, f"no {text!r} in {file}"
            time.sleep(0.02)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        self.program.stdin.write(json.dumps(request) + "\n")
        self.program.stdin.flush()
        answer: dict[str, Any] = json.loads(self.program.stdout.readline())
        return answer


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    environment = {name: value for name, value in os.environ.items() if "HYPHAE_" not in name}
    environment |= {"PYTHONPATH": str(TRAINER.parents[2])}
    folder = tmp_path_factory.mktemp("trainer")
    with subprocess.Popen(
        [sys.executable, str(TRAINER)], env=environment, cwd=folder, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as program:  # fmt: skip
        started = Trainer(program, folder)
        yield started
        for pid in started.running:
            os.kill(pid, signal.SIGKILL)
        assert program.stdin is not None
        program.stdin.close()


TREE = """\
species,genus,family,order,class,phylum,edibility,synonym_of
A alba,A,Aaceae,Aales,Amycetes,Amycota,edible,
A nigra,A,Aaceae,Aales,Amycetes,Amycota,deadly,
B rubra,B,Aaceae,Aales,Amycetes,Amycota,poisonous,
C viridis,C,Caceae,Aales,Amycetes,Amycota,edible,
D flava,D,Daceae,Dales,Amycetes,Amycota,caution,
E lutea,E,Eaceae,Eales,Emycetes,Emycota,inedible,
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A species table small enough to work out everything by hand."""
    path = tmp_path / "tree.csv"
    path.write_text(TREE)
    return path


@pytest.fixture(scope="session")
def tree_names() -> tuple[str, ...]:
    """Its six species."""
    return tuple(line.split(",")[0] for line in TREE.splitlines()[1:])
