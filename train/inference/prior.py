"""How much more often a species was photographed at a place and in a season than others were.

With x the place and the season of a photograph, Bayes' rule multiplies the probability of each class by
p(x | class), to the power of a strength that val chose (:mod:`train.inference.prior_fit`). Place and season count as
independent given the class. Places are cells of latitude and longitude, seasons half months around the year;
in the southern hemisphere the year begins in July. Shares are smoothed towards those of all classes together
(a Dirichlet prior), so that a class of which little is known is neither here nor there. A geographical prior of
this kind: Mac Aodha et al., "Presence-Only Geographical Priors" (arXiv:1906.05272), who learn it by a network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from preprocess.sightings import Sighting, photo_sighting, places_by_file
from shards.errors import UserError
from shards.sealed_json import parse_object, seal, unseal
from shards.writer import write_file

SEASONS = 24
"""Parts of a year."""
DAYS = 366
KERNEL = ((-1, 0.25), (0, 0.5), (1, 0.25))
"""Neighbouring seasons share: two weeks earlier or later is nearly the same."""
SMOOTHING = 10.0
"""Photographs with the shares of all classes that stand beside those of a class."""
PRIOR_VERSION = 1

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Counts of training photographs, and how strongly they speak."""

    class_names: tuple[str, ...]
    cell: float
    """Side of a cell of latitude and longitude [degrees]."""
    seasons: tuple[tuple[int, ...], ...]
    """``(K, SEASONS)``: photographs of each class."""
    places: dict[str, tuple[int, ...]]
    """``(K,)`` photographs of each class by cell; cells without any are left out."""
    strength: float = 1.0
    """0 leaves probabilities as they are."""

    def log_shares(self, sightings: Sequence[Sighting]) -> torch.Tensor:
        """``(N, K)`` float64: log of how much more often than all classes each class is found there and then.

        0 for what is not known of a photograph, and for a place of which no photograph is known.
        """
        by_season = _log_shares(_around_the_year(np.array(self.seasons, np.float64)))
        cells = list(self.places)
        counts = np.array(list(self.places.values()), np.float64)
        by_place = _log_shares(counts.reshape(len(cells), len(self.class_names)).T)
        number = {cell: at for at, cell in enumerate(cells)}
        found = np.zeros((len(sightings), len(self.class_names)))
        for row, sighting in zip(found, sightings, strict=True):
            if sighting.day is not None:
                row += by_season[:, season_of(sighting)]
            if sighting.place is not None:
                at = number.get(cell_of(sighting.place, self.cell))
                if at is not None:
                    row += by_place[:, at]
        return torch.from_numpy(found)

    def applied(self, probabilities: torch.Tensor, sightings: Sequence[Sighting]) -> torch.Tensor:
        """``(N, K)`` float64 probabilities with place and season; rows of which nothing is known stay."""
        return weighed(probabilities, self.log_shares(sightings), self.strength)

    def save(self, file: Path, found: dict[str, Any]) -> None:
        """Write it, all or nothing.

        Args:
            file: JSON.
            found: What val and test say of it.
        """
        content = {"prior_version": PRIOR_VERSION, **asdict(self), "found": found}
        write_file(file, seal(content).encode())


def weighed(probabilities: torch.Tensor, log_shares: torch.Tensor, strength: float) -> torch.Tensor:
    """``(N, K)`` float64: probabilities times shares to a power, where the shares tell classes apart."""
    told = (log_shares != 0).any(1) & (strength > 0)
    after = (probabilities.clamp_min(1e-300).log() + strength * log_shares).softmax(1)
    return torch.where(told[:, None], after, probabilities)


def season_of(sighting: Sighting) -> int:
    """0 to SEASONS - 1; half a year on in the southern hemisphere."""
    assert sighting.day is not None
    south = sighting.place is not None and sighting.place[0] < 0
    return int((sighting.day - 1) * SEASONS / DAYS + south * SEASONS / 2) % SEASONS


def cell_of(place: tuple[float, float], cell: float) -> str:
    """Name of the cell of a place: the numbers of its row and column."""
    latitude, longitude = place
    row, column = math.floor((latitude + 90) / cell), math.floor((longitude + 180) % 360 / cell)
    return f"{row},{column}"


def _around_the_year(counts: Counts) -> Counts:
    smoothed = [weight * np.roll(counts, shift, axis=1) for shift, weight in KERNEL]
    return np.asarray(np.sum(smoothed, axis=0))


def _log_shares(counts: Counts) -> Counts:
    """``(K, X)``: log of p(x | class) / p(x), by counts of the same shape; 0 where x never was."""
    total = counts.sum()
    shares = counts.sum(0) / max(total, 1)
    of_class = (counts + SMOOTHING * shares) / (counts.sum(1, keepdims=True) + SMOOTHING)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(shares > 0, np.log(of_class / shares), 0.0)


def read_prior(file: Path, class_names: tuple[str, ...]) -> Prior:
    """What ``python -m train.prior`` wrote, for a model of the same classes.

    Raises:
        UserError: It is none, is damaged, or is of other classes.
    """
    try:
        content = unseal(parse_object(file.read_bytes()))
        version = content["prior_version"]
        if version != PRIOR_VERSION:
            raise ValueError(f"its version is {version}, expected {PRIOR_VERSION}")
        prior = Prior(
            class_names=tuple(content["class_names"]),
            cell=float(content["cell"]),
            seasons=tuple(map(tuple, content["seasons"])),
            places={cell: tuple(counts) for cell, counts in content["places"].items()},
            strength=float(content["strength"]),
        )
    except OSError as error:
        raise UserError(f"cannot read --prior {file}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"--prior {file} is not what `python -m train.prior` writes: {why}; write it anew"
        ) from None
    if prior.class_names != class_names:
        raise UserError(
            f"--prior {file} is of {len(prior.class_names)} classes, the model has {len(class_names)} "
            "others; make one for it with `python -m train.prior`"
        )
    return prior


@dataclass(frozen=True, slots=True)
class PhotoPrior:
    """A prior for photographs as they lie on a disk."""

    prior: Prior
    places: Mapping[str, Sighting]
    """By absolute path; EXIF comes second."""

    def applied(
        self, probabilities: torch.Tensor, photos: Sequence[Path]
    ) -> tuple[torch.Tensor, list[str]]:
        """``(N, K)`` probabilities with the prior, and what it knew of each of N photographs."""
        sightings = [photo_sighting(photo, self.places) for photo in photos]
        return self.prior.applied(probabilities, sightings), list(map(str, sightings))

    def summary(self, informed: int, answered: int) -> str:
        """A line about all photographs."""
        line = (
            f"prior: place or date known of {informed:,} of {answered:,} photographs; the others "
            "keep their prediction"
        )
        if not self.prior.strength:
            line += "; its strength is 0, as val chose, so all do"
        return line


def open_prior(file: Path, class_names: tuple[str, ...], tables: Iterable[Path]) -> PhotoPrior:
    """Read a prior and the tables of photographs.

    Raises:
        UserError: One of them is not what it should be.
    """
    return PhotoPrior(read_prior(file, class_names), places_by_file(tables))
