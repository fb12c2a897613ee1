"""One commit of this project in a process of its own: measures a block at every request.

``python -I ab_side.py CODE`` imports the packages of the folder ``CODE`` and nothing of the commit
that this file belongs to. It reads one JSON object a line and answers each with one::

    {"do": "open", "what": "loader", "settings": {...}}   -> {"code": "/folder/it/came/from"}
    {"do": "block", "epoch": 3, "min_s": 0.2}              -> {"images": 640, "seconds": 0.21}

or with ``{"error": "..."}``. What is used of the packages has been there since the first version.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

WARM_UP = 2
"""Batches or steps of each block before the clock starts."""
BURNT = bytes(2**17)
"""What a slowed loader computes the check sum of: long enough that Python's lock is let go."""
Epochs = Callable[[int], Iterator[int]]


def main(code: str) -> None:
    """Answer until the input ends."""
    sys.path.insert(0, code)
    os.setpgrp()  # so that the other end can stop the threads with it
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    epochs: Epochs | None = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if request.pop("do") == "open":
                epochs = OPEN[request["what"]](request["settings"])
                answer: dict[str, Any] = {"code": _imported_from()}
            else:
                assert epochs is not None, "a block was asked for before open"
                answer = measure(epochs(request["epoch"]), request["min_s"])
        except Exception as error:
            traceback.print_exc()
            answer = {"error": "".join(traceback.format_exception_only(error)).strip()}
        print(json.dumps(answer), file=answers, flush=True)


def measure(counts: Iterator[int], min_s: float) -> dict[str, Any]:
    """Images and seconds of a block of at least ``min_s``."""
    for _ in islice(counts, WARM_UP):
        pass
    images = 0
    start = time.perf_counter()
    for done in counts:
        images += done
        if time.perf_counter() - start >= min_s:
            break
    seconds = time.perf_counter() - start
    counts.close()  # type: ignore[attr-defined]
    return {"images": images, "seconds": seconds}


def open_loader(settings: dict[str, Any]) -> Epochs:
    """Batches of the ``opencv`` loader with the baseline's augmentation."""
    from loaders.augment import AugmentConfig
    from loaders.config import LoaderConfig
    from loaders.factory import create_loader

    shards = Path(settings.pop("shards"))
    slow_down(settings.pop("slowed", 0.0))
    loader = create_loader(
        LoaderConfig(
            shards=shards, backend="opencv", augment=AugmentConfig(), verify="never", **settings
        )
    )

    def epoch(number: int) -> Iterator[int]:
        for each in count(number):  # a small set's epochs are shorter than a block
            for batch in loader.epoch(each):
                yield len(batch)

    return epoch


def slow_down(share: float) -> None:
    """Take this share of its rate from the ``opencv`` loader."""
    if share:
        from loaders import opencv

        opencv._Work.fill = slowed_down(opencv._Work.fill, share)  # type: ignore[method-assign]


def slowed_down(fill: Callable[..., None], share: float) -> Callable[..., None]:
    """The same, and then compute for nothing, until the rate is lower by ``share``.

    Measured in the thread's own processor time, so that what others take slows it no further.
    """

    def slowed(work: Any, first: int, last: int) -> None:
        start = time.thread_time()
        fill(work, first, last)
        stop = start + (time.thread_time() - start) / (1 - share)
        while time.thread_time() < stop:
            zlib.crc32(BURNT)

    return slowed


def open_step(settings: dict[str, Any]) -> Epochs:
    """Training steps on a synthetic batch, on the CPU."""
    from bench.request import Request
    from bench.step import Stepper, synthetic_batch

    request = Request(
        shards=Path(settings["shards"]),
        image_size=settings["image_size"],
        batch_size=settings["batch_size"],
        threads=settings["threads"],
        device="cpu",
    )
    config, resolved = request.training(settings["arch"], cpu_batch=8, gpu_batch=8)
    images, labels = synthetic_batch(config, resolved.device)
    stepper = Stepper(config, resolved, 169, channels_last=resolved.channels_last)

    def epoch(_number: int) -> Iterator[int]:
        while True:
            stepper.step(images, labels)
            yield len(labels)

    return epoch


OPEN = {"loader": open_loader, "step": open_step}


def _imported_from() -> str:
    import loaders

    assert loaders.__file__ is not None
    return str(Path(loaders.__file__).parents[1])


if __name__ == "__main__":
    main(sys.argv[1])
