"""The search behind ``bench tune``: a few choices of this machine, one after the other, each in turns.

A choice is changed only where it is faster beyond doubt: its candidates and the default take turns in
training, and the 99 % interval of the ratio has to lie above 1. What was changed stays for the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from bench.end_to_end import training_subject
from bench.paired import FASTER, Comparison, compare_pairs
from bench.request import Request, fitting_batch, images_per_epoch
from bench.result import Result, Section, not_measured
from bench.step import GPU_BATCH, WARM_UP_STEPS, Stepper, synthetic_batch
from bench.timing import WARM_UP, Subject, rate
from loaders.config import HW_DECODER_LOAD, PREFETCH
from shards.format import Manifest
from shards.machine import allowed_cores
from shards.progress import Progress
from train.config.config import TrainConfig
from train.config.resolve import Resolved, resolve
from train.config.tuned import Tuned, machine_of
from train.method.batches import train_loader

CPU_BATCH = 4
"""Small, for many turns in the time."""
LEAST_TURNS, MOST_TURNS = 5, 40
"""Fewer say too little for a decision at 99 %; more hardly anything."""
LEAST_MICRO_BATCH = 4
SHARES = {"threads": 0.4, "prefetch": 0.5, "hw_decoder_load": 0.5, "micro_batch": 0.8}
"""Of the time that is left when a choice has its turn."""
COMPILING_S = 20.0
"""For the turns of ``compile_mode``; what compiling itself takes comes on top."""
OUT_OF_MEMORY = 0.0
"""The rate of what does not fit the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One thing to search: its default, and what to compare it with."""

    name: str
    """A field of :class:`train.config.tuned.Tuned`."""
    default: Any
    others: tuple[Any, ...]
    subject: Callable[[Any, ExitStack], Subject]
    """Times training with a value; what it opens is closed with the stack."""
    seconds: Callable[[float], float]
    """For its turns, of the seconds that are left."""
    shown: Callable[[Any], str] = str

    def label(self, value: Any) -> str:
        """What a value is called in the table."""
        behind = " (default)" if value == self.default else ""
        return f"{self.name} {self.shown(value)}{behind}"


@dataclass(frozen=True, slots=True)
class Found:
    """What the turns of a choice brought."""

    value: Any
    """The chosen one; None where nothing can be said."""
    results: tuple[Result, ...]
    sentence: str


def tune(request: Request, config: TrainConfig, minutes: float, date: str) -> tuple[Section, Tuned]:
    """Search what this machine leaves open, in about ``minutes``.

    Args:
        request: Shards, length of blocks.
        config: Architecture, image size, batch and device that are to be trained; what it leaves to
            ``auto`` is searched from the built-in defaults, whatever an earlier search found.
        minutes: For all of it, beside compiling.
        date: To note in the profile.

    Raises:
        UserError: No such architecture or device.
        ShardError: The shard set is missing or damaged.
    """
    search = _Search(request, config)
    end = time.monotonic() + 60 * minutes
    results: list[Result] = []
    sentences: list[str] = []
    for name in ("threads", "prefetch", "hw_decoder_load", "micro_batch", "compile_mode"):
        missing = search.obstacle(name, end - time.monotonic())
        if missing is not None:
            results.append(not_measured(name, missing))
            sentences.append(f"{name} is left alone: {missing}")
            continue
        choice = search.choice(name)
        found = settle(choice, choice.seconds(end - time.monotonic()))
        search.adopt(name, found.value)
        results += found.results
        sentences.append(found.sentence)
    tuned = Tuned(
        machine=machine_of(search.resolved.device),
        date=date,
        arch=config.arch,
        image_size=config.image_size,
        batch_size=config.batch_size,
        **search.chosen,
    )
    section = Section(
        name="tune",
        title=(
            f"tune: {config.arch}, {config.image_size} px, batch {config.batch_size}, "
            f"{search.resolved.precision} on {search.resolved.device}, loader "
            f"{search.resolved.loader}, {request.shards}; images/s of training in turns"
        ),
        results=tuple(results),
        settings={"chosen": search.chosen, "minutes": minutes},
        notes=tuple(sentences),
    )
    return section, tuned


def settle(choice: Choice, seconds: float) -> Found:
    """Let the default and its candidates take turns, and keep what is faster beyond doubt.

    A default that does not fit the memory gives way to the fastest that does.
    """
    values = [choice.default, *choice.others]
    with ExitStack() as stack:
        subjects = [choice.subject(value, stack) for value in values]
        turns = in_alternating_turns(subjects, seconds, f"tune {choice.name}")
    rates = dict(zip(values, turns, strict=True))
    fit = {value: each for value, each in rates.items() if OUT_OF_MEMORY not in each}
    count = len(turns[0])
    if not fit:
        return _found(choice, None, rates, f"{choice.name} is left alone: nothing fits the memory")
    if choice.default not in fit:
        best = max(fit, key=lambda value: sum(fit[value]))
        why = f"{choice.shown(choice.default)} does not fit the memory"
        return _found(choice, best, rates, f"{choice.name} is {choice.shown(best)} now: {why}")
    if count < LEAST_TURNS:
        why = f"{count} turns in the time say too little; give more --minutes"
        return _found(choice, None, rates, f"{choice.name} is left alone: {why}")
    compared = {
        value: compare_pairs(each, fit[choice.default])
        for value, each in fit.items()
        if value != choice.default
    }
    faster = {value: each for value, each in compared.items() if each.verdict == FASTER}
    if faster:
        best = max(faster, key=lambda value: faster[value].ratio)
        says = f"{choice.name} is {choice.shown(best)} now, {faster[best]}"
    else:
        best = choice.default
        says = f"{choice.name} stays {choice.shown(best)}: nothing is faster beyond doubt"
    return _found(choice, best, rates, says, compared)


def in_alternating_turns(
    subjects: Sequence[Subject], seconds: float, label: str
) -> list[tuple[float, ...]]:
    """Values of each subject, of turns that go forwards and backwards until the time is over.

    The warm-up is not counted in the time.
    """
    with Progress(f"{label}: warm-up", len(subjects), "blocks") as progress:
        for subject in subjects:
            subject.block(WARM_UP)
            progress.update(1, subject.name)
    values: list[list[float]] = [[] for _ in subjects]
    start = time.monotonic()
    with Progress(label, max(1, round(seconds)), "s") as progress:
        shown = 0
        for turn in range(MOST_TURNS):
            for at in range(len(subjects))[:: -1 if turn % 2 else 1]:
                values[at].append(subjects[at].block(turn))
            spent = time.monotonic() - start
            now = min(round(spent), round(seconds))
            progress.update(now - shown, f"turn {turn + 1}")
            shown = now
            if spent + spent / (turn + 1) > seconds:
                break
    return [tuple(each) for each in values]


def thread_counts(cores: int) -> tuple[int, ...]:
    """What to try beside one a core: one a pair of hardware threads, some spare, some to overlap."""
    wanted = (cores // 2, 3 * cores // 4, cores + max(1, cores // 2))
    return tuple(dict.fromkeys(max(1, each) for each in wanted if max(1, each) != cores))


def micro_batches(batch_size: int) -> tuple[int, ...]:
    """Halves of the batch, down to :data:`LEAST_MICRO_BATCH`, at most four."""
    halves = (batch_size >> power for power in range(1, 5))
    return tuple(each for each in halves if each >= LEAST_MICRO_BATCH)


class _Search:
    """What is trained meanwhile, with what has been chosen so far."""

    def __init__(self, request: Request, config: TrainConfig) -> None:
        self.chosen: dict[str, Any] = {}
        self._request = request
        self._cores = allowed_cores()
        # Said outright, so that an earlier search has no part in this one.
        self._config = replace(
            config,
            threads=self._cores,
            prefetch=PREFETCH,
            hw_decoder_load=HW_DECODER_LOAD,
            micro_batch=config.batch_size,
            compile_mode="default",
        )
        self.resolved: Resolved = resolve(self._config)
        self._on_cuda = self.resolved.device.type == "cuda"
        wanted = CPU_BATCH if self.resolved.device.type == "cpu" else GPU_BATCH
        images = images_per_epoch(request.shards)
        self._block_batch = fitting_batch(wanted, images, WARM_UP_STEPS + 2)
        self._classes = Manifest.read(request.shards).num_classes
        self._stepper = Stepper(
            self._config,
            self.resolved,
            self._classes,
            channels_last=self.resolved.channels_last,
        )
        self._images_per_s = 0.0

    def obstacle(self, name: str, left_s: float) -> str | None:
        """Why a choice cannot be searched here; None if it can."""
        if name == "hw_decoder_load" and self.resolved.loader != "dali":
            return "needs a GPU, and DALI as the loader"
        if name == "compile_mode" and not (self._on_cuda and self.resolved.compile):
            return "needs a GPU, and torch.compile"
        if name == "micro_batch":
            if not micro_batches(self._config.batch_size):
                return f"a batch of {self._config.batch_size} needs no parts"
            whole_s = self._config.batch_size / max(self._images_per_s, 1e-9)
            turn_s = whole_s * (1 + len(micro_batches(self._config.batch_size)))
            if self._images_per_s and turn_s * LEAST_TURNS > SHARES[name] * left_s:
                return (
                    f"a turn of batches of {self._config.batch_size} takes {turn_s:.0f} s here; give "
                    "more --minutes, or a smaller --image-size or --batch-size"
                )
        return None

    def choice(self, name: str) -> Choice:
        """The default of a choice and its candidates."""
        others: dict[str, tuple[Any, ...]] = {
            "threads": thread_counts(self._cores),
            "prefetch": (2, 6),
            "hw_decoder_load": (0.0, 0.4, 0.8, 1.0),
            "micro_batch": micro_batches(self._config.batch_size),
            "compile_mode": ("max-autotune-no-cudagraphs",),
        }
        subjects = {"micro_batch": self._micro_batch, "compile_mode": self._compile_mode}
        return Choice(
            name=name,
            default=getattr(self.resolved, name),
            others=others[name],
            subject=subjects.get(name, lambda value, stack: self._loading(name, value, stack)),
            seconds=lambda left: SHARES[name] * left if name in SHARES else COMPILING_S,
        )

    def adopt(self, name: str, value: Any) -> None:
        """Go on with what was chosen."""
        if value is None:
            return
        self.chosen[name] = value
        self.resolved = replace(self.resolved, **{name: value})
        if name == "threads" and self.resolved.device.type == "cpu":
            torch.set_num_threads(value)

    def _loading(self, name: str, value: Any, stack: ExitStack) -> Subject:
        """Training on the batches of a loader with this value."""
        resolved = replace(self.resolved, **{name: value})
        config = replace(self._config, batch_size=self._block_batch)
        loader = train_loader(config, resolved, self._request.shards)
        stack.callback(loader.close)
        training = training_subject(name, loader, self._stepper, self._request, [])

        def block(repeat: int) -> float:
            if resolved.device.type == "cpu":
                torch.set_num_threads(resolved.threads)
            images_per_s = training.block(repeat)
            self._images_per_s = images_per_s or self._images_per_s
            return images_per_s

        return Subject(f"{name} {value}", block)

    def _micro_batch(self, value: int, _stack: ExitStack) -> Subject:
        """Forward and backward of a synthetic batch, so many images at once."""
        stepper, resolved = self._stepper, self.resolved
        images, labels = synthetic_batch(self._config, resolved.device, self._classes)

        def parts() -> Iterator[int]:
            for at in range(0, len(labels), value):
                part, target = images[at : at + value], labels[at : at + value]
                with resolved.autocast():
                    loss = cross_entropy(stepper.network(part), target)
                loss.backward()  # type: ignore[no-untyped-call]
                yield len(target)

        def block(repeat: int) -> float:
            try:
                # A warm-up of one part: compiles it, and finds whether it fits.
                end = parts() if repeat != WARM_UP else iter([next(parts())])
                return rate(end, min_s=float("inf"), device=resolved.device)
            except torch.OutOfMemoryError:
                return OUT_OF_MEMORY
            finally:
                stepper.forget_gradients()

        return Subject(f"micro_batch {value}", block)

    def _compile_mode(self, value: Any, _stack: ExitStack) -> Subject:
        """The step on a synthetic batch, compiled so."""
        resolved = replace(self.resolved, compile_mode=value)
        config = replace(self._config, batch_size=resolved.micro_batch or self._block_batch)
        stepper = Stepper(config, resolved, self._classes, channels_last=resolved.channels_last)
        images, labels = synthetic_batch(config, resolved.device, self._classes)

        def steps() -> Iterator[int]:
            while True:
                stepper.step(images, labels)
                yield len(labels)

        def block(_repeat: int) -> float:
            return rate(steps(), min_s=self._request.block_s, device=resolved.device)

        return Subject(f"compile_mode {value}", block)


def _found(
    choice: Choice,
    value: Any,
    rates: dict[Any, tuple[float, ...]],
    sentence: str,
    compared: dict[Any, Comparison] | None = None,
) -> Found:
    results = []
    for each, repeats in rates.items():
        if OUT_OF_MEMORY in repeats:
            results.append(not_measured(choice.label(each), "out of memory"))
            continue
        note = str(compared[each]) if compared and each in compared else ""
        results.append(Result(name=choice.label(each), repeats=repeats, note=note))
    return Found(value, tuple(results), sentence)
