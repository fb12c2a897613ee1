"""Temperature scaling and calibration error, against torchmetrics and what must hold."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from train.scores.calibration import (
    HIGHEST,
    LOWEST,
    WELL_CALIBRATED,
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)
from train.scores.outputs import Outputs


def draw_outputs(seed: int, images: int = 400, classes: int = 6, sharpness: float = 1.0) -> Outputs:
    """Of a model that is exactly as sure as it may be, times ``sharpness``."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return Outputs(sharpness * logits, labels, torch.arange(images))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_calibration_error_equals_torchmetrics(temperature: float) -> None:
    outputs = draw_outputs(0)
    theirs = multiclass_calibration_error(
        outputs.probabilities(temperature), outputs.labels, num_classes=6, n_bins=15, norm="l1"
    )
    assert calibration_error(reliability(outputs, temperature)) == pytest.approx(
        float(theirs), abs=1e-6
    )


def test_bins_hold_every_image_once_and_their_means_lie_inside() -> None:
    bins = reliability(draw_outputs(1))
    assert sum(each.images for each in bins) == 400
    for each in bins:
        assert each.images == 0 or each.low < each.confidence <= each.high
        assert 0 <= each.accuracy <= 1


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_a_known_sharpness(sharpness: float) -> None:
    outputs = draw_outputs(2, images=3000, sharpness=sharpness)
    assert fit_temperature(outputs, well_calibrated=0) == pytest.approx(sharpness, rel=0.08)
    assert fit_temperature(outputs) == pytest.approx(sharpness, rel=0.12)


def test_no_other_temperature_is_likelier() -> None:
    outputs = draw_outputs(3, sharpness=2.5)
    best = fit_temperature(outputs, well_calibrated=0)
    least = negative_log_likelihood(outputs, best)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert negative_log_likelihood(outputs, best * factor) > least


def test_scaling_changes_no_prediction_and_lowers_the_calibration_error() -> None:
    fitted_on, outputs = draw_outputs(4, sharpness=4), draw_outputs(5, sharpness=4)
    temperature = fit_temperature(fitted_on)
    probabilities = outputs.probabilities(temperature)
    assert torch.equal(probabilities.argmax(1), outputs.predictions)
    assert torch.allclose(probabilities.sum(1), torch.ones(400, dtype=torch.float64))
    plain, scaled = (calibration_error(reliability(outputs, each)) for each in (1.0, temperature))
    assert scaled < plain / 2


def test_scaling_lowers_the_likelihood_on_random_re_splits_of_an_overconfident_model() -> None:
    outputs = draw_outputs(6, sharpness=2)
    for seed in range(20):
        order = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(seed))
        val, test = (
            Outputs(outputs.logits[half], outputs.labels[half], half) for half in order.chunk(2)
        )
        scaled = negative_log_likelihood(test, fit_temperature(val))
        assert scaled < negative_log_likelihood(test)


def test_a_small_val_is_drawn_towards_one_and_a_large_one_is_not() -> None:
    small, large = (draw_outputs(7, images=images, sharpness=2.5) for images in (50, 20_000))
    for outputs, least, most in ((small, 1.05, 1.8), (large, 2.4, 2.6)):
        assert least < fit_temperature(outputs) < most
    for images in (0, 10, 100, 1000):
        assert fit_temperature(small, images) > fit_temperature(small, images + 10) > 1


def test_of_images_that_are_as_the_model_says_the_temperature_is_one() -> None:
    outputs = draw_outputs(8, images=100)
    assert fit_temperature(outputs, well_calibrated=10**9) == pytest.approx(1, abs=1e-5)


def test_what_a_small_val_spoils_for_other_images_is_far_less_than_with_the_likeliest() -> None:
    test = draw_outputs(9, images=1000, sharpness=1.2)
    plain = negative_log_likelihood(test)

    def changes(well_calibrated: int) -> torch.Tensor:
        vals = (draw_outputs(seed + 10, images=60, sharpness=1.2) for seed in range(40))
        temperatures = [fit_temperature(val, well_calibrated) for val in vals]
        return torch.tensor([negative_log_likelihood(test, each) for each in temperatures]) - plain

    drawn, likeliest = changes(WELL_CALIBRATED), changes(0)
    assert drawn.max() < likeliest.max() / 5
    assert drawn.mean() < 0.7 * likeliest.mean() < 0


@pytest.mark.parametrize(("right", "expected"), [(True, LOWEST), (False, HIGHEST)])
def test_a_model_that_is_always_or_never_right_gets_a_temperature_at_the_limit(
    right: bool, expected: float
) -> None:
    labels = torch.arange(3)
    logits = torch.eye(3) if right else 1 - torch.eye(3)
    outputs = Outputs(logits, labels, labels)
    assert fit_temperature(outputs, well_calibrated=0) == pytest.approx(expected)
    assert fit_temperature(outputs) == pytest.approx(1, rel=0.12)  # three images say little
