"""The head of a frozen network: features once, a logistic regression, an ordinary checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_confusion_matrix

from loaders.batch import Loader
from loaders.factory import create_loader
from shards.errors import Interrupted
from shards.reader import ShardSet
from train.checkpoints.checkpoint import LAST
from train.checkpoints.folder import resume_command
from train.engine.features import Expected, cached, extract, fast_network, last_layer
from train.engine.logistic import PENALTIES, Head, LogisticRegression, Samples, importance_of
from train.engine.loop import finish_stretch
from train.engine.point_fit import PointFit, Points
from train.method.batches import eval_config, stored_split
from train.runs.interrupt import Stopped
from train.runs.saving import save, save_or_stop
from train.runs.session import Session
from train.scores.evaluation import Evaluation, evaluate
from train.scores.metrics import scores

FOLDER = "features"


class _Answering(Protocol):
    """A last layer, whatever its kind."""

    def logits(self, features: torch.Tensor) -> torch.Tensor: ...


LastLayer = TypeVar("LastLayer", bound=_Answering)


def fit_head(session: Session, shards: Path) -> None:
    """Fit the last layer to the features of the network as it is.

    Where nothing else is trained, this is all of the run, and ends as an epoch does.

    Raises:
        Interrupted: A signal asked to stop; the passes that are complete are kept.
        UserError: Features are not finite.
    """
    if session.done.samples_seen:
        return  # resumed, and trained since
    save(session, LAST)  # from here on --resume can go on
    start = time.perf_counter()
    try:
        train, importance, val = _features(session, shards)
        seconds = time.perf_counter() - start
        images = len(train) + len(val)
        session.log.say(
            f"features of {images:,} images in {seconds:.0f} s ({images / seconds:,.0f} img/s)"
        )
        layer = last_layer(session.model.backbone, session.num_classes)
        head, loss = best_head(
            _path(session, train, importance),
            train,
            val,
            session.num_classes,
            session.log.say,
            lambda: _stop_if_asked(session),
        )
        head.put_into(layer)
        if session.config.head != "only":
            return
        result = _evaluate(session)
    except Stopped as stop:
        raise Interrupted(
            f"stopped; the passes that are complete are kept, go on with: "
            f"{resume_command(session.folder)}",
            stop.exit_code,
        ) from None
    done = session.done
    done.epoch, done.step = session.config.epochs - 1, session.train.steps_per_epoch
    done.images = done.samples_seen = len(train)
    done.image_size = session.config.image_size
    done.loss_sum, done.train_s = loss * len(train), time.perf_counter() - start
    finish_stretch(session, result)


def _features(session: Session, shards: Path) -> tuple[Samples, torch.Tensor, Samples]:
    """Training features of all passes with the importance of each, and those of val.

    The first pass sees central crops, as evaluation does; each further one the recipe's augmentation.
    """
    config, resolved = session.config, session.resolved
    network, how = fast_network(session.model, session.num_classes, config.image_size, resolved)
    session.log.say(f"features by {how}")
    folder = session.folder / FOLDER
    width = last_layer(session.model.backbone, session.num_classes).in_features

    def passed(
        name: str, loader: Loader, epoch: int, labels: torch.Tensor
    ) -> tuple[Samples, torch.Tensor]:
        return cached(
            folder / f"{name}.npz",
            resolved.device,
            Expected(loader.samples_per_epoch, width, labels),
            session.log.say,
            lambda: extract(
                network, loader, epoch, resolved, name, lambda: _stop_if_asked(session)
            ),
            str(config.finetune_from or config.weights),
        )

    # Before all layers train, a head that fits the central crops is a good enough beginning.
    num_passes = config.epochs if config.head == "only" else 1
    plain = replace(
        eval_config(config, resolved, shards, "train"),
        subset=config.train_subset,
        sampling="natural",
    )
    with ShardSet(shards).split("train") as stored:
        repeats = torch.as_tensor(config.train_subset.repeats(stored)).to(resolved.device)
        labels = torch.tensor(stored.labels)
    with closing(create_loader(plain)) as loader:
        passes = [passed("train-1", loader, 0, labels)]
    for number in range(1, num_passes):
        passes.append(passed(f"train-{number + 1}", session.train, number, labels))
    val, _ = passed("val", session.val, 0, _val_labels(session, shards))
    train = Samples(
        torch.cat([each.features for each, _ in passes]),
        torch.cat([each.labels for each, _ in passes]),
    )
    ids = torch.cat([each for _, each in passes])
    importance = importance_of(config.sampling, train.labels, repeats[ids])
    of_class = session.objective.class_weights
    if of_class is not None:
        importance = importance * of_class[train.labels]
        importance = importance / importance.mean()
    return train, importance, val


def _val_labels(session: Session, shards: Path) -> torch.Tensor:
    """``(N,)`` by id, of the split that ``session.val`` shows."""
    config = session.config
    # A run that is to learn a few batches by heart is judged by those.
    name = "train" if config.overfit_batches is not None else stored_split(config, "val")
    with ShardSet(shards).split(name) as stored:
        return torch.tensor(stored.labels)


def best_head(
    fit: Callable[[float], LastLayer],
    train: Samples,
    val: Samples,
    num_classes: int,
    say: Callable[[str], None] = lambda line: None,
    after_fit: Callable[[], None] = lambda: None,
) -> tuple[LastLayer, float]:
    """The head whose penalty does best on val, and its loss on the training features.

    Args:
        fit: From a penalty to its head; penalties become weaker.
        train: What it fits.
        val: What to choose by.
        num_classes: K.
        say: Takes the lines that tell of each penalty.
        after_fit: Called after each; may raise.
    """
    best: tuple[tuple[float, float], float, LastLayer] | None = None
    for penalty in PENALTIES:
        head = fit(penalty)
        logits = head.logits(val.features)
        miou = scores(multiclass_confusion_matrix(logits.argmax(1), val.labels, num_classes)).miou
        loss = float(cross_entropy(logits, val.labels))
        say(f"penalty {penalty:<6g}  val mIoU {miou:.4f}  val loss {loss:.4f}")
        if best is None or (miou, -loss) > best[0]:
            best = (miou, -loss), penalty, head
        after_fit()
    assert best is not None
    _, penalty, head = best
    say(f"penalty {penalty:g} is best on val")
    return head, float(cross_entropy(head.logits(train.features), train.labels))


def _path(
    session: Session, train: Samples, importance: torch.Tensor
) -> Callable[[float], Head | Points]:
    """From a penalty to its solution, for penalties that become weaker."""
    objective = session.objective
    if objective.structure is not None:
        return PointFit(train, importance, objective).fit
    path = LogisticRegression(train, importance, session.num_classes, objective.soft_labels)
    offsets = objective.logit_offsets
    if offsets is None:
        return path.fit

    def adjusted(penalty: float) -> Head:
        # The free bias takes up whatever is added to the logits, so a fit with the addition is this one
        # with another bias: logit adjustment after the fact (Menon et al., arXiv:2007.07314).
        head = path.fit(penalty)
        return Head(head.weight, head.bias - offsets)

    return adjusted


def _evaluate(session: Session) -> Evaluation:
    return evaluate(
        session.network,
        session.val,
        session.resolved,
        session.num_classes,
        pad_to=session.config.batch_size if session.resolved.compile else None,
        keep_outputs=True,
        after_batch=lambda: _stop_if_asked(session),
    )


def _stop_if_asked(session: Session) -> None:
    save_or_stop(session, session.asked())
