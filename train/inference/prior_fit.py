"""A prior by place and season: counted on train, its strength chosen on val, tried on test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from preprocess.sightings import Sighting, sighting_of
from shards.errors import UserError
from shards.reader import ShardSet
from train.inference.photos import counted
from train.inference.prior import SEASONS, Prior, cell_of, season_of, weighed
from train.inference.trained import Trained
from train.method.batches import count_eval_images, stored_split
from train.scores.intervals import Bootstrap, interval
from train.scores.outputs import Outputs

STRENGTHS = tuple(step / 20 for step in range(41))
"""That val chooses from; with 1, place and season are taken at their word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What a strength does on photographs of which place or date is known."""

    photographs: int
    strength: float
    loss_before: float
    """Mean of -log(probability of the true class) [nats]."""
    loss: float
    oa_before: float
    oa: float
    loss_fell_by: tuple[float, float]
    """95 % interval of the mean."""
    oa_rose_by: tuple[float, float]
    """The same."""

    def __str__(self) -> str:
        low, high = self.oa_rose_by
        fell, to = self.loss_fell_by
        return (
            f"OA {self.oa_before:.4f} without, {self.oa:.4f} with (95 %: {low:+.4f} to {high:+.4f}); "
            f"loss {self.loss_before:.4f} without, {self.loss:.4f} with (less by {fell:.4f} to "
            f"{to:.4f}); {counted(self.photographs)}"
        )


def count_prior(
    labels: list[int], sightings: list[Sighting], class_names: tuple[str, ...], cell: float
) -> Prior:
    """Count the photographs of each class by season and by cell.

    Args:
        labels: Of N training photographs.
        sightings: Of the same.
        class_names: Of the K classes.
        cell: Side of a cell [degrees].
    """
    seasons = np.zeros((len(class_names), SEASONS), np.int64)
    places: dict[str, list[int]] = {}
    for label, sighting in zip(labels, sightings, strict=True):
        if sighting.day is not None:
            seasons[label, season_of(sighting)] += 1
        if sighting.place is not None:
            name = cell_of(sighting.place, cell)
            places.setdefault(name, [0] * len(class_names))[label] += 1
    return Prior(
        class_names=class_names,
        cell=cell,
        seasons=tuple(map(tuple, seasons.tolist())),
        places={name: tuple(counts) for name, counts in sorted(places.items())},
    )


def choose_strength(
    prior: Prior, probabilities: torch.Tensor, labels: torch.Tensor, sightings: list[Sighting]
) -> Prior:
    """The prior with the strength of the lowest loss on val; 0 unless the 95 % interval of its gain is above 0.

    Args:
        prior: Counted on train.
        probabilities: ``(N, K)`` of val, calibrated as predict's are.
        labels: ``(N,)``.
        sightings: Of the same photographs.
    """
    log_shares = prior.log_shares(sightings)
    losses = [
        float(_losses(weighed(probabilities, log_shares, each), labels).mean())
        for each in STRENGTHS
    ]
    chosen = replace(prior, strength=STRENGTHS[int(np.argmin(losses))])
    if gain_of(chosen, probabilities, labels, sightings).loss_fell_by[0] <= 0:
        return replace(prior, strength=0.0)
    return chosen


def gain_of(
    prior: Prior, probabilities: torch.Tensor, labels: torch.Tensor, sightings: list[Sighting]
) -> Gain:
    """What a prior does to probabilities; arguments as in :func:`choose_strength`."""
    after = prior.applied(probabilities, sightings)
    draws = Bootstrap(len(labels))
    losses = [_losses(each, labels) for each in (probabilities, after)]
    right = [(each.argmax(1) == labels).double() for each in (probabilities, after)]
    fell = interval(draws.means((losses[0] - losses[1]).numpy()))
    rose = interval(draws.means((right[1] - right[0]).numpy()))
    return Gain(
        photographs=len(labels),
        strength=prior.strength,
        loss_before=float(losses[0].mean()),
        loss=float(losses[1].mean()),
        oa_before=float(right[0].mean()),
        oa=float(right[1].mean()),
        loss_fell_by=(fell.low, fell.high),
        oa_rose_by=(rose.low, rose.high),
    )


def _losses(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -probabilities.gather(1, labels[:, None])[:, 0].clamp_min(1e-300).log()


@dataclass(frozen=True, slots=True)
class Sighted:
    """Samples of a split, and what is known of place and date of each."""

    labels: list[int]
    sightings: list[Sighting]
    ids: list[int]

    def known(self) -> Sighted:
        """Those of which anything is known."""
        kept = [at for at, each in enumerate(self.sightings) if each]
        return Sighted(
            [self.labels[at] for at in kept],
            [self.sightings[at] for at in kept],
            [self.ids[at] for at in kept],
        )


def sighted(trained: Trained, split: str, places: Mapping[str, Sighting]) -> Sighted:
    """The samples of a split of the run, each once.

    Args:
        trained: The model, on its shard set.
        split: ``train``, ``val`` or ``test``.
        places: Of paths as samples have them; a sample's own ``.json`` comes second.
    """
    config = trained.saved.config
    subset = config.train_subset if split == "train" else config.eval_subset(split)
    with ShardSet(trained.source.directory).split(stored_split(config, split)) as stored:
        ids = np.flatnonzero(subset.repeats(stored)).tolist()
        known = [stored.metadata(each) for each in ids]
        labels = stored.labels[ids].tolist()
    return Sighted(labels, [places.get(each["path"]) or sighting_of(each) for each in known], ids)


def fit_prior(
    trained: Trained, places: Mapping[str, Sighting], cell: float
) -> tuple[Prior, dict[str, Any], list[str]]:
    """Count, choose, try.

    Args:
        trained: The model, on its shard set.
        places: As in :func:`sighted`.
        cell: Side of a cell [degrees].

    Returns:
        The prior; what val and test say of it, for JSON; the same in lines.

    Raises:
        UserError: No photograph of train, or none of val, has a place or a date.
    """
    source, saved = trained.source, trained.saved
    train = sighted(trained, "train", places)
    counted_on = train.known()
    if not counted_on.ids:
        raise UserError(
            f"no training photograph of {source} has a place or a date; add some when packing (--add), or "
            "name a table of them with --places"
        )
    prior = count_prior(counted_on.labels, counted_on.sightings, saved.class_names, cell)
    lines = [f"train: {_of(counted_on, train)} have a place or a date"]
    found: dict[str, Any] = {"train": len(counted_on.ids)}
    for split in ("val", "test"):
        there = bool(count_eval_images(saved.config, source.directory, split))
        every = sighted(trained, split, places) if there else Sighted([], [], [])
        some = every.known()
        if not some.ids:
            if split == "val":
                raise UserError(
                    f"no photograph of val of {source} has a place or a date, so no strength can be "
                    "chosen; name a table of them with --places"
                )
            continue
        probabilities, labels = _probabilities(
            trained.evaluate(split)[1], some, saved.progress.temperature or 1.0
        )
        if split == "val":
            prior = choose_strength(prior, probabilities, labels, some.sightings)
            lines.append(f"strength {prior.strength:g}, chosen on val")
            if not prior.strength:
                lines.append(
                    "no strength makes val's loss surely less: predictions stay as they are"
                )
        gain = gain_of(prior, probabilities, labels, some.sightings)
        lines.append(f"{split}: {gain}")
        found[split] = asdict(gain)
    return prior, found, lines


def _probabilities(
    outputs: Outputs, some: Sighted, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(N, K)`` and ``(N,)``: probabilities as predict has them, and labels, of some samples."""
    place = {int(each): at for at, each in enumerate(outputs.ids)}
    rows = torch.tensor([place[each] for each in some.ids])
    return outputs.probabilities(temperature)[rows], outputs.labels[rows]


def _of(some: Sighted, every: Sighted) -> str:
    return f"{len(some.ids):,} of {counted(len(every.ids))}"
