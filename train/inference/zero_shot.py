"""Classes from their names alone: images and prompts in the space of a model that was trained on both.

References:
    Radford et al. (arXiv:2103.00020), section 3.1.2: one text embedding a class, the mean over prompts.
    Stevens et al. (arXiv:2311.18803), section 4: the ranks of a species as a prompt.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from loaders.config import LoaderConfig
from loaders.factory import create_loader
from shards.errors import UserError, unknown_name
from shards.progress import Progress
from train.config.source import ShardSource
from train.scores.calibration import negative_log_likelihood
from train.scores.evaluation import Evaluation
from train.scores.outputs import Outputs, joined
from train.scores.species import RANKS, Species

LIBRARY = "open_clip:"
FROM_A_HUB = ("hf_model_name", "hf_tokenizer_name")
"""What in a model's configuration makes its text part come from a hub."""
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def prompts_of(species: Species) -> list[str]:
    """What a class is called, from its name and what is known of its ranks."""
    ranks = [each for each in species.lineage[::-1] if each]
    genus, family = (species.lineage[RANKS.index(each)] for each in ("genus", "family"))
    prompts = [f"a photo of {species.name}.", f"a photo of {species.name} in nature."]
    if family:
        prompts.append(f"a photo of {species.name}, of the family {family}.")
    if len(ranks) > 1:
        epithet = species.name.removeprefix(f"{genus} ")
        prompts.append(f"a photo of {' '.join([*ranks, epithet])}.")
    return prompts


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """A model of images and text, ready for evaluation."""

    model: Any
    """Of open_clip, on its device."""
    tokenizer: Any
    image_size: int
    """Side of its images [px]."""
    mean: torch.Tensor
    """``(3, 1, 1)`` of RGB in [0, 1]."""
    std: torch.Tensor
    scale: float
    """Of the cosines, which makes logits of them."""

    @torch.inference_mode()
    def classes(self, prompts: list[list[str]]) -> torch.Tensor:
        """``(K, E)`` directions: of each class the mean over its prompts."""
        return torch.stack([self._direction(each) for each in prompts])

    def _direction(self, prompts: list[str]) -> torch.Tensor:
        tokens = self.tokenizer(prompts).to(self.mean.device)
        return normalize(self.model.encode_text(tokens, normalize=True).float().mean(0), dim=0)

    @torch.inference_mode()
    def logits(self, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """``(B, 3, S, S)`` uint8 RGB, ``(K, E)`` -> ``(B, K)``."""
        shown = (images.to(self.mean.device).float() / 255 - self.mean) / self.std
        directions: torch.Tensor = self.model.encode_image(shown, normalize=True).float()
        return self.scale * directions @ classes.T


def open_zero_shot(name: str, weights: Path | None, device: torch.device) -> ZeroShot:
    """A model with weights from a file; nothing is fetched.

    Args:
        name: ``open_clip:`` and one of its architectures.
        weights: Of that architecture, as open_clip or OpenAI save them.
        device: Where it is to work.

    Raises:
        UserError: The library, the architecture or the file is missing, or they do not fit.
    """
    try:
        import open_clip
    except ImportError:
        raise UserError("open_clip is not installed; pip install 'hyphae[zero-shot]'") from None
    if not name.startswith(LIBRARY):
        raise UserError(f"--model {name!r}: expected {LIBRARY}NAME, such as {LIBRARY}ViT-B-32")
    arch = name.removeprefix(LIBRARY)
    if arch not in open_clip.list_models():
        raise UserError(unknown_name("architecture of open_clip", arch, open_clip.list_models()))
    text = open_clip.get_model_config(arch)["text_cfg"]
    if any(text.get(each) for each in FROM_A_HUB):
        raise UserError(
            f"{name} has a text part that open_clip fetches from a hub, and nothing is fetched here; "
            "choose one without, such as open_clip:ViT-B-32"
        )
    if weights is None:
        raise UserError(
            f"--weights is missing, and weights are never fetched: save those of {arch} "
            "(open_clip_model.safetensors or .bin of a model card that names this architecture) "
            "and pass the file with --weights FILE"
        )
    logging.disable(logging.WARNING)  # one that it has no weights, which come next
    try:
        model = open_clip.create_model(arch, pretrained_text=False, device="cpu")
    finally:
        logging.disable(logging.NOTSET)
    _load(open_clip, model, weights, arch)
    how = open_clip.get_model_preprocess_cfg(model)
    size = how["size"] if isinstance(how["size"], int) else max(how["size"])
    mean, std = (torch.tensor(how[each], device=device)[:, None, None] for each in ("mean", "std"))
    return ZeroShot(
        model=model.eval().to(device),
        tokenizer=open_clip.get_tokenizer(arch),
        image_size=size,
        mean=mean,
        std=std,
        scale=float(model.logit_scale.detach().exp()),
    )


def _load(library: Any, model: nn.Module, file: Path, arch: str) -> None:
    if not file.is_file():
        raise UserError(f"--weights {file}: no such file")
    if file.suffix not in SUFFIXES:
        raise UserError(f"--weights {file}: expected a file that ends in {', '.join(SUFFIXES)}")
    try:
        library.load_checkpoint(model, str(file), strict=True, weights_only=True)
    except Exception as error:  # a parser of foreign bytes raises whatever it meets
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise UserError(f"--weights {file} does not fit {arch}: {reason}") from None


def evaluate_zero_shot(
    model: ZeroShot, classes: torch.Tensor, source: ShardSource, split: str, batch_size: int
) -> tuple[Evaluation, Outputs]:
    """What a model makes of every photograph of a split: shorter side to its size, central square.

    Args:
        model: Its directions are ``classes``.
        classes: ``(K, E)``.
        source: The shard set.
        split: Of it.
        batch_size: Images a step.

    Raises:
        ShardError: There is no such split.
    """
    config = LoaderConfig(
        shards=source.directory,
        url=source.url,
        split=split,
        device=str(classes.device),
        batch_size=batch_size,
        sampling="natural",
        shuffle=False,
        image_size=model.image_size,
        resize_size=model.image_size,
        resample="antialias",
    )
    start, kept = time.perf_counter(), []
    with closing(create_loader(config)) as loader:
        progress = Progress(split, loader.samples_per_epoch, "img")
        with progress, closing(loader.epoch(0)) as batches:
            for batch in batches:
                logits = model.logits(batch.images, classes)
                kept.append(Outputs(logits, batch.labels.clone(), batch.ids.clone()))
                progress.update(len(batch))
    outputs = joined(kept)
    loss, seconds = negative_log_likelihood(outputs), time.perf_counter() - start
    return Evaluation(outputs.confusion, loss, seconds, outputs), outputs
