"""MixUp and CutMix: the Beta distribution, draws that ranks share, and what the device makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loaders.augment import AugmentConfig
from loaders.mixing import Mixing, beta_quantile, draw_mixing, mix

SIZE = 32
MANY = 4000
BOTH = AugmentConfig(mixup_prob=0.4, cutmix_prob=0.4)
ALPHAS = st.sampled_from([0.05, 0.2, 0.5, 1.0, 2.0, 8.0]) | st.floats(0.01, 100)


def draw(config: AugmentConfig = BOTH, count: int = 8, **at: int) -> Mixing:
    place = {"seed": 1, "epoch": 0, "first_position": 0} | at
    mixing = draw_mixing(config, count=count, image_size=SIZE, **place)
    assert mixing is not None
    return mixing


def batch(count: int = 8, dtype: torch.dtype = torch.uint8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, SIZE, SIZE, 3), generator=generator).to(dtype)
    return images.permute(0, 3, 1, 2), torch.arange(count)


class TestBetaQuantile:
    """Against the three distributions that have a closed form, and moments of the others."""

    levels = np.linspace(0, 1, 20_001)[:-1]

    def test_alpha_1_is_uniform(self) -> None:
        np.testing.assert_array_equal(beta_quantile(self.levels, 1.0), self.levels)

    def test_alpha_one_half_is_the_arcsine_distribution(self) -> None:
        expected = np.sin(np.pi * self.levels / 2) ** 2
        np.testing.assert_allclose(beta_quantile(self.levels, 0.5), expected, atol=1e-6)

    def test_alpha_2_inverts_its_polynomial(self) -> None:
        points = beta_quantile(self.levels, 2.0)
        np.testing.assert_allclose(3 * points**2 - 2 * points**3, self.levels, atol=1e-6)

    @given(alpha=ALPHAS)
    def test_values_rise_from_0_to_1_with_mean_and_variance_of_beta(self, alpha: float) -> None:
        middles = self.levels + 0.5 / len(self.levels)
        points = beta_quantile(middles, alpha)
        assert np.all(np.diff(points) >= 0)
        assert 0 <= points[0] <= points[-1] <= 1
        assert points.mean() == pytest.approx(0.5, abs=1e-6)
        assert points.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-3)

    @given(alpha=ALPHAS)
    def test_the_lower_half_mirrors_the_upper(self, alpha: float) -> None:
        levels = np.linspace(0.001, 0.499, 100)
        np.testing.assert_allclose(
            beta_quantile(levels, alpha), 1 - beta_quantile(1 - levels, alpha), atol=1e-12
        )


class TestDraws:
    def test_probabilities_0_draw_nothing(self) -> None:
        place = {"seed": 1, "epoch": 0, "first_position": 0, "count": 8, "image_size": SIZE}
        assert draw_mixing(AugmentConfig(), **place) is None

    def test_both_kinds_occur_with_their_probabilities_and_never_together(self) -> None:
        mixing = draw(AugmentConfig(mixup_prob=0.3, cutmix_prob=0.2, cutmix_alpha=0.5), MANY)
        blended, boxed = mixing.blends < 1, mixing.boxes[:, 2:].all(axis=1)
        mixed = mixing.partners != np.arange(MANY)
        assert abs(blended.mean() - 0.3) < 0.03
        assert abs(mixed.mean() - 0.5) < 0.03
        assert not (blended & boxed).any()
        assert not (boxed & ~mixed).any()

    def test_a_label_weighs_as_much_as_the_pixels_that_are_left_of_its_image(self) -> None:
        mixing = draw(count=200)
        ones = torch.ones(200, 3, SIZE, SIZE)
        ones[1::2] = 0  # every partner of a one is a zero
        left = mix(ones, torch.arange(200), mixing).images[::2].mean(dim=(1, 2, 3))
        np.testing.assert_allclose(left, mixing.label_weights[::2], atol=1e-5)

    def test_mixup_weights_follow_beta(self) -> None:
        weights = draw(AugmentConfig(mixup_prob=1, mixup_alpha=0.4), MANY).blends
        expected = beta_quantile((np.arange(MANY) + 0.5) / MANY, 0.4)
        assert np.abs(np.sort(weights) - expected).max() < 0.05

    def test_boxes_lie_inside_the_image_and_are_as_large_as_drawn_unless_cut_off(self) -> None:
        mixing = draw(AugmentConfig(cutmix_prob=1), MANY)
        top, left, height, width = mixing.boxes.T
        assert np.all((top >= 0) & (left >= 0) & (height >= 0) & (width >= 0))
        assert np.all((top + height <= SIZE) & (left + width <= SIZE))
        whole = (top > 0) & (left > 0) & (top + height < SIZE) & (left + width < SIZE)
        np.testing.assert_array_equal(height[whole], width[whole])

    @pytest.mark.parametrize(("batch_size", "ranks"), [(16, 2), (16, 4), (24, 3), (12, 6)])
    def test_ranks_mix_the_same_images_as_one_process(self, batch_size: int, ranks: int) -> None:
        whole = draw(count=batch_size, first_position=2 * batch_size)
        share = batch_size // ranks
        for rank in range(ranks):
            first = rank * share
            part = draw(count=share, first_position=2 * batch_size + first)
            rows = slice(first, first + share)
            np.testing.assert_array_equal(part.partners + first, whole.partners[rows])
            np.testing.assert_array_equal(part.blends, whole.blends[rows])
            np.testing.assert_array_equal(part.boxes, whole.boxes[rows])

    @given(first=st.integers(0, 2**40), count=st.integers(0, 9))
    def test_partners_pair_neighbours_and_leave_the_odd_one_alone(
        self, first: int, count: int
    ) -> None:
        always = AugmentConfig(mixup_prob=1)
        partners = draw(always, count, first_position=first).partners
        for at, partner in enumerate(partners.tolist()):
            assert 0 <= partner < count
            assert partners[partner] == at
            assert (first + at) // 2 == (first + partner) // 2
        assert (partners == np.arange(count)).sum() <= 2

    @pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 1}, {"first_position": 200}])
    def test_seed_epoch_and_position_each_give_other_draws(self, change: dict[str, int]) -> None:
        one, other = draw(count=200), draw(count=200, **change)
        assert not np.array_equal(one.blends, other.blends)
        assert not np.array_equal(one.boxes, other.boxes)

    def test_draws_are_the_same_on_every_machine(self) -> None:
        mixing = draw(count=4, seed=12345, epoch=3, first_position=100)
        assert mixing.partners.tolist() == [1, 0, 3, 2]
        np.testing.assert_allclose(mixing.blends, [1, 1, 0.9816, 1], atol=1e-4)
        assert mixing.boxes.tolist() == [
            [19, 0, 13, 12], [4, 17, 20, 15], [0, 0, 0, 0], [0, 0, 27, 23]
        ]  # fmt: skip


def expected_mix(images: torch.Tensor, mixing: Mixing) -> npt.NDArray[np.float64]:
    """By the definition, an image at a time."""
    pixels = images.double().numpy()
    mixed = np.empty_like(pixels)
    for at, partner in enumerate(mixing.partners):
        weight = float(mixing.blends[at])
        mixed[at] = weight * pixels[at] + (1 - weight) * pixels[partner]
        top, left, height, width = mixing.boxes[at]
        box = np.s_[:, top : top + height, left : left + width]
        mixed[at][box] = pixels[partner][box]
    return mixed


class TestMix:
    @pytest.mark.parametrize(
        ("dtype", "tolerance"),
        [(torch.uint8, 0.5001), (torch.float32, 1e-4), (torch.float64, 1e-4), (torch.bfloat16, 1)],
    )
    def test_images_are_mixed_as_defined_and_keep_dtype_and_memory_format(
        self, dtype: torch.dtype, tolerance: float
    ) -> None:
        images, labels = batch(40, dtype)
        mixing = draw(count=40)
        before = images.clone()
        mixed = mix(images, labels, mixing).images
        assert mixed.dtype == dtype
        assert mixed.is_contiguous(memory_format=torch.channels_last)
        assert np.abs(mixed.double().numpy() - expected_mix(images, mixing)).max() <= tolerance
        assert torch.equal(images, before)

    def test_labels_are_the_own_and_the_partners(self) -> None:
        images, labels = batch(40)
        mixing = draw(count=40)
        mixed = mix(images, labels, mixing)
        assert torch.equal(mixed.labels_a, labels)
        assert mixed.labels_b.tolist() == mixing.partners.tolist()
        assert mixed.lam.dtype == torch.float32
        np.testing.assert_array_equal(mixed.lam, mixing.label_weights)

    def test_where_no_image_is_drawn_the_batch_is_the_same_object(self) -> None:
        images, labels = batch()
        rarely = AugmentConfig(mixup_prob=1e-12, cutmix_prob=1e-12)
        mixed = mix(images, labels, draw(rarely))
        assert mixed.images is images
        assert torch.equal(mixed.labels_b, labels)
        assert mixed.lam.tolist() == [1.0] * 8

    def test_an_image_without_its_neighbour_stays_as_it_is(self) -> None:
        images, labels = batch(3)
        mixed = mix(images, labels, draw(AugmentConfig(mixup_prob=1, mixup_alpha=5), 3))
        assert torch.equal(mixed.images[2], images[2])
        assert not torch.equal(mixed.images[0], images[0])
        assert mixed.lam[2] == 1

    def test_an_empty_share_of_a_batch_passes(self) -> None:
        images, labels = batch(0)
        assert mix(images, labels, draw(count=0)).images.shape == (0, 3, SIZE, SIZE)

    @pytest.mark.parametrize("shape", [(7, 3, SIZE, SIZE), (8, 3, SIZE, 2 * SIZE)])
    def test_a_mixing_of_another_batch_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"the mixing is for 8 images of 32 px, got .*shape"):
            mix(torch.zeros(shape), torch.zeros(shape[0]), draw())

    def test_the_mixed_loss_is_that_of_the_soft_labels(self) -> None:
        images, labels = batch(20)
        mixed = mix(images, labels, draw(count=20))
        logits = torch.randn(20, 20, generator=torch.Generator().manual_seed(2))
        soft = torch.zeros(20, 20)
        rows = torch.arange(20)
        soft[rows, mixed.labels_a] += mixed.lam
        soft[rows, mixed.labels_b] += 1 - mixed.lam
        losses: list[Any] = [
            torch.nn.functional.cross_entropy(logits, each, reduction="none")
            for each in (mixed.labels_a, mixed.labels_b, soft)
        ]
        torch.testing.assert_close(mixed.lam * losses[0] + (1 - mixed.lam) * losses[1], losses[2])
