"""Where season or place tells look-alikes apart a prior helps; where they are noise it stays out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from preprocess.sightings import Sighting
from shards.errors import UserError
from shards.reader import ShardSet
from train.inference.prior import (
    SEASONS,
    SMOOTHING,
    Prior,
    cell_of,
    read_prior,
    season_of,
    weighed,
)
from train.inference.prior_fit import choose_strength, count_prior, gain_of
from train.predict import main as predict_main
from train.prior import main

NAMES = ("spring twin", "autumn twin", "another")
MONTHS = {"Amanita muscaria": 1, "Boletus edulis": 5, "Cantharellus cibarius": 9}


def drawn(
    seed: int, count: int, *, season: bool
) -> tuple[torch.Tensor, torch.Tensor, list[Sighting]]:
    """Two look-alikes that a model cannot tell apart, and a third that it can; calibrated."""
    rng = np.random.default_rng(seed)
    share = rng.beta(4, 4, count)
    third = rng.random(count) < 0.2
    probabilities = np.stack([share * 0.98, (1 - share) * 0.98, np.full(count, 0.02)], 1)
    probabilities[third] = (0.01, 0.01, 0.98)
    labels = (probabilities.cumsum(1) < rng.random((count, 1))).sum(1)
    days = rng.integers(1, 366, count)
    if season:
        days = np.where(labels == 0, rng.normal(120, 25, count), days)
        days = np.where(labels == 1, rng.normal(270, 25, count), days).clip(1, 365).astype(int)
    places = rng.uniform((40, 0), (60, 30), (count, 2)).tolist()
    sightings = [Sighting((a, b), int(day)) for (a, b), day in zip(places, days, strict=True)]
    return torch.from_numpy(probabilities), torch.from_numpy(labels), sightings


def fitted(*, season: bool, seed: int = 0) -> Prior:
    _, labels, sightings = drawn(3 * seed, 600, season=season)
    prior = count_prior(labels.tolist(), sightings, NAMES, 5.0)
    return choose_strength(prior, *drawn(3 * seed + 1, 400, season=season))


def test_a_season_that_separates_look_alikes_raises_accuracy_on_photographs_not_seen() -> None:
    prior = fitted(season=True)
    gain = gain_of(prior, *drawn(2, 400, season=True))
    assert prior.strength > 0.5
    assert gain.oa_before < 0.75
    assert gain.oa > 0.93
    assert gain.oa_rose_by[0] > 0.15
    assert gain.loss < 0.5 * gain.loss_before


def test_where_place_and_season_are_noise_the_strength_is_nought_and_nothing_changes() -> None:
    priors = [fitted(season=False, seed=each) for each in range(10)]
    assert sum(prior.strength == 0 for prior in priors) >= 9
    probabilities, _, sightings = drawn(2, 50, season=False)
    assert torch.equal(priors[0].applied(probabilities, sightings), probabilities)
    assert priors[0].strength == 0


def test_val_is_never_worse_off() -> None:
    for seed in range(5):
        for season in (True, False):
            val = drawn(3 * seed + 1, 400, season=season)
            gain = gain_of(fitted(season=season, seed=seed), *val)
            assert gain.loss <= gain.loss_before


def test_shares_are_those_worked_out_by_hand() -> None:
    here, there = (50.0, 10.0), (20.0, 10.0)
    prior = count_prior([0, 0, 0, 1], [Sighting(each) for each in (here, here, there, there)],
                        NAMES, 5.0)  # fmt: skip
    expected = [
        [(2 + SMOOTHING / 2) / (3 + SMOOTHING), (SMOOTHING / 2) / (1 + SMOOTHING), 0.5],
        [(1 + SMOOTHING / 2) / (3 + SMOOTHING), (1 + SMOOTHING / 2) / (1 + SMOOTHING), 0.5],
    ]
    found = prior.log_shares([Sighting(here), Sighting(there), Sighting((-20.0, 3.0)), Sighting()])
    assert torch.allclose(found[:2], (torch.tensor(expected, dtype=torch.float64) * 2).log())
    assert not found[2:].any()  # a place without any photograph says nothing, no place neither


@given(day=st.integers(1, 366))
def test_a_year_goes_round_and_in_the_south_begins_in_july(day: int) -> None:
    north, south = season_of(Sighting((1.0, 0.0), day)), season_of(Sighting((-1.0, 0.0), day))
    assert 0 <= north < SEASONS
    assert (south - north) % SEASONS == SEASONS // 2
    assert season_of(Sighting(None, day)) == north


def test_the_end_of_december_is_near_the_begin_of_january() -> None:
    prior = count_prior([0] * 40 + [1] * 40, [Sighting(None, 1)] * 40 + [Sighting(None, 180)] * 40,
                        NAMES, 5.0)  # fmt: skip
    shares = prior.log_shares([Sighting(None, day) for day in (366, 180, 240)])
    assert shares[0, 0] > 0 > shares[0, 1]
    assert shares[1, 1] > 0 > shares[1, 0]
    assert not shares[2].any()


@pytest.mark.parametrize(("east", "west"), [(-180.0, 180.0), (179.9, 175.1)])
def test_cells_meet_at_the_date_line(east: float, west: float) -> None:
    assert cell_of((90.0, east), 5) == cell_of((90.0, west), 5)
    assert cell_of((0.0, 4.9), 5) != cell_of((0.0, 5.1), 5)


@given(strength=st.floats(0, 2), seed=st.integers(0, 1000))
def test_probabilities_stay_probabilities(strength: float, seed: int) -> None:
    probabilities, labels, sightings = drawn(seed, 30, season=True)
    probabilities[0] = torch.tensor([1.0, 0.0, 0.0])
    prior = count_prior(labels.tolist(), sightings, NAMES, 5.0)
    after = weighed(probabilities, prior.log_shares(sightings), strength)
    assert torch.allclose(after.sum(1), torch.ones(30, dtype=torch.float64))
    assert (after >= 0).all()


def test_a_file_gives_the_same_prior_again_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    prior, file = fitted(season=True), tmp_path / "prior.json"
    prior.save(file, {"val": {"loss": 0.5}})
    assert read_prior(file, NAMES) == prior
    with pytest.raises(
        UserError, match=r"is of 3 classes, the model has 2 others; make one for it"
    ):
        read_prior(file, NAMES[:2])
    text = file.read_text()
    for changed, why in (
        (text.replace('"strength": ', '"strength": 1'), "its sha256 does not match its content"),
        ("{}", "its sha256 does not match its content"),
        ("[1]", "it is no JSON object"),
        ("x", "Expecting value"),
    ):
        file.write_text(changed)
        with pytest.raises(UserError, match=f"is not what `python -m train.prior` writes: {why}"):
            read_prior(file, NAMES)
    with pytest.raises(UserError, match=r"cannot read --prior .*none.json: No such file"):
        read_prior(tmp_path / "none.json", NAMES)


@pytest.fixture
def table(tiny_shards: Path, tmp_path: Path) -> Callable[[tuple[str, ...]], Path]:
    """Each class has a month of its own."""

    def write(splits: tuple[str, ...]) -> Path:
        rows = ["file,date"]
        for name in splits:
            with ShardSet(tiny_shards).split(name) as split:
                for sample in range(len(split)):
                    path = split.metadata(sample)["path"]
                    rows.append(f"{path},2024-{MONTHS[path.partition('/')[0]]:02d}-08")
        file = tmp_path / "places.csv"
        file.write_text("\n".join(rows) + "\n")
        return file

    return write


def test_a_run_gets_a_prior_and_predict_uses_it_where_a_photograph_has_a_date(
    finished_run: Path, table: Any, command_line: Any, tmp_path: Path, photo: Any,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    file = tmp_path / "prior.json"
    ended = command_line(
        main, finished_run, "--places", table(("train", "val", "test")), "--out", file
    )
    assert ended.code == 0, ended.err
    assert "train: 24 of 24 photographs have a place or a date\n" in ended.out
    assert ", chosen on val\nval: OA " in ended.out
    content = json.loads(file.read_text())
    assert content["found"]["test"]["oa"] >= content["found"]["test"]["oa_before"]
    assert content["found"]["test"]["photographs"] == 6
    assert content["strength"] > 0

    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("dated.jpg", "from exif.jpg", "neither.jpg"):
        exif = Image.Exif()
        if name == "from exif.jpg":
            exif.get_ifd(0x8769)[0x9003] = "2024:05:08 12:00:00"
        Image.fromarray(photo(rng, 120, 100)).save(photos / name, exif=exif)
    dates = tmp_path / "dates.csv"
    dates.write_text("file,date\nphotos/dated.jpg,2024-09-08\n")
    plain = command_line(predict_main, finished_run, photos, "--format", "csv")
    with_prior = command_line(
        predict_main, finished_run, photos, "--format", "csv", "--prior", file, "--places", dates
    )
    assert with_prior.code == 0, with_prior.err
    assert (
        "prior: place or date known of 2 of 3 photographs; the others keep their prediction\n"
        in with_prior.err
    )
    before, after = (list(csv.DictReader(io.StringIO(each.out))) for each in (plain, with_prior))
    assert [row["prior"] for row in after] == ["season", "season", ""]
    assert after[2] == before[2]
    for row, was, favoured in (
        (after[0], before[0], "Cantharellus cibarius"), (after[1], before[1], "Boletus edulis"),
    ):  # fmt: skip
        assert chance(row, favoured) > chance(was, favoured)
    shown = command_line(predict_main, finished_run, photos, "--prior", file).out.splitlines()
    assert shown[0].endswith("; prior: no place or date, so none")
    assert shown[1].endswith("; prior: season")


def chance(row: dict[str, str], species: str) -> float:
    named = {row[f"species_{at}"]: float(row[f"probability_{at}"]) for at in (1, 2, 3)}
    return named[species]


def test_without_place_and_date_on_train_or_val_there_is_no_prior(
    finished_run: Path, table: Any, command_line: Any, tmp_path: Path
) -> None:
    ended = command_line(main, finished_run, "--out", tmp_path / "prior.json")
    assert ended.code == 2
    assert ended.err.startswith("error: no training photograph of ")
    assert "add some when packing (--add), or name a table of them with --places" in ended.err
    places = table(("train",))
    ended = command_line(main, finished_run, "--places", places, "--out", tmp_path / "prior.json")
    assert ended.code == 2
    assert "no photograph of val of " in ended.err
    assert "so no strength can be chosen; name a table of them with --places\n" in ended.err
    assert not (tmp_path / "prior.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--places", "x.csv"), "--places tells where photographs are from to a --prior, and there is none"),
        (("--prior", "x", "--conformal", "0.9"), "--conformal keeps its promise for the model's own "
         "probabilities; leave out it or --prior"),
        (("--prior", "x.json"), "cannot read --prior x.json: No such file or directory"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(
    finished_run: Path, command_line: Any, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    ended = command_line(predict_main, finished_run, tmp_path, *options)
    assert (ended.code, ended.err) == (2, f"error: {message}\n")
