"""Searches: what may be asked for, and that a study loses nothing."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from shards.errors import UserError
from train.sweeps.search import Param, Request, Study, library, read_param
from train.sweeps.sweep_run import Outcome

pytest.importorskip("optuna")
LR, SIZE = Param("lr", 1e-4, 1e-2, log=True), Param("image_size", 32, 96, step=32)


@pytest.mark.parametrize(
    ("text", "param", "shown"),
    [
        ("lr=log:1e-4:1e-2", LR, "lr (0.0001 to 0.01, log)"),
        ("image-size=32:96:32", SIZE, "image_size (32 to 96 in steps of 32)"),
        ("image_size=32:100:32", SIZE, "image_size (32 to 96 in steps of 32)"),
        ("hue=0:0.35:0.1", Param("hue", 0.0, 0.3, step=0.1), "hue (0 to 0.3 in steps of 0.1)"),
        ("hue=0:0.2", Param("hue", 0.0, 0.2), "hue (0 to 0.2)"),
        ("arch=resnet18,resnet50", Param("arch", choices=("resnet18", "resnet50")),
         "arch (resnet18, resnet50)"),
        ("drop_last=true,false", Param("drop_last", choices=("true", "false")),
         "drop_last (true, false)"),
        ("epochs=1,3,9", Param("epochs", choices=("1", "3", "9")), "epochs (1, 3, 9)"),
    ],
)  # fmt: skip
def test_a_param_is_an_interval_or_choices(text: str, param: Param, shown: str) -> None:
    assert read_param(text) == param
    assert str(param) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "expected NAME=LOW:HIGH, NAME=log:LOW:HIGH, NAME=LOW:HIGH:STEP or NAME=A,B,C"),
        ("lr=", "expected NAME=LOW:HIGH"),
        ("=1:2", "expected NAME=LOW:HIGH"),
        ("lr=1:2:3:4", "expected NAME=LOW:HIGH"),
        ("lr=log:1e-4:1e-2:2", "expected NAME=LOW:HIGH"),
        ("learning_rate=1:2", "unknown field 'learning_rate'; did you mean"),
        ("imag_size=1:2", "unknown field 'imag_size'; did you mean 'image_size'?"),
        ("lr=a:b", "lr takes numbers"),
        ("epochs=1.5:3", "epochs takes whole numbers"),
        ("lr=1e-2:1e-4", "0.01 is not below 0.0001"),
        ("lr=nan:1", "lr must be in (0, inf), got nan"),
        ("epochs=0:5", "epochs must be from 1 to 100000, got 0"),
        ("hue=log:0:0.2", "a logarithmic interval begins above 0"),
        ("image_size=32:96:0", "the step has to be above 0 and at most 64"),
        ("image_size=32:96:65", "the step has to be above 0 and at most 64"),
        ("lr=1e-3", "give several values or an interval, as in lr=1:10; a single one is an option"),
        ("arch=resnet18", "give several values; a single one is an option"),
    ],
)
def test_a_param_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        read_param(text)
    assert refused.value.format_message().startswith(f"--param {text}: {message}")


def test_choices_are_values_of_their_field_each_once() -> None:
    with pytest.raises(UserError, match=r"^--sampling: sampling must be one of csv"):
        read_param("sampling=csv,none")
    with pytest.raises(UserError, match=r"^--arch has a twice; drop one of them$"):
        read_param("arch=a,b,a")


@pytest.fixture
def request_of() -> Callable[..., Request]:
    return lambda *params, trials=12, search="tpe": Request(search, trials, params, {}, ())


def outcome(values: Mapping[str, Any]) -> Outcome:
    """A landscape with its top at lr 0.001."""
    from math import log10

    return Outcome(
        values=values, folder=None, summary={"val_miou": 1 / (1 + abs(log10(values["lr"]) + 3))}
    )


class Killed(BaseException):
    """As SIGKILL ends a process: nothing is caught, nothing told."""


@pytest.mark.parametrize(
    ("search", "trials"),
    [("tpe", 12), ("random", 5)],  # the first ten of tpe are drawn at random, too
)
def test_an_interrupted_search_tries_what_an_unbroken_one_would(
    tmp_path: Path, request_of: Any, search: str, trials: int
) -> None:
    request = request_of(LR, Param("sampling", choices=("csv", "natural")), search=search)

    def trials_of(folder: Path, dies_at: int | None = None) -> list[Mapping[str, Any]]:
        tried: list[Mapping[str, Any]] = []

        def run(values: Mapping[str, Any]) -> Outcome:
            if len(tried) == dies_at:
                raise Killed
            tried.append(values)
            return outcome(values)

        folder.mkdir(exist_ok=True)
        study = Study(folder, "name", request)
        assert [each.values for each in study.run(trials, 0, run)] == tried
        return tried

    unbroken = trials_of(tmp_path / "unbroken")
    assert len({each["lr"] for each in unbroken}) == trials
    assert all(1e-4 <= each["lr"] <= 1e-2 for each in unbroken)
    for at in (0, trials // 2, trials - 1):
        with pytest.raises(Killed):
            trials_of(tmp_path / "broken in two", at)
    assert trials_of(tmp_path / "broken in two") == unbroken


def test_whole_numbers_stay_whole_and_in_their_steps(tmp_path: Path, request_of: Any) -> None:
    study = Study(tmp_path, "name", request_of(LR, SIZE))
    sizes = [each.values["image_size"] for each in study.run(8, 0, outcome)]
    assert set(sizes) <= {32, 64, 96}
    assert all(type(each) is int for each in sizes)


def test_a_failed_trial_counts_and_does_not_stop_the_search(
    tmp_path: Path, request_of: Any
) -> None:
    def run(values: Mapping[str, Any]) -> Outcome:
        if values["lr"] > 1e-3:
            return Outcome(values=values, folder=None, summary=None, error="too high")
        return outcome(values)

    study = Study(tmp_path, "name", request_of(LR))
    found = list(study.run(8, 0, run))
    assert len(found) == 8
    assert {bool(each.error) for each in found} == {True, False}
    again = Study(tmp_path, "name", request_of(LR))
    assert [each.values for each in again.run(8, 0, run)] == [each.values for each in found]


def test_a_folder_can_hold_several_searches(tmp_path: Path, request_of: Any) -> None:
    first = list(Study(tmp_path, "first", request_of(LR)).run(2, 0, outcome))
    list(Study(tmp_path, "other", request_of(LR, SIZE)).run(2, 0, outcome))
    again = list(Study(tmp_path, "first", request_of(LR)).run(2, 0, outcome))
    assert again == first


def test_without_optuna_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.delitem(sys.modules, "optuna", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"^--search needs optuna: pip install 'hyphae\[search\]'$"):
        library()
