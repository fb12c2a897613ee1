"""Which classes are new to a model."""

from __future__ import annotations

from collections.abc import Sequence

from shards.errors import UserError, unknown_name
from train.checkpoints.checkpoint import Checkpoint


def novel_classes(saved: Checkpoint, asked: Sequence[str]) -> tuple[str, ...]:
    """The classes to take for new ones: those that the run held out, or some that were asked for.

    Raises:
        UserError: There are fewer than two, they do not exist, or the network was trained on one.
    """
    names = _new_to(saved, asked)
    if len(set(names)) < 2:
        raise UserError(
            f"{names[0]!r} alone is new, and an episode tells at least two classes apart; name more "
            "with --classes, or hold more out"
        )
    return names


def _new_to(saved: Checkpoint, asked: Sequence[str]) -> tuple[str, ...]:
    pairs = zip(saved.class_names, saved.known.tolist(), strict=True)
    known = {name for name, is_known in pairs if is_known}
    if not asked:
        held_out = tuple(name for name in saved.class_names if name not in known)
        if not held_out:
            raise UserError(
                "the run held no class out, so none is new to it; train with --holdout A,B, or name "
                "classes with --classes for a run of --recipe probe, whose network has seen none"
            )
        return held_out
    for name in asked:
        if name not in saved.class_names:
            raise UserError(unknown_name("class", name, saved.class_names))
        if name in known and saved.config.head != "only":
            raise UserError(
                f"the network was trained on {name!r}, so it is not new to it; choose classes that "
                "the run held out, or a run of --recipe probe"
            )
    return tuple(asked)
