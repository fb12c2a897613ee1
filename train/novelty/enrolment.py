"""A new class for a trained model from a few photographs: one more row of its last layer.

Nothing else changes, so a photograph gets another answer only where the new class is more probable than
all others. The row is fitted as logistic regression would fit all rows, the others held still: with the
logit z of the new class and the others' log-sum-exp s, the cross entropy of a photograph of an old class
grows by ``log(1 + exp(z - s))``, and that of one of the new class is ``log(1 + exp(s - z))``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch.nn.functional import softplus

from shards.errors import UserError
from train.checkpoints.checkpoint import CHECKPOINT_VERSION, MARK, Checkpoint
from train.engine.logistic import Head, Samples, lbfgs
from train.engine.point_fit import Points
from train.inference.answers import UNKNOWN
from train.method.prototypes import distances

PENALTY = 1e-2
"""Of the squared weights, on features of variance 1, as in :mod:`train.engine.logistic`; of a point, of
its squared way from the mean of the photographs, as in :mod:`train.engine.point_fit`."""
LONGEST = 100
"""Letters of a name, which becomes part of a file's."""
LEFT_OUT = ("stepped", "tree", "optimizer", "scaler", "rng", "cuda_rng", "conformal")
"""Fields of a checkpoint that only training needs, or that no longer hold."""


@dataclass(frozen=True, slots=True)
class Row:
    """Of a last layer."""

    weight: torch.Tensor
    """``(D,)`` float32; where there is no bias, the point of a layer that answers by nearness."""
    bias: torch.Tensor | None
    """``()`` float32."""

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """``(N, D)`` -> ``(N,)``."""
        if self.bias is None:
            return -distances(features, self.weight[None])[:, 0]
        return features @ self.weight + self.bias

    def detached(self) -> Row:
        """Without the way in which it was computed."""
        return Row(self.weight.detach(), None if self.bias is None else self.bias.detach())


class Enrolment:
    """Fits the row of a new class beside the rows of the known ones.

    Args:
        head: The last layer; rows that are not known do not count.
        known: ``(K,)`` bool.
        base: Training features of the known classes.
    """

    def __init__(self, head: Head | Points, known: torch.Tensor, base: Samples) -> None:
        self._known = head.only(known.to(base.features.device))
        self._mean = base.features.mean(0)
        self._std = base.features.std(0, correction=0).clamp_min(1e-6)
        self._base = (
            base.features.clone()
        )  # of tensors made in inference mode nothing can be learned
        self._base_others = self.others(base.features)

    def others(self, features: torch.Tensor) -> torch.Tensor:
        """``(N,)`` log-sum-exp of the known classes' logits."""
        return self._known.logits(features).logsumexp(1)

    def fit(self, photos: torch.Tensor, penalty: float = PENALTY) -> Row:
        """The row for ``(n, D)`` features of the new class, which weighs as much as a known one."""
        others, share = self.others(photos), 1 / (self._known.logits(photos).shape[1] + 1)
        way = torch.zeros_like(self._mean).requires_grad_()
        bias = torch.zeros_like(self._mean[0]).requires_grad_()
        by_nearness = isinstance(self._known, Points)
        middle, unit = photos.mean(0), self._std.square().mean().sqrt()

        def row() -> Row:
            if by_nearness:  # from the mean of the photographs, as the other points are from theirs
                return Row(middle + unit * way, None)
            return Row(way / self._std, bias - (way / self._std) @ self._mean)

        def loss() -> torch.Tensor:
            new = row()
            old = softplus(new.logits(self._base) - self._base_others).mean()
            found = softplus(others - new.logits(photos)).mean()
            return (1 - share) * old + share * found + penalty / 2 * way.square().sum()

        lbfgs([way] if by_nearness else [way, bias], loss)
        return row().detached()

    def is_found(self, row: Row, features: torch.Tensor) -> torch.Tensor:
        """``(N,)`` bool: where the new class is more probable than each known one."""
        return row.logits(features) > self._known.logits(features).amax(1)

    def found_when_left_out(self, photos: torch.Tensor) -> int:
        """How many of the photographs are found after the others alone; 0 for a single one."""
        if len(photos) == 1:
            return 0
        rest = ~torch.eye(len(photos), dtype=torch.bool, device=photos.device)
        return sum(
            bool(self.is_found(self.fit(photos[others]), photos[~others])) for others in rest
        )


def place_of(saved: Checkpoint, species: str) -> int:
    """The label of a class to enrol: its own where the run held it out, else one more.

    Raises:
        UserError: The model knows it, or it has no name.
    """
    if not species.strip() or species != species.strip():
        raise UserError(f"--species {species!r} is no name: it is empty, or has spaces around it")
    if len(species) > LONGEST or not species.isprintable():
        raise UserError(
            f"--species {species[:LONGEST]!r}... is no name: choose one line of at most {LONGEST} letters"
        )
    if species.casefold() == UNKNOWN:
        raise UserError(
            f"--species {species!r} is what predict says of photographs of no species; choose another name"
        )
    if species not in saved.class_names:
        for name in saved.class_names:
            if name.casefold() == species.casefold():
                raise UserError(
                    f"--species {species!r}: the model has a class {name!r}; name that one"
                )
        return len(saved.class_names)
    label = saved.class_names.index(species)
    if saved.known[label]:
        raise UserError(f"the model knows {species!r} already; choose another --species")
    return label


def with_class(
    content: dict[str, Any],
    saved: Checkpoint,
    layer: str,
    species: str,
    row: Row,
    features: torch.Tensor,
) -> dict[str, Any]:
    """The content of a checkpoint, one class more.

    Args:
        content: As it is.
        saved: The same, read.
        layer: Name of the last layer.
        species: Name of the class (:func:`place_of`).
        row: Of the last layer.
        features: ``(n, D)`` of its photographs.

    Raises:
        UserError: The last layer has no bias.
    """
    model, label = dict(content["model"]), place_of(saved, species)
    if row.bias is not None and f"{layer}.bias" not in model:
        raise UserError(f"the last layer ({layer}) has no bias, so no class can be enrolled")
    rows = {"weight": row.weight[None]} | ({} if row.bias is None else {"bias": row.bias[None]})
    for name, value in rows.items():
        old = model[f"{layer}.{name}"]
        value = value.to(old.device, old.dtype)
        model[f"{layer}.{name}"] = torch.cat([old[:label], value, old[label + 1 :]])
    config = saved.config
    config = replace(
        config,
        holdout=tuple(name for name in config.holdout if name != species),
        classes=(*config.classes, species)
        if config.classes and label < len(saved.class_names)
        else config.classes,
    )
    names = saved.class_names
    return {
        **{name: value for name, value in content.items() if name not in LEFT_OUT},
        MARK: CHECKPOINT_VERSION,
        "model": model,
        "config": asdict(config),
        "class_names": list(names if species in names else (*names, species)),
        "enrolled": saved.enrolled | {species: len(features)},
        "unknown": None if saved.unknown is None else asdict(saved.unknown.with_class(features)),
    }
