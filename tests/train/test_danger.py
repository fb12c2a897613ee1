"""Dangerous confusions and their price on six species, worked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from train.scores.danger import SURE, dangers
from train.scores.outputs import Outputs
from train.scores.species import taxonomy_of

ALBA, NIGRA, RUBRA, VIRIDIS, FLAVA, LUTEA = range(6)


def outputs_of(*rows: tuple[int, dict[int, float]]) -> Outputs:
    """``(true class, probabilities of some classes)``; the rest is shared by the others."""
    probabilities = torch.empty(len(rows), 6, dtype=torch.float64)
    for at, (_, given) in enumerate(rows):
        probabilities[at] = (1 - sum(given.values())) / (6 - len(given))
        for label, probability in given.items():
            probabilities[at, label] = probability
    labels = torch.tensor([label for label, _ in rows])
    return Outputs(probabilities.log(), labels, torch.arange(len(rows)))


@pytest.fixture
def outputs() -> Outputs:
    return outputs_of(
        (NIGRA, {ALBA: 0.60, NIGRA: 0.36}),  # deadly, called edible, 61 % sure
        (NIGRA, {ALBA: 0.70, VIRIDIS: 0.26}),  # deadly, called edible, 96 % sure
        (NIGRA, {NIGRA: 0.90}),
        (RUBRA, {VIRIDIS: 0.55, RUBRA: 0.41}),  # poisonous, called edible, 56 % sure
        (RUBRA, {FLAVA: 0.90}),  # wrong, but a species to be cautious with is not called edible
        (ALBA, {ALBA: 0.995}),
        (ALBA, {ALBA: 0.75, NIGRA: 0.21}),  # right, 76 % sure
        (ALBA, {VIRIDIS: 0.99}),  # wrong species, still edible
        (FLAVA, {ALBA: 0.80, FLAVA: 0.16}),  # wrong, not counted as dangerous
        (LUTEA, {LUTEA: 0.90}),
    )


def test_dangerous_confusions_worked_by_hand(
    outputs: Outputs, tree: Path, tree_names: tuple[str, ...]
) -> None:
    result = dangers(outputs, taxonomy_of(tree_names, tree), 1.0)
    assert result is not None
    assert result.images == 5
    assert result.confusions == ((NIGRA, ALBA, 2), (RUBRA, VIRIDIS, 1))
    plain = result.plain
    assert (plain.sure, plain.dangerous, plain.rate) == (0, 3, 3 / 5)
    assert plain.edible_found == 1
    assert plain.oa == pytest.approx(4 / 10)
    assert plain.interval.low < 3 / 5 < plain.interval.high


@pytest.mark.parametrize(
    ("sure", "dangerous", "edible_found", "oa"),
    [
        (0.0, 3, 3 / 3, 4 / 10),
        (0.5, 3, 3 / 3, 4 / 10),
        (0.6, 2, 3 / 3, 4 / 10),  # the poisonous one goes
        (0.7, 1, 3 / 3, 4 / 10),
        (0.8, 1, 2 / 3, 3 / 10),  # and with the next step the edible one that was right
        (0.95, 1, 2 / 3, 3 / 10),
        (0.98, 0, 2 / 3, 3 / 10),
        (0.999, 0, 0, 2 / 10),
    ],
)
def test_the_price_of_caution_worked_by_hand(
    outputs: Outputs, tree: Path, tree_names: tuple[str, ...],
    sure: float, dangerous: int, edible_found: float, oa: float,
) -> None:  # fmt: skip
    result = dangers(outputs, taxonomy_of(tree_names, tree), 1.0)
    assert result is not None
    price = result.prices[SURE.index(sure)]
    assert price.sure == sure
    assert price.dangerous == dangerous
    assert price.edible_found == pytest.approx(edible_found)
    assert price.oa == pytest.approx(oa)


def test_more_caution_is_never_more_dangerous_nor_more_accurate(
    tree: Path, tree_names: tuple[str, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 6, generator=generator)
    labels = torch.randint(6, (500,), generator=generator)
    result = dangers(Outputs(logits, labels, labels), taxonomy_of(tree_names, tree), 2.0)
    assert result is not None
    for before, after in zip(result.prices, result.prices[1:], strict=False):
        assert after.dangerous <= before.dangerous
        assert after.oa <= before.oa
        assert after.edible_found <= before.edible_found
    assert result.prices[-1].dangerous < result.plain.dangerous


def test_a_lower_temperature_makes_surer(
    outputs: Outputs, tree: Path, tree_names: tuple[str, ...]
) -> None:
    taxonomy = taxonomy_of(tree_names, tree)
    at = SURE.index(0.8)
    cold, warm = (dangers(outputs, taxonomy, each) for each in (0.2, 5.0))
    assert cold is not None
    assert warm is not None
    assert cold.prices[at].dangerous == cold.plain.dangerous == 3
    assert warm.prices[at].dangerous == 0


@pytest.mark.parametrize("labels", [[0, 3], [4, 5]])
def test_without_a_dangerous_image_there_is_no_rate(
    tree: Path, tree_names: tuple[str, ...], labels: list[int]
) -> None:
    outputs = Outputs(torch.zeros(2, 6), torch.tensor(labels), torch.arange(2))
    assert dangers(outputs, taxonomy_of(tree_names, tree), 1.0) is None


def test_without_edibilities_there_is_no_rate() -> None:
    outputs = Outputs(torch.zeros(2, 2), torch.tensor([0, 1]), torch.arange(2))
    assert dangers(outputs, taxonomy_of(["Bluebell", "Crocus"]), 1.0) is None
