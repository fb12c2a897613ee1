"""The same photographs for every loader: some of a shard set's, as files, as JPEG shards, as raw ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.loaders import originals_root
from preprocess.catalog import Catalog, build_split, list_states
from preprocess.executors import local_executor
from preprocess.image import ImageOptions
from preprocess.pack import pack
from shards.errors import UserError
from shards.reader import ShardSet, is_array

PHOTOGRAPHS, MAX_RAW_BYTES = 2000, 2**30
"""At most: enough that no cache of a processor holds them, and that their pixels fit in memory."""
LONGEST_SIDE = 2**15
"""No photograph has a longer shorter side [px]: all are stored byte for byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerData:
    """Where the photographs are."""

    files: list[Path]
    """One JPEG a photograph, byte for byte as the shard set stores it."""
    labels: list[int]
    jpeg_shards: Path
    """A shard set of exactly these JPEGs."""
    raw_shards: Path
    """And one of their pixels."""
    originals: list[Path] | None
    """The file that each was packed from, where their folder is known."""
    quality: int
    """JPEG quality of the shard set where it encoded anew."""

    @property
    def tars(self) -> list[Path]:
        """Of :attr:`jpeg_shards`."""
        return sorted(self.jpeg_shards.glob("train-*.tar"))


def copy_photographs(shards: Path, originals: Path | None, work: Path, *, workers: int) -> PeerData:
    """Take photographs of ``shards`` in stored order, which is random, into ``work``.

    Raises:
        ShardError: The shard set is missing or damaged.
        UserError: It stores pixels, or its originals are not in ``originals``.
    """
    shard_set = ShardSet(shards)
    root = originals_root(originals, shards) if originals is not None else None
    folder = work / "photographs"
    paths: list[str] = []
    sources: list[Path] = []
    with shard_set.split("train") as split:
        chosen = _choose(split.samples)
        labels = split.labels[chosen].tolist()
        for sample, label in zip(chosen, labels, strict=True):
            payload = split.payload(sample)
            if is_array(payload):
                raise UserError(f"{shards} stores pixels; name a set packed with --store jpeg")
            paths.append(f"{label:05d}/{len(paths):06d}.jpg")
            file = folder / paths[-1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(payload)
            if root is not None:
                sources.append(root / str(split.metadata(sample)["path"]))
    rows = np.arange(len(paths), dtype=np.int32)
    catalog = Catalog(
        root=folder,
        layout="folders",
        class_names=shard_set.manifest.class_names,
        splits={
            "train": build_split(paths, labels, rows, list_states(folder, paths), shuffle_seed=0)
        },
    )
    with local_executor(workers) as executor:
        for name, raw_share in (("jpeg", 0.0), ("raw", 1.0)):
            options = ImageOptions(short_side=LONGEST_SIDE, raw_share=raw_share)
            pack(catalog, work / name, options, executor)
    return PeerData(
        files=[folder / path for path in paths],
        labels=labels,
        jpeg_shards=work / "jpeg",
        raw_shards=work / "raw",
        originals=sources if root is not None else None,
        quality=int(shard_set.manifest.options["quality"]),
    )


def _choose(samples: np.ndarray[Any, np.dtype[Any]]) -> list[int]:
    """The first samples, as many as there should be."""
    pixels = np.cumsum(3 * samples["width"].astype(np.int64) * samples["height"])
    return list(range(min(len(samples), PHOTOGRAPHS, int((pixels <= MAX_RAW_BYTES).sum()) or 1)))
