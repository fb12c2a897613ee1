"""The configuration of a run: everything that decides it, but for the data.

One name is a field here, an option of ``python -m train``, a key of a TOML file and, in capitals behind
``HYPHAE_TRAIN_``, an environment variable; the text behind a field is the help of its option.
``docs/training.md``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any, Literal

from loaders.augment import AugmentConfig
from loaders.config import AugmentBy, Backend, OnBadSample, Read, Resample
from loaders.plan import Sampling
from loaders.subset import Subset
from shards.errors import UserError
from shards.plain import from_plain
from shards.reader import Verify
from train.config.limits import LIMITS, check_limits

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine-epoch", "cosine", "linear", "constant"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
MemoryFormat = Literal["auto", "channels_last", "contiguous"]
Switch = Literal["auto", "on", "off"]
Head = Literal["random", "fitted", "only"]
HierarchyLoss = Literal["none", "soft-labels", "prototypes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What is learned, for how long, from which samples; under "machine", how fast.

    The fields under "machine" default to ``auto``: what that became, and why, is printed and stored
    with the run.
    """

    recipe: str = "baseline"
    """What all other fields start from."""
    arch: str = "resnet101"
    """A classification model of torchvision, else of timm; timm:NAME is timm's own."""

    # Where it starts; docs/recipes.md
    weights: str | None = None
    """What the network starts from: imagenet, or a file of weights (.pt, .safetensors); none: random."""
    finetune_from: str | None = None
    """A run folder or checkpoint to start from, of hyphae or of the course; decides arch as well."""
    head: Head = "random"
    """How the last layer begins. fitted: to the features of the network as it starts, and then all
    layers train; only: fitted, and nothing else is trained."""
    backbone_lr: float = 1.0
    """Learning rate of all layers but the last, as a share of lr."""

    # How long
    epochs: int = 20
    """Passes over the training samples. With samples or budget: how often cosine-epoch falls."""
    samples: int | None = None
    """Training images of the run, in place of epochs."""
    budget: float | None = None
    """Time of the run, all in all, in place of epochs: 90s, 45m, 2h30m."""
    eval_every: float = 1.0
    """Epochs from one evaluation of val to the next; may be a fraction."""
    patience: int | None = 100
    """Evaluations of val without a better mIoU after which the run ends; none: it goes to its end, as
    with samples or budget unless patience is given beside them."""

    # Steps
    batch_size: int = 128
    """Images an optimizer step, over all processes."""
    optimizer: Optimizer = "adamw"
    """sgd has Nesterov's momentum."""
    lr: float = 1e-3
    """Largest learning rate."""
    min_lr: float = 1e-6
    """Learning rate that the schedule falls to; cosine-epoch would be there one epoch after the last."""
    schedule: Schedule = "cosine-epoch"
    """How the rate falls: by a cosine once an epoch, by a cosine or a line at each step, or not."""
    warmup: float = 0.0
    """Share of the run in which the rate rises from 0 by a line; not with cosine-epoch."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 1e-4
    """Of the optimizer."""
    decay_norm_and_bias: bool = True
    """Whether weight decay acts on biases and the parameters of normalisation, too."""
    clip_norm: float | None = None
    """Largest norm of all gradients together; longer ones are shortened."""
    label_smoothing: float = 0.0
    """Share of a label's weight that is spread over all classes."""
    logit_adjust: float = 0.0
    """Strength of logit adjustment: at 1, the network learns to answer as if all classes were equally
    frequent, however often training shows them; 0: not at all."""
    class_balance: float = 0.0
    """How far the loss of an image counts by the rarity of its class: 0: all alike; towards 1: in
    inverse proportion to the photographs of its class."""
    hierarchy_loss: HierarchyLoss = "none"
    """What the loss makes of the tree of the species. soft-labels: near species get a part of each
    label; prototypes: the last layer holds a point for each class, and near species near points."""
    hierarchy_beta: float = 10.0
    """With soft-labels: how fast a species' part falls with its distance in the tree."""
    hierarchy_weight: float = 1.0
    """With prototypes: weight of how far they are from lying as in the tree."""
    species: str | None = None
    """With a hierarchy_loss: species table, a CSV with the columns of train/data/species.csv; none:
    that file."""
    ema: float | None = None
    """Evaluate and keep an exponential moving average of the weights: share of it that a step
    keeps, such as 0.999. none: the weights themselves."""
    stochastic_depth: float | None = None
    """Probability with which the last residual branch is left out of a step; rises to it from 0 at
    the first. none: what the architecture comes with."""
    zero_init: bool = False
    """Whether residual branches begin as nothing: the last norm of each starts at 0."""
    freeze_norm: bool = False
    """Whether batch normalisation keeps the means and variances that the network starts with, as it
    has them at evaluation; its scales and shifts are trained."""
    seed: int = 12345
    """Of weights, order and augmentation."""

    # Images
    image_size: int = 384
    """Side of the crops at evaluation, and in training unless train_size is another [px]."""
    train_size: int | None = None
    """Side of the training crops, at the end of the run where start_size is given [px]."""
    start_size: int | None = None
    """Side of the training crops at first; grows in at most four sizes [px]."""
    eval_resize: int | None = None
    """Shorter side before the evaluation crop [px]; none: 440/384 of the image size."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    resample: Resample = "antialias"
    """Of training images: linear is faster, antialias equals Pillow."""
    mean: tuple[float, float, float] = (0.4308, 0.4084, 0.3393)
    """Of the RGB channels in [0, 1], subtracted before the network."""
    std: tuple[float, float, float] = (0.1063, 0.1023, 0.1123)
    """What the RGB channels are divided by after that."""

    # Samples; docs/plan.md explains them
    sampling: Sampling = "csv"
    """csv: every row, repeats included; natural: each photograph once; balanced: as many images of
    each class; sqrt: in proportion to the square root of its photographs."""
    epoch_size: int | None = None
    """Images an epoch; none: one pass."""
    classes: tuple[str, ...] = ()
    """A,B or @FILE with one a line: train and evaluate on these classes alone."""
    holdout: tuple[str, ...] = ()
    """A,B or @FILE: on all classes but these."""
    fold: tuple[int, int] | None = None
    """I/N: keep fold I of N (0 to N-1) out of the training photographs and use it as val."""
    mini: int | None = None
    """At most so many CSV rows of each class, drawn as the course draws them."""
    shots: int | None = None
    """Exactly so many photographs a class."""
    imbalance: float | None = None
    """A long tail: the largest class has so many times the photographs of the smallest."""
    subset_seed: int = 0
    """Of fold, shots and imbalance."""
    drop_last: bool = False
    """Whether the last, short batch of an epoch is left out."""
    sync_batchnorm: bool = False
    """With torchrun on GPUs: batch statistics over all processes, not each one's own."""

    # Machine
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Precision = "auto"
    """Of the step."""
    amp: Literal["bf16", "fp16"] = "bf16"
    """What precision auto is on a GPU."""
    memory_format: MemoryFormat = "auto"
    """Of weights and activations: channels_last is NHWC, contiguous is NCHW."""
    compile: Switch = "auto"
    """torch.compile."""
    compile_mode: Literal["auto", "default", "max-autotune-no-cudagraphs"] = "auto"
    """What torch.compile tries; auto: default, or what bench tune found here."""
    micro_batch: int | None = None
    """Images that pass through the network at once, where a batch is too many: gradients add up.
    auto: what bench tune found here for this arch, image size and batch; else on a GPU what fits into
    its memory, and the batch elsewhere."""
    loader: Backend = "auto"
    """opencv: CPU threads; dali: on the GPU; dali-cpu: its cross-check; torchvision: the reference;
    webdataset: whole shards in turn, with sampling natural; synthetic: no images, for timing only."""
    threads: int | None = None
    """Of the loader, and on a CPU of the network; auto: the cores that are allowed, or what bench
    tune found here, like the two below."""
    prefetch: int | None = None
    """Batches that the loader makes ahead; auto: 3."""
    hw_decoder_load: float | None = None
    """With loader dali: share of the JPEGs for the decoder engines of the chip; auto: 0.65."""
    read: Read = "planned"
    """With loader dali or dali-cpu. sequential: shard after shard, for slow disks."""
    augment_by: AugmentBy = "torchvision"
    """With loader torchvision: its own transforms, or (plan) those of the other loaders."""
    verify: Verify = "first"
    """When the check sum of a stored photograph is looked at: at each use, at its first, never."""
    on_bad_sample: OnBadSample = "error"
    """A damaged photograph ends the run, or (skip) the next planned one is shown instead."""
    reduced_decode: bool = False
    """opencv decodes smaller where the crop allows: faster, other pixels."""

    # Looking on, and finding faults; docs/logging.md
    wandb: bool = False
    """Weights & Biases beside TensorBoard."""
    overfit_batches: int | None = None
    """Train on the first N batches alone, always the same pixels, and take them for val, too."""
    fast_dev_run: bool = False
    """One training step and one batch of val, in a folder that is removed
    unless --out names one: does it work?"""
    profile: bool = False
    """Watch a few steps with torch's profiler: a trace in the run folder, and what took the time."""
    deterministic: bool = False
    """Refuse operations whose result may differ from run to run on the same machine."""

    def __post_init__(self) -> None:
        for name in LIMITS:
            check_limits(name, getattr(self, name))
        if self.samples is not None and self.budget is not None:
            raise ValueError("samples and budget both say how long the run is; give one of them")
        if not all(-inf < each < inf for each in self.mean):
            numbers = ",".join(map(str, self.mean))
            raise ValueError(f"mean must be a finite number in each channel, got {numbers}")
        if not all(0 < each < inf for each in self.std):
            numbers = ",".join(map(str, self.std))
            raise ValueError(f"std must be above 0 in each channel, got {numbers}")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")
        if self.weights is not None and self.finetune_from is not None:
            raise ValueError("weights and finetune_from both say where to start; give one of them")
        if self.head != "random" and self.weights is None and self.finetune_from is None:
            raise ValueError(
                f"head {self.head} needs weights or finetune_from: features of a random network say "
                "nothing"
            )
        if self.freeze_norm and self.weights is None and self.finetune_from is None:
            raise ValueError(
                "freeze_norm needs weights or finetune_from: a random network has no statistics to keep"
            )
        for name in ("samples", "budget", "ema", "train_size", "start_size"):
            if self.head == "only" and getattr(self, name) is not None:
                raise ValueError(f"head only makes no training step, and {name} is about those")
        if self.overfit_batches is not None and self.fast_dev_run:
            raise ValueError(
                "overfit_batches and fast_dev_run exclude each other; give one of them"
            )
        if self.warmup and self.schedule == "cosine-epoch":
            raise ValueError(
                f"warmup {self.warmup} needs a schedule that moves with every step, not "
                "cosine-epoch; choose cosine, linear or constant"
            )
        last_size = self.train_size or self.image_size
        if self.start_size is not None and self.start_size > last_size:
            raise ValueError(
                f"start_size {self.start_size} is above the size at the end, {last_size}"
            )
        _ = self.train_subset  # which refuses contradictions
        if self.eval_resize is not None and self.eval_resize < self.image_size:
            raise ValueError(
                f"eval_resize {self.eval_resize} is below image_size {self.image_size}"
            )

    @property
    def is_trial(self) -> bool:
        """Whether only a few batches are used, so that no score means anything."""
        return self.fast_dev_run or self.overfit_batches is not None

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
