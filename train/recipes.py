"""Recipes: frozen, typed configurations of a run; any field can be overridden.

A recipe decides what is learned. The fields under "machine" decide how fast, and default to
``auto``: what they resolved to, and why, is printed and stored with the run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from loaders.augment import AugmentConfig
from loaders.config import AugmentBy, Backend, OnBadSample, Read, Resample
from loaders.plan import Sampling
from loaders.subset import Subset
from shards.errors import UserError, unknown_name
from shards.reader import Verify
from train.limits import LIMITS
from train.plain import from_plain

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run, but for the data."""

    recipe: str = "baseline"
    arch: str = "resnet101"

    epochs: int = 20
    batch_size: int = 128
    """Images an optimizer step, over all processes."""
    lr: float = 1e-3
    """Learning rate of the first epoch."""
    min_lr: float = 1e-6
    """Learning rate that the cosine would reach one epoch after the last."""
    weight_decay: float = 1e-4
    """Of AdamW, on all parameters."""
    label_smoothing: float = 0.0
    seed: int = 12345
    patience: int = 100
    """Epochs without a better val mIoU after which the run ends."""

    image_size: int = 384
    """Side of the training and evaluation crops [px]."""
    eval_resize: int | None = None
    """Shorter side before the evaluation crop [px]; by default 440/384 of the image size."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    resample: Resample = "antialias"
    """Of training images; evaluation always antialiases."""
    sampling: Sampling = "csv"
    epoch_size: int | None = None
    """Images an epoch; by default one pass over rows (``csv``) or photographs (the others)."""
    classes: tuple[str, ...] = ()
    holdout: tuple[str, ...] = ()
    """Class names; these two, and ``fold``, decide what is evaluated too."""
    fold: tuple[int, int] | None = None
    """``(I, N)``: fold I of the train split is kept out of training and takes the place of val."""
    mini: int | None = None
    """At most so many CSV rows of each class, drawn as the course draws them."""
    shots: int | None = None
    imbalance: float | None = None
    """``docs/plan.md`` explains all of these."""
    subset_seed: int = 0
    """Of fold, shots and imbalance."""
    drop_last: bool = False
    sync_batchnorm: bool = False
    """Whether several processes share the statistics of batch normalisation; on GPUs."""
    mean: tuple[float, float, float] = (0.4308, 0.4084, 0.3393)
    std: tuple[float, float, float] = (0.1063, 0.1023, 0.1123)
    """Of the RGB channels in [0, 1], subtracted and divided by before the model."""
    amp: Literal["bf16", "fp16"] = "bf16"
    """16-bit type of the recipe on a GPU."""

    device: str = "auto"
    precision: Precision = "auto"
    compile: Switch = "auto"
    loader: Backend = "auto"
    threads: int | None = None
    read: Read = "planned"
    augment_by: AugmentBy = "torchvision"
    verify: Verify = "first"
    on_bad_sample: OnBadSample = "error"
    reduced_decode: bool = False
    """``loaders/config.py`` explains these five."""

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {value}")
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}")
        _ = self.train_subset  # which refuses contradictions
        if self.eval_resize is not None and self.eval_resize < self.image_size:
            raise ValueError(
                f"eval_resize {self.eval_resize} is below image_size {self.image_size}"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, got {self.seed}")
        for name in ("lr", "min_lr", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")

    @property
    def train_subset(self) -> Subset:
        """The samples to train on, of the train split."""
        return replace(
            self.eval_subset("train"), mini=self.mini, shots=self.shots, imbalance=self.imbalance
        )

    def eval_subset(self, split: str) -> Subset:
        """The samples to evaluate on: the same classes, and the same side of a fold."""
        return Subset(
            classes=self.classes,
            holdout=self.holdout,
            fold=None if split == "test" else self.fold,
            fold_part="val" if split == "val" else "train",
            seed=self.subset_seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> TrainConfig:
        """The reverse of :meth:`to_dict`.

        Raises:
            UserError: A field that this version does not know, or of another type.
        """
        try:
            return from_plain(cls, content, "configuration")
        except (ValueError, OverflowError) as error:
            raise UserError(str(error)) from None


def baseline() -> TrainConfig:
    """What the published table used: the course's own recipe.

    ``python -m train --arch resnet101 --recipe baseline``: 20 epochs of the balanced CSV at 384 px,
    AdamW, cosine per epoch without warm-up, published test mIoU 75.2 after 16 h 43 min on one
    48 GB GPU. The README lists where this differs from the original.
    """
    return TrainConfig(recipe="baseline", amp="fp16")


RECIPES = {"baseline": baseline}


def create_recipe(name: str) -> TrainConfig:
    """The configuration of a recipe.

    Raises:
        UserError: No recipe of that name.
    """
    if name not in RECIPES:
        raise UserError(unknown_name("recipe", name, RECIPES))
    return RECIPES[name]()
