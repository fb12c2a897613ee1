"""Shard sets written straight from samples, without photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.format import FORMAT_VERSION, Manifest, SplitInfo, fingerprint
from shards.writer import Sample, publish, write_shard

WriteSet = Callable[[Path, list[Sample]], Manifest]


def make_manifest(**fields: Any) -> Manifest:
    """A complete manifest of nothing, but for ``fields``."""
    options = {"store": "jpeg", "short_side": 96}
    source = {"layout": "csv", "digest": "0" * 64}
    versions = {"opencv": "5"}
    content: dict[str, Any] = {
        "class_names": ("Amanita muscaria", "Boletus edulis"),
        "splits": {},
        "options": options,
        "source": source,
        "versions": versions,
        "fingerprint": fingerprint(options, source, versions),
        "stored": {"resized": 3},
        "rejected": {},
        "format_version": FORMAT_VERSION,
    }
    return Manifest(**content | fields)


def write_train_set(directory: Path, samples: list[Sample], per_shard: int = 3) -> Manifest:
    directory.mkdir(parents=True, exist_ok=True)
    written = [
        write_shard(directory, "train", shard, samples[first : first + per_shard])
        for shard, first in enumerate(range(0, len(samples), per_shard))
    ]
    records = np.concatenate([each.records for each in written])
    rows = np.repeat(np.arange(len(samples)), [each.repeats for each in samples])
    info = SplitInfo(
        rows=len(rows),
        files=len(samples),
        samples=len(samples),
        shards=len(written),
        bytes=sum(len(each.payload) for each in samples),
    )
    files = {name: file for each in written for name, file in each.files.items()}
    manifest = make_manifest(splits={"train": info}, files=files)
    return publish(directory, manifest, {"train": records}, {"train": rows.astype("<i4")}, [])


@pytest.fixture(scope="session")
def manifest_of() -> Callable[..., Manifest]:
    return make_manifest


@pytest.fixture(scope="session")
def write_set() -> WriteSet:
    """``write_set(directory, samples)``: publish a set with a train split, three a shard."""
    return write_train_set
