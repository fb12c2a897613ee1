"""Checkpoints: tensors and plain data only, written atomically, loaded without running code."""

from __future__ import annotations

import errno
import math
import os
import pickle
import textwrap
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from preprocess.image import ImageOptions
from shards.errors import JobError, UserError
from shards.machine import free_disk
from shards.plain import from_plain
from shards.writer import atomic_file
from train.checkpoints.folder import is_throwaway, resume_command
from train.config.config import TrainConfig
from train.method.models import Classifier, create_model
from train.method.optimizer import state_shapes
from train.method.prototypes import use_prototypes
from train.scores.unknown import UnknownDetector

CHECKPOINT_VERSION = 1
MARK = "hyphae_checkpoint"
"""What the version is saved under."""
LAST, BEST = "last.pt", "best.pt"
NEARLY_FULL = 1 << 30
"""Free bytes under which a failed write is put down to a full disk."""
MESSAGE_CHARS = 300
"""Of a reason that torch gives: it lists every weight that is missing."""
EXPORTED = (".onnx", ".pt2", ".safetensors")
UNREADABLE_ARCHIVE = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError)
"""What zipfile raises of a damaged archive: a RuntimeError where it asks for a password, or for a
compression that does not exist."""


@dataclass(kw_only=True)
class Progressed:
    """How far a run has come: what a checkpoint needs beside weights and optimizer."""

    epoch: int = 0
    """Epochs completed."""
    step: int = 0
    """Steps done of the epoch under way."""
    samples_seen: int = 0
    evaluations: int = 0
    """Of val."""
    without_gain: int = 0
    """Evaluations since the best one."""
    best_epoch: float = 0.0
    """Epochs done at the best evaluation; 0 before the first."""
    best_miou: float = -1.0
    temperature: float = 0.0
    """Of the best epoch's probabilities, fitted on val; 0 where none was."""
    seconds: float = 0.0
    """Spent in all sessions up to the last checkpoint."""
    lr: float = 0.0
    """Learning rate of the last step."""
    image_size: int = 0
    """Side of its images [px]."""
    spent: dict[str, float] = field(default_factory=dict)
    """Seconds of the run up to the last evaluation, by what they went to (train/runs/timing.py)."""

    bad_samples: dict[str, str] = field(default_factory=dict)
    """Why each damaged photograph was skipped, by sample id, in all sessions and processes."""

    # Since the last evaluation
    images: int = 0
    loss_sum: float = 0.0
    """Over these images."""
    train_s: float = 0.0
    wait_s: float = 0.0
    copy_s: float = 0.0
    step_s: float = 0.0

    def begin_stretch(self) -> None:
        """Set back what counts since the last evaluation."""
        self.images = 0
        self.loss_sum = self.train_s = self.wait_s = self.copy_s = self.step_s = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.bad_samples, dict):
            raise ValueError(f"bad_samples cannot be {self.bad_samples!r}")
        for name, value in [*vars(self).items(), *self.spent.items()]:
            if isinstance(value, dict):
                continue
            if not (-1 if name == "best_miou" else 0) <= value < math.inf:
                raise ValueError(f"{name} cannot be {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedOn:
    """The shard set of a run."""

    directory: str
    fingerprint: str
    packing: ImageOptions | None = None
    """How its photographs were stored; in old checkpoints None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a run saves."""

    config: TrainConfig
    resolved: dict[str, str | int | bool]
    """What ``auto`` became."""
    class_names: tuple[str, ...]
    shards: TrainedOn
    order_hash: str
    versions: dict[str, str]
    model: dict[str, torch.Tensor]
    """The backbone's, under torchvision's own names."""
    progress: Progressed
    world_size: int = 1
    """Processes of the session that saved it."""
    enrolled: dict[str, int] = field(default_factory=dict)
    """Classes that were added after training, and from how many photographs (train/enroll.py)."""
    unknown: UnknownDetector | None = None
    """What tells photographs of other species (train/studies/unknown.py)."""
    conformal: torch.Tensor | None = None
    """``(n,)`` float64 scores of val for prediction sets (train/scores/conformal.py)."""

    # In last.pt alone: nobody resumes from the best one.
    stepped: dict[str, torch.Tensor] | None = None
    """The weights that steps move, where ``model`` is their moving average."""
    tree: torch.Tensor | None = None
    """Of the classes, where the loss knows it: a table may change after the run began."""
    optimizer: dict[str, Any] | None = None
    scaler: dict[str, float] | None = None
    rng: torch.Tensor | None = None
    """Of one process, or a row for each of several."""
    cuda_rng: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.conformal is not None and (
            self.conformal.ndim != 1 or self.conformal.dtype != torch.float64
        ):
            raise ValueError(
                f"conformal is {self.conformal.dtype} of {self.conformal.ndim} dimensions"
            )
        done, config = self.progress, self.config
        in_epochs = config.samples is None and config.budget is None
        most = config.epochs if in_epochs else math.inf
        if done.best_epoch > done.epoch + bool(done.step) or done.epoch > most:
            raise ValueError(
                f"epoch {done.epoch} of {config.epochs}, the best of them {done.best_epoch:g}"
            )
        if self.tree is not None:
            apart = ~torch.eye(len(self.class_names), dtype=torch.bool)
            if self.tree.dtype != torch.int64 or not torch.equal(self.tree > 0, apart):
                raise ValueError(f"this is no tree of {len(apart)} classes")

    @property
    def known(self) -> torch.Tensor:
        """``(K,)`` bool: the classes that the model was trained on, or that were enrolled."""
        kept = self.config.eval_subset("test").kept_classes(self.class_names)
        return torch.from_numpy(kept) | torch.tensor(
            [each in self.enrolled for each in self.class_names]
        )


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint and keep the one that it replaces as :func:`previous`.

    A crash at any moment leaves at least one of the two whole, and a full disk both.

    Raises:
        JobError: The disk is full.
    """
    complete = _complete(path)
    save_plain(complete, {MARK: CHECKPOINT_VERSION, **content}, instead_of=path)
    if path.exists():
        path.replace(previous(path))
    complete.replace(path)
    _sync_folder(path.parent)


def save_plain(path: Path, content: dict[str, Any], instead_of: Path | None = None) -> None:
    """Write tensors and plain data as they are, all or nothing.

    Args:
        path: The file.
        content: What to write.
        instead_of: The file that it is going to replace, where that is not ``path``.

    Raises:
        JobError: The disk is full.
    """
    try:
        with atomic_file(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch's archive writer wraps what the disk refused
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        else:
            full = free_disk(path.parent) <= NEARLY_FULL
        if not full:
            raise
        way_on = "free some room, then start again"
        if (
            instead_of is not None
            and has_checkpoint(instead_of.parent)
            and not is_throwaway(instead_of.parent)
        ):
            way_on = (
                "the checkpoint before it is kept; free some room, then go on with: "
                f"{resume_command(instead_of.parent)}"
            )
        raise JobError(f"cannot write {instead_of or path}: the disk is full; {way_on}") from error


def _complete(path: Path) -> Path:
    """A new checkpoint for the moment in which the old one is put aside."""
    return path.with_name(f"{path.name}.new")


def previous(path: Path) -> Path:
    """Where the predecessor of a checkpoint is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _sync_folder(folder: Path) -> None:
    """Have the names of its files outlast a loss of power, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run saved something to go on from."""
    return any(each.is_file() for each in (folder / LAST, previous(folder / LAST)))


class DamagedCheckpoint(UserError):
    """A checkpoint that was cut short, changed on the disk, or is gone."""


def load_last(folder: Path) -> tuple[Checkpoint, str | None]:
    """The newest whole checkpoint of a run, and what to say where that is not ``last.pt``.

    A damaged ``last.pt`` is put aside, so that the next save does not replace the whole one by it.

    Raises:
        UserError: There is none, or a whole one holds what no run saves.
    """
    path = folder / LAST
    older = previous(path)
    if not path.exists() and _complete(path).is_file():  # a kill came between two renames
        _complete(path).replace(path)
    try:
        return load_checkpoint(path), None
    except DamagedCheckpoint as error:
        problem = error.format_message()
        try:
            saved = load_checkpoint(older)
        except DamagedCheckpoint as second:
            both = f"; {second.format_message()}" if older.is_file() else ""
            raise DamagedCheckpoint(f"{problem}{both}; {_start_anew(folder)}") from None
    if path.exists():
        path.replace(path.with_suffix(".damaged"))
    return saved, f"warning: {problem}; going on from the checkpoint before it ({older.name})"


def _start_anew(folder: Path) -> str:
    """What is left to do where there is nothing to go on from."""
    best = folder / BEST
    return "start a new run" + f", from its best weights: --finetune-from {best}" * best.is_file()


def checkpoint_file(path: Path) -> Path:
    """A run folder stands for its best checkpoint."""
    return path / BEST if path.is_dir() else path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU and check every field.

    Raises:
        UserError: No such file, damaged, or not a checkpoint of ours.
    """
    content = load_content(path)
    with checked_content(path):
        return from_plain(Checkpoint, content, "checkpoint")


@contextmanager
def checked_content(path: Path) -> Iterator[None]:
    """Turn what wrong content makes Python and torch raise within into one line for the user."""
    try:
        yield
    except (
        AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        reason = textwrap.shorten(str(error) or type(error).__name__, MESSAGE_CHARS)
        raise UserError(f"{path} does not hold what a run saves: {reason}") from None


def load_content(path: Path) -> dict[str, Any]:
    """Read the plain content of a checkpoint onto the CPU; nothing in it is executed.

    Raises:
        UserError: No such file, damaged, or not a checkpoint of ours.
    """
    check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's, before its error says the same
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors and plain data, so it is not loaded: it is not a "
            "checkpoint of hyphae, and loading it could run code"
        ) from None
    except Exception as error:  # a parser of foreign bytes raises whatever it meets
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged or no checkpoint: {first_line}") from None
    version = content.get(MARK) if isinstance(content, dict) else None
    if version is None:
        raise UserError(
            f"{path} is not a checkpoint of hyphae: it holds no {MARK}; those of the course are for "
            "train.evaluate and --finetune-from"
        )
    if version != CHECKPOINT_VERSION:
        raise UserError(
            f"{path} is not a checkpoint of this hyphae (version {version!r}, expected "
            f"{CHECKPOINT_VERSION})"
        )
    return {name: each for name, each in content.items() if name != MARK}


def check_archive(path: Path) -> None:
    """Refuse what is no zip archive, and one whose content does not match its check sums.

    torch itself checks no sums: most flipped bits would load without a word.

    Raises:
        DamagedCheckpoint: No such file, no archive, or damaged.
    """
    if not path.is_file():
        raise DamagedCheckpoint(f"no checkpoint {path}")
    damaged: str | None = "the archive itself"
    with suppress(*UNREADABLE_ARCHIVE):
        if not path.stat().st_size:
            raise DamagedCheckpoint(f"{path} is no checkpoint: it is empty")
        if path.suffix in EXPORTED:
            raise DamagedCheckpoint(
                f"{path} is no checkpoint: it looks like an exported file, and is for other programs; "
                "give the .pt file or the run folder that it was made from"
            )
        if not zipfile.is_zipfile(path):
            raise DamagedCheckpoint(
                f"{path} is no checkpoint: not an archive that torch.save wrote, or one cut short"
            )
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    if damaged is not None:
        raise DamagedCheckpoint(f"{path} is damaged: check sums do not match ({damaged})")


def model_from_checkpoint(checkpoint: Checkpoint, path: Path) -> Classifier:
    """The trained model, on the CPU.

    Raises:
        UserError: The weights are not those of the architecture.
    """
    config = checkpoint.config
    with checked_content(path):
        model = create_model(config.arch, len(checkpoint.class_names), config.mean, config.std)
        if config.hierarchy_loss == "prototypes":
            use_prototypes(model.backbone, len(checkpoint.class_names))
        model.backbone.load_state_dict(checkpoint.model, strict=True)
    return model


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Put the moments back; rates and decays are the configuration's, and so not taken from a file.

    Raises:
        ValueError: The moments are not those of this optimizer for these parameters.
    """
    fresh = optimizer.state_dict()["param_groups"]
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for at, moments in saved["state"].items():
        found = {name: tuple(each.shape) for name, each in moments.items()}
        if found != state_shapes(optimizer, parameters[at]):
            shape = tuple(parameters[at].shape)
            raise ValueError(f"the optimizer has {found} for parameter {at} of shape {shape}")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": fresh})
