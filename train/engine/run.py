"""One run from configuration to summary: open, train, test the best epoch, report."""

from __future__ import annotations

import platform
import time
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from shards.errors import Interrupted, JobError, ShardError, UserError
from shards.format import Manifest
from shards.reader import ShardSet
from train.checkpoints.checkpoint import (
    LAST,
    Checkpoint,
    Progressed,
    has_checkpoint,
    load_last,
)
from train.checkpoints.folder import (
    check_new_folder,
    default_folder,
    held,
    is_throwaway,
    new_folder,
    resume_command,
    throwaway_folder,
)
from train.checkpoints.pretrained import load_start, with_start
from train.config.config import TrainConfig
from train.config.deterministic import refusals_as_job_errors
from train.config.distributed import (
    check_processes,
    from_first,
    is_first,
    own_seed,
    parallel,
    size,
)
from train.config.length import Length, step_count
from train.config.resolve import resolve
from train.config.safety import Safety
from train.config.source import ShardSource, recorded_source, shard_source
from train.engine.announce import announce
from train.engine.auto import resolve_for_run
from train.engine.budget import time_budget
from train.engine.features import last_layer
from train.engine.finish import finish
from train.engine.loop import fit
from train.engine.probe import fit_head
from train.method.batches import train_loader, val_loader
from train.method.ema import WeightAverage
from train.method.models import check_arch, check_batch, check_fit, create_model
from train.method.objective import create_objective
from train.method.optimizer import create_optimizer
from train.method.prototypes import use_prototypes
from train.runs.full_disk import full_disk_as_job_error
from train.runs.interrupt import StopRequest
from train.runs.log import SUMMARY, RunLog
from train.runs.restore import check_same_set, restore
from train.runs.saving import save
from train.runs.session import Session
from train.runs.wandb_log import WandbRun, check_wandb
from train.scores.evaluation import (
    prepare_model,
)
from train.scores.species import class_tree


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
    config = replace(config, epochs=1, samples=None, budget=None, eval_every=1.0)
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
        if folder.is_file() and has_checkpoint(folder.parent):
            raise UserError(f"{folder} is a file; give its run folder: --resume {folder.parent}")
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
    tree = _tree(config, manifest, saved)
    began = safety.started - (saved.progress.seconds if saved else 0.0)
    resolved = resolve(config, source.url)
    torch.manual_seed(config.seed)
    with ExitStack() as opened:
        train = opened.enter_context(closing(train_loader(config, resolved, shards)))
        val = opened.enter_context(closing(val_loader(config, resolved, shards)))
        steps = step_count(config, train)
        model = create_model(
            config.arch,
            manifest.num_classes,
            config.mean,
            config.std,
            stochastic_depth=config.stochastic_depth,
            zero_init=config.zero_init,
        )
        start = load_start(model.backbone, config, manifest.num_classes) if saved is None else None
        if config.hierarchy_loss == "prototypes":
            use_prototypes(model.backbone, manifest.num_classes)
        asked = replace(config, micro_batch=resolved.micro_batch)
        check_fit(model, asked, train.samples_per_epoch)
        network = prepare_model(model, resolved)
        resolved = resolve_for_run(config, resolved, steps, model, manifest.num_classes)
        average = None if config.ema is None else WeightAverage(model, config.ema)
        head = None
        if config.backbone_lr != 1:
            head = last_layer(model.backbone, manifest.num_classes)
        ways = {
            "network": network,
            "parallel": parallel(network, sync_batchnorm=config.sync_batchnorm),
            "evaluated": network if average is None else average.model,
        }
        if resolved.compile:
            made = {each: _compiled(each, resolved.compile_mode) for each in set(ways.values())}
            ways = {name: made[each] for name, each in ways.items()}
        length: Length = steps
        if config.budget is not None:
            length = time_budget(config, resolved, steps, ways["evaluated"], val, shards, began)
        # A folder is made once nothing can be refused.
        folder = from_first(lambda: opened.enter_context(place))
        opened.enter_context(full_disk_as_job_error(folder))
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
            network=ways["network"],
            parallel=ways["parallel"],
            evaluated=ways["evaluated"],
            average=average,
            objective=create_objective(config, model, train.class_counts, tree, resolved.device),
            tree=tree,
            length=length,
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
            started=time.perf_counter() - (time.monotonic() - safety.started),
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
                announce(session, manifest, source)
                if start is not None:
                    log.say(start)
                if config.head != "random":
                    fit_head(session, shards)
                if config.head != "only":
                    fit(session)
                return finish(session, manifest, shards)
        except ShardError as error:
            failed = JobError(f"{error.format_message()}. {_way_on(folder)}")
            _note_end(log, failed)
            raise failed from None
        except (Interrupted, JobError) as error:
            _note_end(log, error)
            raise


def _tree(config: TrainConfig, manifest: Manifest, saved: Checkpoint | None) -> torch.Tensor | None:
    """Heights of the classes' common ancestors, where the loss needs them.

    Raises:
        UserError: There is no tree.
    """
    if config.hierarchy_loss == "none":
        return None
    if saved is None:
        table = None if config.species is None else Path(config.species)
        return class_tree(manifest.class_names, table)
    if saved.tree is None:
        raise UserError(f"the checkpoint holds no tree for hierarchy_loss {config.hierarchy_loss}")
    return saved.tree


def _compiled(network: nn.Module, mode: str) -> nn.Module:
    made: nn.Module = torch.compile(network, dynamic=False, mode=mode)  # type: ignore[assignment]
    return made


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
    if is_throwaway(folder):
        return "Mend the set, then start again"
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
