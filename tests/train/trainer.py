"""A program that imports the trainer once and forks a process for each training it is asked for.

Importing torch costs ten times what the trainings of the tests do. Requests and answers are lines of JSON:
``{"args": [...], "env": {...}, "out": FILE}`` -> ``{"pid": N}``, ``{"wait": N}`` -> ``{"status": N}``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, NoReturn

import torch
from torch import nn
from torchvision.models._api import BUILTIN_MODELS

import shards.commands
import train.__main__
import train.engine.run
import train.runs.unfinished


def restless(*, weights: None = None, num_classes: int = 1000) -> nn.Module:
    """State that is not learned, and drawn numbers: what a resume can lose."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32, num_classes),
    )


def pooled(*, weights: None = None, num_classes: int = 1000) -> nn.Module:
    """Batch normalisation of one value a channel and image: it cannot train on a single image."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, num_classes)
    )


def plain(*, weights: None = None, num_classes: int = 1000) -> nn.Module:
    """No image has a say in what is made of another."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    )


def train_here(request: dict[str, Any]) -> NoReturn:
    os.environ.update(request["env"])
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if request.get("float64"):
        torch.set_default_dtype(torch.float64)
    train.__main__.STARTED = time.monotonic()  # the import was long ago
    sys.argv = ["python -m train", *request["args"]]
    shards.commands.run(train.__main__.main, "python -m train")


def serve() -> None:
    for builder in (restless, pooled, plain):
        builder.__module__ = f"torchvision.models.{builder.__name__}"
        BUILTIN_MODELS[builder.__name__] = builder
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"status": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                try:
                    train_here(request)
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
            answer = {"pid": pid}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
