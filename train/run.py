"""One run from configuration to summary: open, train, test the best epoch, report."""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torchvision

from shards.errors import Interrupted, JobError, ShardError, UserError
from shards.format import Manifest
from shards.machine import human_time
from shards.reader import ShardSet
from train.batches import count_eval_images, train_loader, val_loader
from train.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    Progressed,
    checked_content,
    has_checkpoint,
    load_checkpoint,
    load_last,
)
from train.config import TrainConfig
from train.deterministic import refusals_as_job_errors
from train.distributed import (
    check_processes,
    from_first,
    is_first,
    own_seed,
    parallel,
    size,
)
from train.estimate import Estimate, estimate
from train.evaluation import (
    Evaluation,
    evaluate,
    evaluate_split,
    prepare_model,
    published_lines,
    result_row,
)
from train.features import last_layer
from train.folder import check_new_folder, default_folder, held, new_folder, throwaway_folder
from train.interrupt import GO_ON, SAVE, Stopped, StopRequest
from train.log import CONFIG, SUMMARY, RunLog
from train.loop import Session, fit, resume_command, save
from train.models import check_arch, check_batch, check_fit, create_model
from train.optimizer import create_optimizer
from train.pretrained import load_start, with_start
from train.probe import fit_head
from train.record import final_pictures, final_values, hyperparameters
from train.resolve import resolve
from train.restore import check_same_set, restore
from train.safety import Safety
from train.source import ShardSource, recorded_source, shard_source
from train.wandb_log import WandbRun, check_wandb

LONG_S = 3600.0
"""A run on a CPU that is expected to take longer comes with advice."""


def start_run(
    config: TrainConfig,
    shards: Path | ShardSource,
    folder: Path | None = None,
    safety: Safety | None = None,
) -> dict[str, Any]:
    """Train from scratch and return the summary, which is also ``summary.json``.

    Raises:
        UserError: Something in the request cannot work; nothing was written.
        Interrupted: A signal or the time limit asked to stop; the run can be resumed.
        JobError: Training failed.
    """
    config = with_start(config)
    from_first(lambda: check_new_folder(folder or default_folder(config)))
    check_arch(config.arch)
    source = ShardSource(shards) if isinstance(shards, Path) else shards
    manifest = ShardSet(source.directory).manifest
    safety = safety or Safety()
    if not config.fast_dev_run:
        return _run(config, source, manifest, new_folder(folder, config), safety)
    config = replace(config, epochs=1)
    if folder is not None:
        return _run(config, source, manifest, new_folder(folder, config), safety)
    try:
        return _run(config, source, manifest, throwaway_folder(), safety)
    except Interrupted as stop:
        raise Interrupted("fast dev run: stopped, nothing was kept", stop.exit_code) from None


def resume_run(
    folder: Path, shards: str | None = None, safety: Safety | None = None
) -> dict[str, Any]:
    """Go on with an interrupted run exactly where it was saved.

    Raises:
        UserError: There is no such run, it is finished or at work, or its data or order of samples
            changed.
    """
    with ExitStack() as opened:
        saved, warning = from_first(lambda: _take_up(folder, opened))
        source = opened.enter_context(shard_source(recorded_source(shards, saved.shards.directory)))
        manifest = ShardSet(source.directory).manifest
        check_same_set(manifest, source, saved)
        place = nullcontext(folder)
        return _run(saved.config, source, manifest, place, safety or Safety(), saved, warning)


def _take_up(folder: Path, opened: ExitStack) -> tuple[Checkpoint, str | None]:
    """Hold the folder of an unfinished run, tidy it, and load its last checkpoint."""
    if not has_checkpoint(folder):
        raise UserError(f"{folder} holds no run to resume (no {LAST} in it)")
    opened.enter_context(held(folder))
    if (folder / SUMMARY).exists():
        raise UserError(f"{folder} is finished; its result is in {folder / SUMMARY}")
    for orphan in folder.glob("*.tmp"):  # what a kill in the middle of a write left
        orphan.unlink()
    return load_last(folder)


