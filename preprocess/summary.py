"""What packing says when it is done, and what it logs."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np

from shards.format import Manifest
from shards.machine import counted, human_bytes, human_time
from shards.reader import ShardSet
from shards.rejects import EXCLUDED


def log_run(out: Path, data: Path, workers: int, seconds: float) -> None:
    """Append to ``pack.log`` what must stay out of the set itself: times, hosts, worker counts."""
    line = (
        f"{time.strftime('%Y-%m-%d %H:%M:%S%z')} {platform.node()}: packed {data.absolute()} with "
        f"{workers} workers in {human_time(seconds)}\n"
    )
    with (out / "pack.log").open("a", encoding="utf-8", errors="surrogateescape") as log:
        log.write(line)


def summary(manifest: Manifest, out: Path, seconds: float) -> str:
    """What was packed, what repetition and packing saved, and what was left out."""
    lines = []
    any_excluded = any(reason.startswith(EXCLUDED) for reason in manifest.rejected)
    left_out = "rejected or excluded" if any_excluded else "rejected"
    for name, split in manifest.splits.items():
        lines.append(
            f"{name:<6}{split.rows:>9,} rows from {split.files:,} files"
            f"{f' (x{split.repetition:.2f})' if split.rows != split.files else ''}, "
            f"{split.files - split.samples:,} {left_out}, {human_bytes(split.bytes)} in "
            f"{counted(split.shards, 'shard')}"
        )
    train = manifest.splits["train"]
    if train.rows > train.files and train.samples:
        saved = train.bytes * (train.repetition - 1)
        lines.append(
            f"repeated rows are packed once: {human_bytes(saved)} not written "
            f"({train.repetition:.2f}x less than packing every training row)"
        )
    total = sum(split.files for split in manifest.splits.values())
    shares = [
        f"{count / total:.1%} {how.replace('_', ' ')}" for how, count in manifest.stored.items()
    ]
    excluded = {name: n for name, n in manifest.rejected.items() if name.startswith(EXCLUDED)}
    rejected = {name: n for name, n in manifest.rejected.items() if name not in excluded}
    for counts, what in ((rejected, "rejected"), (excluded, "excluded")):
        if counts or what == "rejected":
            shares.append(f"{sum(counts.values()) / total:.1%} {what}")
    lines.append(f"photographs: {', '.join(shares)}")
    lines += [f"  rejected {count}: {reason}" for reason, count in rejected.items()]
    lines += [f"  {reason.replace(':', f' {count}:', 1)}" for reason, count in excluded.items()]
    if manifest.sources:
        sources = ", ".join(f"{count:,} of {name}" for name, count in manifest.sources.items())
        lines.append(f"  added to train: {sources}")
    leaked = num_leaked(manifest, out)
    if leaked:
        lines.append(
            f"leakage: {leaked:,} val and test photographs are in train, too, byte for byte; "
            f'see `python -m preprocess audit "{out}"`'
        )
    lines.append(f'done in {human_time(seconds)}; look with `python -m shards info "{out}"`')
    return "\n".join(lines)


def num_leaked(manifest: Manifest, out: Path) -> int:
    """How many val and test photographs are stored as the same bytes in train as well.

    It costs nothing to know: the tables hold size and crc32 of every stored image. Copies that were
    resized or encoded anew are another matter, which only an audit settles.
    """
    contents = {}
    for name in manifest.splits:
        with ShardSet(out).split(name, verify="never") as split:
            sizes, checks = split.samples["size"], split.samples["crc32"]
            contents[name] = sizes.astype(np.uint64) << np.uint64(32) | checks.astype(np.uint64)
    trained = contents.pop("train")
    return int(sum(np.isin(each, trained).sum() for each in contents.values()))
