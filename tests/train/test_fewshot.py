"""Few shots: episodes that leak nothing, methods that find what is plain, and the command's table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid

import train.studies.fewshot
from shards.errors import UserError
from train.engine.logistic import Samples
from train.fewshot import main
from train.novelty.episodes import Episodes
from train.novelty.fewshots import METHODS, accuracies, nearest_class_mean


def clouds(classes: int, each: int, spread: float, seed: int = 0) -> Samples:
    """A cloud of features for each class, around directions at right angles."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(each)
    noise = spread * torch.randn(len(labels), 16, generator=generator)
    return Samples(torch.eye(16)[labels] + noise, labels)


@given(
    shots=st.integers(1, 4),
    ways=st.integers(2, 5),
    queries=st.integers(1, 5),
    number=st.integers(0, 10**6),
)
def test_an_episode_learns_from_no_photograph_that_it_is_asked_about(
    shots: int, ways: int, queries: int, number: int
) -> None:
    pool = clouds(6, 9, 1.0)
    drawn = Episodes(pool, ways, queries)
    episode = drawn.episode(number, shots)
    rows = {tuple(each) for each in pool.features.tolist()}
    support = [tuple(each) for each in episode.support.features.tolist()]
    asked = [tuple(each) for each in episode.queries.features.tolist()]
    assert len(set(support + asked)) == ways * (shots + queries)
    assert set(support + asked) <= rows
    assert episode.support.labels.bincount().tolist() == [shots] * ways
    assert episode.queries.labels.bincount().tolist() == [queries] * ways


def test_more_shots_contain_fewer_and_the_queries_stay() -> None:
    drawn = Episodes(clouds(5, 12, 1.0), 3, 4)
    few, many = drawn.episode(7, 2), drawn.episode(7, 5)
    assert torch.equal(few.queries.features, many.queries.features)
    kept = many.support.features.reshape(3, 5, -1)[:, :2].reshape(6, -1)
    assert torch.equal(few.support.features, kept)


def test_episodes_differ_by_number_and_seed_and_come_again() -> None:
    pool = clouds(5, 12, 1.0)
    drawn = Episodes(pool, 3, 4)
    first = drawn.episode(0, 2).support.features
    assert torch.equal(first, Episodes(pool, 3, 4).episode(0, 2).support.features)
    for other in (drawn.episode(1, 2), Episodes(pool, 3, 4, seed=1).episode(0, 2)):
        assert not torch.equal(first, other.support.features)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shots", [1, 5])
def test_classes_that_lie_apart_are_told_apart(method: str, shots: int) -> None:
    found = accuracies(Episodes(clouds(5, 20, 0.05), 5, 10), shots, 3)
    assert found[method] == [1.0] * 3


@pytest.mark.parametrize("method", METHODS)
def test_features_that_say_nothing_leave_chance(method: str) -> None:
    pool = clouds(4, 40, 1.0)
    shuffled = pool.labels[torch.randperm(160, generator=torch.Generator().manual_seed(1))]
    found = accuracies(Episodes(Samples(pool.features, shuffled), 4, 15), 5, 20)
    assert np.mean(found[method]) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("method", METHODS)
def test_more_photographs_of_each_class_make_it_better(method: str) -> None:
    drawn = Episodes(clouds(5, 40, 0.5), 5, 15)
    one, ten = (np.mean(accuracies(drawn, shots, 10)[method]) for shots in (1, 10))
    assert ten > one + 0.05


def test_the_nearest_class_mean_is_that_of_scikit_learn() -> None:
    episode = Episodes(clouds(5, 20, 0.7), 5, 10).episode(0, 3)
    theirs = NearestCentroid().fit(episode.support.features, episode.support.labels)
    ours = nearest_class_mean(episode.support, episode.queries.features, 5)
    assert ours.tolist() == theirs.predict(episode.queries.features).tolist()


def test_too_few_photographs_or_classes_are_refused_by_name() -> None:
    pool = clouds(3, 8, 1.0)
    names = ("a", "b", "c")
    with pytest.raises(
        UserError, match="5 shots and 4 queries a class: 'a' has 8 photographs; choose fewer"
    ):
        Episodes(pool, 2, 4).check(5, names)
    with pytest.raises(UserError, match="4 ways, and there are 3 new classes with photographs"):
        Episodes(pool, 4, 4).check(1, names)


def test_the_command_writes_a_table_of_every_method_with_intervals(
    held_out_run: Path, command_line: Any, tmp_path: Path
) -> None:
    ask = (held_out_run, "--shots", "3,1", "--episodes", 4, "--queries", 5, "--out", tmp_path / "f")
    ended = command_line(main, *ask)
    assert ended.code == 0, ended.err
    assert "2 of 2 new classes an episode, 28 photographs of them in all, 5 queries" in ended.out
    rows = list(csv.DictReader((tmp_path / "f" / "fewshot.csv").open()))
    assert [(row["shots"], row["method"]) for row in rows] == [
        (shots, method) for shots in "13" for method in METHODS
    ]
    for row in rows:
        assert row["episodes"] == "4"
        assert float(row["low"]) <= float(row["accuracy"]) <= float(row["high"])
    assert cv2.imread(str(tmp_path / "f" / "fewshot.png")) is not None


def test_an_interrupted_command_goes_on_and_ends_with_the_same_table(
    held_out_run: Path, command_line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = (held_out_run, "--shots", "1,2", "--episodes", 3, "--queries", 4, "--out", tmp_path / "f")
    with monkeypatch.context() as patch:

        def stopped(drawn: Episodes, shots: int, count: int) -> Any:
            if shots == 2:
                raise KeyboardInterrupt
            return accuracies(drawn, shots, count)

        patch.setattr(train.studies.fewshot, "accuracies", stopped)
        assert command_line(main, *ask).code == 130
    ended = command_line(main, *ask)
    assert "2 cells, 1 done; " in ended.out
    whole = command_line(main, *ask[:-1], tmp_path / "g")
    assert whole.code == ended.code == 0
    table = [(tmp_path / name / "fewshot.csv").read_text() for name in "fg"]
    assert table[0] == table[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shots", "1,0"], "'1,0' is no list of different numbers from 1 on: 1,5,10"),
        (["--shots", "many"], "'many' is no list of different numbers"),
        (["--ways", "3"], "--ways 3, and there are 2 new classes; choose fewer"),
        (["--classes", "Amanita"], "unknown class 'Amanita'; did you mean 'Amanita muscaria'?"),
        (
            ["--classes", "Cantharellus cibarius"],
            "the network was trained on 'Cantharellus cibarius', so it is not new to it",
        ),
        (["--shots", "13", "--queries", "1"], "'Boletus edulis' has 12 photographs; choose fewer"),
        (
            ["--classes", "Boletus edulis"],
            "'Boletus edulis' alone is new, and an episode tells at least two",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(
    held_out_run: Path, command_line: Any, options: list[str], message: str
) -> None:
    ended = command_line(main, held_out_run, *options)
    assert ended.code == 2
    assert message in ended.err


def test_a_run_that_held_nothing_out_is_refused(finished_run: Path, command_line: Any) -> None:
    ended = command_line(main, finished_run)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: the run held no class out, so none is new to it; ")