def _run(
    config: TrainConfig,
    source: ShardSource,
    manifest: Manifest,
    place: AbstractContextManager[Path],
    safety: Safety,
    saved: Checkpoint | None = None,
    warning: str | None = None,
) -> dict[str, Any]:
    shards = source.directory
    if source.url is None:  # of what is streamed, the tars are not here
        check_shards(shards, manifest)
    check_batch(config)
    check_processes(config)
    if config.wandb:
        check_wandb()
    resolved = resolve(config, source.url)
    torch.manual_seed(config.seed)
    with ExitStack() as opened:
        train = opened.enter_context(closing(train_loader(config, resolved, shards)))
        val = opened.enter_context(closing(val_loader(config, resolved, shards)))
        model = create_model(config.arch, manifest.num_classes, config.mean, config.std)
        start = load_start(model.backbone, config, manifest.num_classes) if saved is None else None
        check_fit(model, config, train.samples_per_epoch)
        network = prepare_model(model, resolved)
        head = None
        if config.backbone_lr != 1:
            head = last_layer(model.backbone, manifest.num_classes)
        averaged = parallel(network, sync_batchnorm=config.sync_batchnorm)
        if resolved.compile:
            alone = averaged is network
            network = torch.compile(network, dynamic=False)  # type: ignore[assignment]
            averaged = network if alone else torch.compile(averaged, dynamic=False)  # type: ignore[assignment]
        # A folder is made once nothing can be refused.
        folder = from_first(lambda: opened.enter_context(place))
        if size() > 1:
            torch.manual_seed(own_seed(config.seed))
        done = saved.progress if saved else Progressed()
        record = folder if is_first() else Path(opened.enter_context(TemporaryDirectory()))
        wandb = WandbRun(folder, config.to_dict()) if config.wandb and is_first() else None
        log = opened.enter_context(
            closing(RunLog(record, done.samples_seen, wandb, done.samples_seen - done.images))
        )
        session = Session(
            config=config,
            resolved=resolved,
            model=model,
            network=network,
            parallel=averaged,
            optimizer=create_optimizer(model, config, resolved.device, head),
            scaler=torch.amp.GradScaler(resolved.device.type, enabled=resolved.precision == "fp16"),
            train=train,
            val=val,
            num_classes=manifest.num_classes,
            log=log,
            folder=folder,
            stop=opened.enter_context(StopRequest(safety)),
            facts=_facts(manifest, source, train),
            safety=safety,
            profile=config.profile,
        )
        try:
            if warning is not None:
                log.say(warning)
            if saved is None:
                save(session, LAST)  # shows a full disk, and from here on a kill loses no run
            else:
                restore(session, saved)
            with refusals_as_job_errors():
                _announce(session, manifest, source)
                if start is not None:
                    log.say(start)
                if config.head != "random":
                    fit_head(session, shards)
                if config.head != "only":
                    fit(session)
                return _finish(session, manifest, shards)
        except ShardError as error:
            failed = JobError(f"{error.format_message()}. {_way_on(folder)}")
            _note_end(log, failed)
            raise failed from None
        except (Interrupted, JobError) as error:
            _note_end(log, error)
            raise


def check_shards(directory: Path, manifest: Manifest) -> None:
    """Look at the size of every shard: a lost one shows now rather than in the test of the end.

    Raises:
        ShardError: A shard is missing or cut short.
    """
    for name, expected in manifest.files.items():
        if not name.endswith(".tar"):
            continue
        try:
            size = (directory / name).stat().st_size
        except OSError as error:
            raise ShardError(
                f"cannot read shard {directory / name}: {error.strerror}; pack the set again"
            ) from None
        if size != expected.bytes:
            raise ShardError(
                f"{directory / name} has {size:,} bytes, the manifest says {expected.bytes:,}; "
                "pack the set again"
            )


def _way_on(folder: Path) -> str:
    return f"Mend the set, then go on from the last checkpoint: {resume_command(folder)}"


def _note_end(log: RunLog, error: UserError) -> None:
    """Keep the last line of a run that did not come to its end, unless the disk is full."""
    with suppress(OSError):
        log.note(error.format_message())


def _facts(manifest: Manifest, source: ShardSource, train: Any) -> dict[str, Any]:
    return {
        "class_names": list(manifest.class_names),
        "shards": {
            "directory": str(source),
            "fingerprint": manifest.fingerprint,
            "packing": manifest.options,
        },
        "order_hash": train.order_hash,
        "versions": versions(),
        "world_size": size(),
    }


