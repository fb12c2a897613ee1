"""A checkpoint of the right version can hold anything: that is one line, never a traceback."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train.evaluate
from shards.errors import Interrupted, UserError
from train.__main__ import main
from train.checkpoints.checkpoint import LAST, load_checkpoint, load_content, save_checkpoint

Place = tuple[Any, ...]
ABSENT = object()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> dict[str, Any]:
    return load_content(finished_run / LAST)


def places(content: dict[Any, Any], at: Place = ()) -> Iterator[Place]:
    """Every key of nested dictionaries, as the way to it."""
    for key, value in content.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from places(value, (*at, key))


def crafted(content: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(content)
    holder = changed
    for key in place[:-1]:
        holder = holder[key]
    if value is ABSENT:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return changed


VALUES = st.one_of(
    st.just(ABSENT),
    st.none(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.booleans(),
    st.text(max_size=3),
    st.sampled_from([[], {}, (), [1, "x"], {"a": 1}, {3: []}]),
    st.sampled_from([torch.zeros(0), torch.ones(2, 3), torch.tensor(float("nan"))]),
)


@given(st.data())
def test_whatever_stands_in_a_checkpoint_it_loads_or_is_refused_in_one_line(
    content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = data.draw(st.sampled_from(sorted(places(content), key=str)))
    path = tmp_path_factory.mktemp("crafted") / LAST
    save_checkpoint(path, crafted(content, place, data.draw(VALUES)))
    try:
        load_checkpoint(path)
    except UserError as error:
        message = error.format_message()
        assert message.startswith(f"{path} does not hold what a run saves: ")
        assert "\n" not in message
        assert len(message) < len(str(path)) + 400


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("config",), 3, "checkpoint.config is of type int, expected a dictionary"),
        (("config", "lr"), "x", "checkpoint.config.lr is of type str, expected float"),
        (("config", "lr"), -1.0, "lr must be in (0, inf), got -1.0"),
        (("config", "epochs"), True, "checkpoint.config.epochs is of type bool, expected int"),
        (("config", "image_size"), 10**9, "image_size must be from 16 to 4096, got 1000000000"),
        (("config", "mean"), (0.1, 0.2), "checkpoint.config.mean has 2 values, expected 3"),
        (("config", "precision"), "fp8", "checkpoint.config.precision is none of auto, fp32, "
                                         "bf16, fp16"),
        (("config", "augment"), None, "checkpoint.config.augment is of type NoneType, expected a "
                                      "dictionary"),
        (("config", "leraning_rate"), 1, "unknown checkpoint.config field 'leraning_rate'"),
        (("class_names",), "abc", "checkpoint.class_names is of type str, expected tuple"),
        (("model",), ABSENT, "checkpoint has no model"),
        (("model", "1.weight"), [1.0], "checkpoint.model.1.weight is of type list, expected Tensor"),
        (("shards", "directory"), None, "checkpoint.shards.directory is of type NoneType, expected str"),
        (("progress", "epoch"), -1, "epoch cannot be -1"),
        (("progress", "seconds"), float("nan"), "seconds cannot be nan"),
        (("progress",), [], "checkpoint.progress is of type list, expected a dictionary"),
    ],
)  # fmt: skip
def test_the_line_names_the_field_and_what_is_wrong_with_it(
    content: dict[str, Any], tmp_path: Path, place: Place, value: Any, named: str
) -> None:
    save_checkpoint(tmp_path / LAST, crafted(content, place, value))
    with pytest.raises(UserError) as refused:
        load_checkpoint(tmp_path / LAST)
    message = refused.value.format_message()
    assert message.startswith(f"{tmp_path / LAST} does not hold what a run saves: {named}")


@pytest.fixture
def stopped_run(tmp_path: Path, train_tiny: Any, stop_after: Any) -> Path:
    stop_after(13)  # in the second epoch
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def resume_crafted(
    stopped_run: Path, command_line: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Place, Any], Any]:
    def resume(place: Place, value: Any) -> Any:
        content = load_content(stopped_run / LAST)
        save_checkpoint(stopped_run / LAST, crafted(content, place, value))
        return command_line(main, "--resume", stopped_run)

    return resume


FIRST = ("optimizer", "state", 0)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("config", "arch"), "resnet5O"),
        (("config", "arch"), "resnet18"),
        (("config", "device"), "gpu"),
        (("config", "batch_size"), 37),
        (("config", "batch_size"), 7),
        (("model", "1.weight"), torch.zeros(3)),
        (("model", "new"), torch.zeros(3)),
        (("optimizer",), None),
        (("optimizer",), {}),
        (("optimizer", "state"), [1, 2]),
        (("optimizer", "state", 99), {}),
        (FIRST, "x"),
        ((*FIRST, "exp_avg"), torch.zeros(3)),
        ((*FIRST, "exp_avg"), ABSENT),
        ((*FIRST, "step"), 3.0),
        ((*FIRST, "step"), torch.zeros(2)),
        (("scaler",), {"scale": "x"}),
        (("rng",), torch.zeros(3)),
        (("rng",), None),
        (("order_hash",), "0" * 16),
        (("progress", "epoch"), 99),
        (("progress", "step"), 9),
        (("progress", "step"), 4),
        (("progress", "images"), 0),
        (("progress", "samples_seen"), 10**9),
        (("progress", "best_epoch"), 2),
        (("shards", "fingerprint"), "1f"),
        (("shards", "directory"), "nowhere"),
        (("shards", "directory"), "no\0where"),
    ],
)
def test_a_run_whose_checkpoint_was_tampered_with_is_not_resumed(
    resume_crafted: Any, place: Place, value: Any
) -> None:
    ended = resume_crafted(place, value)
    assert (ended.code, ended.out) == (2, ""), ended
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1, ended.err


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("optimizer", "param_groups"), "x"),  # these are the configuration's
        (("optimizer", "param_groups"), [{"lr": "x", "params": [0]}]),
        (("resolved",), {}),
        (("versions",), {}),
    ],
)
def test_what_a_resume_does_not_take_from_a_checkpoint_may_be_anything(
    resume_crafted: Any, stopped_run: Path, finished_run: Path, outcome_of: Any,
    monkeypatch: pytest.MonkeyPatch, place: Place, value: Any,
) -> None:  # fmt: skip
    monkeypatch.undo()  # no signal this time
    ended = resume_crafted(place, value)
    assert (ended.code, ended.err) == (0, "")
    assert outcome_of(stopped_run) == outcome_of(finished_run)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("config", "arch"), "resnet18"),
        (("config", "std"), ("x", "y", "z")),
        (("class_names",), []),
        (("class_names",), ["a"]),
        (("model", "8.bias"), ABSENT),
        (("model", "8.bias"), torch.zeros(9)),
        (("resolved",), []),
    ],
)
def test_a_checkpoint_that_was_tampered_with_is_not_evaluated(
    content: dict[str, Any], tmp_path: Path, command_line: Any, place: Place, value: Any
) -> None:
    path = tmp_path / "crafted.pt"
    save_checkpoint(path, crafted(content, place, value))
    ended = command_line(train.evaluate.main, path)
    assert (ended.code, ended.out) == (2, ""), ended
    assert ended.err.count("\n") == 1, ended.err
    assert len(ended.err) < 600
