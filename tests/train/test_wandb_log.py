"""``--wandb``: tested offline, as W&B's own client writes it."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import train.runs.wandb_log
from shards.errors import UserError
from train.runs.log import RunLog
from train.runs.wandb_log import PREFIX, RUN_ID, check_wandb

REPO = Path(__file__).resolve().parents[2]


class FakeWandb:
    """The few calls that a run makes; what was logged stays to be looked at."""

    class errors:
        class Error(Exception):
            pass

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.started: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.finished = False
        self.refusal: Exception | None = None

    def login(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def init(self, **options: Any) -> FakeWandb:
        if self.refusal is not None:
            raise self.refusal
        self.started = options
        return self

    def Settings(self, **options: Any) -> dict[str, Any]:
        return options

    def Image(self, picture: Any) -> tuple[str, Any]:
        return "image", picture.shape

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "samples_seen")

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "MODE", "PROJECT", "DIR"):
        monkeypatch.setenv(PREFIX + name, "")
        monkeypatch.delenv(PREFIX + name)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    library = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", library)
    return library


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name == "wandb":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.usefixtures("not_installed")
def test_without_the_package_one_line_says_how_to_install_it_and_nothing_is_made(
    train_command: Any, tmp_path: Path
) -> None:
    ended = train_command("--wandb", "--out", tmp_path / "run")
    assert ended.code == 2
    assert ended.err == "error: --wandb needs Weights & Biases: pip install 'hyphae[wandb]'\n"
    assert not (tmp_path / "run").exists()


def test_without_a_key_one_line_says_where_it_belongs(
    fake: FakeWandb, train_command: Any, tmp_path: Path
) -> None:
    fake.refusal = fake.errors.Error("api_key not configured (no-tty).\nRun wandb login")
    ended = train_command("--wandb", "--out", tmp_path / "run")
    assert (ended.code, ended.err) == (
        2,
        "error: --wandb: api_key not configured (no-tty); set WANDB_API_KEY (.env.example says "
        "where), or WANDB_MODE=offline, or drop --wandb\n",
    )
    assert not (tmp_path / "run").exists()


def test_settings_come_from_the_env_file_and_the_environment_stands(
    fake: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.refusal = fake.errors.Error("asked for a key, though offline")
    (tmp_path / ".env").write_text(
        "# a comment\nWANDB_MODE = 'offline'\nWANDB_PROJECT=other\nWANDB_API_KEY=\nPATH=/nowhere\n"
    )
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    check_wandb()
    environment = train.runs.wandb_log.os.environ
    assert environment["WANDB_MODE"] == "offline"
    assert environment["WANDB_PROJECT"] == "mine"
    assert "WANDB_API_KEY" not in environment  # an empty value is none
    assert environment["PATH"] != "/nowhere"


def test_the_example_file_names_what_is_read() -> None:
    lines = (REPO / ".env.example").read_text().splitlines()
    named = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    assert named == {"WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"}


def test_wandb_sees_what_tensorboard_sees(
    fake: FakeWandb, train_tiny: Any, tmp_path: Path, metrics_of: Any
) -> None:
    train_tiny(tmp_path / "run", epochs=2, wandb=True)
    assert fake.started["name"] == "run"
    assert fake.started["project"] == "hyphae"
    assert fake.started["config"]["arch"] == "tinynet"
    epochs = [each for each in fake.logged if "val/miou" in each]
    assert epochs == [
        {name: value for name, value in line.items() if name != "epoch"}
        for line in metrics_of(tmp_path / "run")
    ]
    assert any("step/loss" in each for each in fake.logged)
    pictures = [name for each in fake.logged for name, value in each.items()
                if isinstance(value, tuple)]  # fmt: skip
    assert pictures == ["train/images", "val/confusion", "val/confusion", "best/test_confusion"]
    assert {"best/val_miou", "best/test_miou"} <= set(fake.summary)
    assert fake.finished


def test_a_resumed_run_goes_on_as_the_same_run(fake: FakeWandb, tmp_path: Path) -> None:
    identities = []
    for _ in range(2):
        run = train.runs.wandb_log.WandbRun(tmp_path, {})
        identities.append((fake.started["id"], fake.started["resume"]))
        run.close()
    assert identities[0] == identities[1]
    assert identities[0][0] == (tmp_path / RUN_ID).read_text()


def test_a_refusal_at_the_start_is_one_line(fake: FakeWandb, tmp_path: Path) -> None:
    fake.refusal = fake.errors.Error("project not found")
    with pytest.raises(UserError, match=r"^--wandb: project not found; set WANDB_API_KEY"):
        train.runs.wandb_log.WandbRun(tmp_path, {})


@pytest.mark.slow
def test_an_offline_run_of_the_real_client_holds_the_curves_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_wandb()
    log = RunLog(tmp_path, wandb=train.runs.wandb_log.WandbRun(tmp_path, {"arch": "tinynet"}))
    log.metrics(1, 36, {"val/miou": 0.25})
    log.figures(36, {"val/confusion": np.zeros((8, 8, 3), np.uint8)})
    log.result({}, {"best/val_miou": 0.25})
    log.close()

    (written,) = (tmp_path / "wandb").glob("offline-run-*")
    (record,) = written.glob("*.wandb")
    content = record.read_bytes()  # protocol buffers, in which text stands as it is
    for part in (b"val/miou", b"samples_seen", b"best/val_miou", b"0.25", b"arch", b"tinynet"):
        assert part in content
    (picture,) = written.glob("files/media/images/val/confusion_*.png")
    shown = cv2.imread(str(picture))
    assert shown is not None
    assert shown.shape == (8, 8, 3)
