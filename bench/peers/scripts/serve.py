"""One loader in a process of its own: opens it, then measures a block at every request.

``python -I serve.py MODULE`` reads one JSON object a line and answers each with one::

    {"do": "open", "settings": {...}}                                -> {"versions": {"torch": ...}}
    {"do": "block", "epoch": 3, "min_s": 1.0, "warm_up": 8, ...}     -> {"images": 640, "seconds": 1.02}

or with ``{"error": "..."}``, the last line of what went wrong. The end of the input ends it.
Everything that the loader itself prints goes to stderr.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

# Behind everything of the environment itself, and in the processes that this one starts too.
sys.path.append(str(Path(__file__).resolve().parents[3]))

Epochs = Callable[[int], Iterator[int]]
REPORTED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "PIL": "pillow",
    "numpy": "numpy",
    "numba": "numba",
    "webdataset": "webdataset",
    "ffcv": "ffcv",
    "spdl": "spdl",
    "litdata": "litdata",
    "streaming": "mosaicml-streaming",
}
"""Imported name and name in the package index of what a figure depends on."""


def main(module: str) -> None:
    """Answer until the input ends."""
    os.setpgrp()  # so that the other end can stop the workers with it
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    epochs: Epochs | None = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if request.pop("do") == "open":
                peer = importlib.import_module(f"bench.peers.scripts.{module}")
                epochs = peer.open_loader(request["settings"])
                answer: dict[str, Any] = {"versions": versions()}
            else:
                assert epochs is not None, "a block was asked for before open"
                answer = measure(epochs, **request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": "".join(traceback.format_exception_only(error)).strip()}
        print(json.dumps(answer), file=answers, flush=True)


def measure(
    epochs: Epochs, *, epoch: int, min_s: float, warm_up: int, round_to: int
) -> dict[str, Any]:
    """Images and seconds of one block: ``warm_up`` batches are dropped first.

    Args:
        epochs: Of the loader.
        epoch: The one to measure in.
        min_s: Least length of the block, unless the epoch ends before [s].
        warm_up: Batches before the clock starts.
        round_to: Stop only after a multiple of so many batches: workers finish at a time.
    """
    batches = epochs(epoch)
    for _ in islice(batches, warm_up):
        pass
    images = 0
    start = time.perf_counter()
    for number, count in enumerate(batches, 1):
        images += count
        if number % round_to == 0 and time.perf_counter() - start >= min_s:
            break
    seconds = time.perf_counter() - start
    close = getattr(batches, "close", None)
    if close is not None:
        close()
    if not images:
        raise ValueError("no images: the epoch ended within the warm-up")
    return {"images": images, "seconds": seconds}


def versions() -> dict[str, str]:
    """Of everything imported that a figure depends on."""
    found = {}
    for name, distribution in REPORTED.items():
        if name == "PIL" and name in sys.modules:
            # Pillow and Pillow-SIMD may both be installed, in the same folder.
            found[distribution] = sys.modules[name].__version__
        elif name in sys.modules:
            found[distribution] = importlib.metadata.version(distribution)
    return found


if __name__ == "__main__":
    main(sys.argv[1])
