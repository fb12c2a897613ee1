"""What a run says before it begins: what will run, with which choices, and how long it will take."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import suppress
from pathlib import Path

import torch

from shards.describe import FINGERPRINT_DIGITS
from shards.format import Manifest
from shards.machine import human_time
from train.config.config import TrainConfig
from train.config.distributed import size
from train.config.resolution import training_sizes
from train.config.source import ShardSource
from train.engine.estimate import Estimate, estimate
from train.method.batches import count_eval_images
from train.runs.log import CONFIG
from train.runs.session import Session

LONG_S = 3600.0
"""A run on a CPU that is expected to take longer comes with advice."""


def announce(session: Session, manifest: Manifest, source: ShardSource) -> None:
    """Say what will run, with which choices, and how long it is going to take."""
    config, say = session.config, session.log.say
    session.log.write_json(
        CONFIG,
        {
            "config": config.to_dict(),
            "resolved": session.resolved.to_dict(),
            **session.facts,
            "command": _command(session.log.folder, source),
        },
    )
    parameters = sum(each.numel() for each in session.model.parameters())
    say(
        f"{config.arch} ({parameters / 1e6:.1f} M parameters), recipe {config.recipe}, "
        f"{_length(session)} at {_sizes(config)}, batch {config.batch_size}{_over_ranks()}; "
        f"{manifest.num_classes} classes of {source}, fingerprint "
        f"{manifest.fingerprint[:FINGERPRINT_DIGITS]}"
    )
    say(str(session.resolved))
    chosen = str(config.train_subset)
    say(
        f"sampling {config.sampling}{f' ({chosen})' if chosen else ''}, order "
        f"{session.facts['order_hash']}; run {session.folder}"
    )
    if session.tree is not None:
        say(_hierarchy(session, session.tree))
    stored_side = manifest.options.get("short_side", config.image_size)
    largest = max(config.image_size, *training_sizes(config))
    if largest > stored_side:
        say(
            f"warning: image size {largest} exceeds the shorter side that {source} stores "
            f"({stored_side}); images will be blurred up: pack again with --short-side {largest} or "
            "more"
        )
    if config.verify == "never" and config.on_bad_sample == "skip":
        say(
            "warning: --verify never looks at no check sum: of damaged photographs, those that still "
            "decode are shown as they are, and only the others are skipped"
        )
    if session.resolved.loader == "synthetic":
        say("note: synthetic images: the scores mean nothing, only the speed does")
    if config.overfit_batches is not None:
        say(
            f"note: training on {session.train.samples_per_epoch:,} images alone, and they are val, "
            "too: the scores say whether the network can learn them by heart, nothing else"
        )
    if config.fast_dev_run:
        say("note: fast dev run: one step, one batch of val; the scores mean nothing")
    if session.done.samples_seen:
        say(f"resuming in epoch {session.done.epoch + 1} after step {session.done.step}")
    if config.fast_dev_run:
        return  # an estimate takes longer than the run
    if config.budget is not None:
        say(
            f"expected: {human_time(config.budget)}, of which {human_time(session.seconds())} are over, "
            "all that follows included"
        )
        return  # what an estimate takes trains as well
    expected = estimate(session, count_eval_images(config, source.directory, "test"))
    say(
        f"expected: {human_time(expected.seconds)} (step {expected.step_images_per_s:,.0f} img/s, "
        f"loader {expected.loader_images_per_s:,.0f} img/s, each measured alone)"
    )
    if advice := quicker_way(session, expected, source):
        say(advice)


def quicker_way(session: Session, expected: Estimate, source: ShardSource) -> str | None:
    """What to type for a good model in minutes, where a run without a GPU takes hours."""
    on_gpu = session.resolved.device.type != "cpu"
    if on_gpu or session.config.head == "only" or expected.seconds <= LONG_S:
        return None
    return (
        "there is no GPU here: for a good model in minutes, stop this run (Ctrl-C) and type: "
        f'python -m train --recipe probe --shards "{source}"'
    )


def _hierarchy(session: Session, tree: torch.Tensor) -> str:
    """What the loss makes of the tree."""
    config, labels = session.config, session.objective.soft_labels
    if labels is None:
        how = f"distortion weighs {config.hierarchy_weight:g}"
    else:
        how = f"a label keeps {float(labels.diagonal().mean()):.0%} of itself"
    return (
        f"hierarchy loss {config.hierarchy_loss} by {config.species or 'species.csv'}, common ancestors up "
        f"to height {int(tree.max())}: {how}"
    )


def _length(session: Session) -> str:
    """Of the run, as ``20 epochs of 952 images``."""
    config, an_epoch = session.config, f"{session.train.samples_per_epoch:,} images"
    if config.budget is not None:
        return f"{human_time(config.budget)} of epochs of {an_epoch}"
    if config.samples is not None:
        return f"{config.samples:,} images in epochs of {an_epoch}"
    return f"{config.epochs} epoch{'s' * (config.epochs > 1)} of {an_epoch}"


def _sizes(config: TrainConfig) -> str:
    """Of the images, as ``80 to 112 px, evaluated at 128 px``."""
    sizes = training_sizes(config)
    first, last = sizes[0], sizes[-1]
    text = f"{last} px" if first == last else f"{first} to {last} px"
    return text if last == config.image_size else f"{text}, evaluated at {config.image_size} px"


def _over_ranks() -> str:
    return f" over {size()} processes" if size() > 1 else ""


def _command(folder: Path, source: ShardSource) -> str:
    """The command that began the run; of a URL, which may hold a key, without what may be one."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # a resumed run has it already
        return str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["command"])
    hidden = source.url or "\0"
    return shlex.join(each.replace(hidden, str(source)) for each in sys.orig_argv)