def versions() -> dict[str, str]:
    """Of everything that a result may depend on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a class of its own, which a checkpoint must not hold
        "torchvision": str(torchvision.__version__),
        "numpy": np.__version__,
    }


def _announce(session: Session, manifest: Manifest, source: ShardSource) -> None:
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
        f"{config.epochs} epoch{'s' * (config.epochs > 1)} of {session.train.samples_per_epoch:,} images at "
        f"{config.image_size} px, batch {config.batch_size}{_over_ranks()}; {manifest.num_classes} classes "
        f"of {source}"
    )
    say(str(session.resolved))
    chosen = str(config.train_subset)
    say(
        f"sampling {config.sampling}{f' ({chosen})' if chosen else ''}, order "
        f"{session.facts['order_hash']}; run {session.folder}"
    )
    stored_side = manifest.options.get("short_side", config.image_size)
    if config.image_size > stored_side:
        say(
            f"warning: image size {config.image_size} exceeds the shorter side that {source} "
            f"stores ({stored_side}); images will be blurred up: pack again with --short-side "
            f"{config.image_size} or more"
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


def _over_ranks() -> str:
    return f" over {size()} processes" if size() > 1 else ""


def _command(folder: Path, source: ShardSource) -> str:
    """The command that began the run; of a URL, which may hold a key, without what may be one."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # a resumed run has it already
        return str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["command"])
    hidden = source.url or "\0"
    return shlex.join(each.replace(hidden, str(source)) for each in sys.orig_argv)


def _finish(session: Session, manifest: Manifest, shards: Path) -> dict[str, Any]:
    """Test the best epoch and write the summary."""
    config, done, log = session.config, session.done, session.log
    best = from_first(lambda: load_checkpoint(session.folder / BEST))
    with checked_content(session.folder / BEST):
        session.model.backbone.load_state_dict(best.model)
    has_test = not config.is_trial and count_eval_images(config, shards, "test") > 0
    split = "test" if has_test else "val"
    try:
        result = _evaluate_best(session, shards, split)
    except Stopped as stop:
        raise Interrupted(
            f"stopped before the {split} result; for it: {resume_command(session.folder)}",
            stop.exit_code,
        ) from None
    seconds = done.seconds + time.perf_counter() - session.started
    summary = _summary(session, manifest, split, result, seconds)
    log.write_json(SUMMARY, summary)
    log.figures(done.samples_seen, final_pictures(split, result, manifest.class_names))
    log.result(
        hyperparameters(config.to_dict(), session.resolved.to_dict()),
        final_values(split, result, done.best_miou),
    )
    log.say(
        f"best epoch {done.best_epoch} of {done.epoch} (val mIoU {done.best_miou:.4f}); recipe "
        f"{config.recipe}, {done.samples_seen:,} samples seen in {human_time(seconds)}"
    )
    log.say(result_row(split, result))
    if bad := session.train.bad_samples:
        log.say(f"skipped in training: {len(bad)} damaged photograph{'s' * (len(bad) > 1)}")
    if has_test:
        for line in published_lines(manifest, config):
            log.say(line)
    if not config.is_trial:
        log.say(
            f'evaluate it again: python -m train.evaluate "{session.folder / BEST}" --split {split}'
        )
    return summary


def _stop_if_asked(session: Session) -> None:
    """In the final test, where all is saved already."""
    if (asked := session.asked()) not in (GO_ON, SAVE):
        raise Stopped(asked)


def _evaluate_best(session: Session, shards: Path, split: str) -> Evaluation:
    config, resolved = session.config, session.resolved
    if not config.is_trial:
        return evaluate_split(
            session.network,
            config,
            resolved,
            shards,
            split,
            session.num_classes,
            after_batch=lambda: _stop_if_asked(session),
        )
    return evaluate(
        session.network,
        session.val,
        resolved,
        session.num_classes,
        pad_to=config.batch_size if resolved.compile else None,
        after_batch=lambda: _stop_if_asked(session),
    )


def _summary(
    session: Session, manifest: Manifest, split: str, result: Evaluation, seconds: float
) -> dict[str, Any]:
    config, done = session.config, session.done
    return {
        split: result.scores.as_dict(),
        f"{split}_images": result.images,
        "val_miou": done.best_miou,
        "best_epoch": done.best_epoch,
        "epochs": done.epoch,
        "bad_samples": len(session.train.bad_samples),
        "seconds": seconds,
        "samples_seen": done.samples_seen,
        "images_per_s": done.samples_seen / seconds,
        "arch": config.arch,
        "recipe": config.recipe,
        "image_size": config.image_size,
        "sampling": config.sampling,
        "subset": str(config.train_subset),
        "trial": config.is_trial,
        "num_classes": manifest.num_classes,
        "resolved": session.resolved.to_dict(),
        **{name: session.facts[name] for name in ("shards", "order_hash", "versions")},
    }
