"""A shard set in words: what ``python -m shards info`` prints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from shards.format import Manifest
from shards.machine import human_bytes

FINGERPRINT_DIGITS = 16
"""Of those of a set, wherever it is shown to people."""


def describe(directory: Path, manifest: Manifest) -> str:
    """Splits as a table, then a line each for what was made of the photographs, and how."""
    lines = [
        f"{directory}: {manifest.num_classes} classes, format {manifest.format_version}, "
        f"fingerprint {manifest.fingerprint[:FINGERPRINT_DIGITS]}"
    ]
    lines.append(
        f"{'split':<8}{'rows':>10}{'files':>9}{'rows/file':>11}{'samples':>9}{'rejected':>10}"
        f"{'shards':>8}{'size':>11}"
    )
    lines += [
        f"{name:<8}{each.rows:>10,}{each.files:>9,}{each.repetition:>11.2f}{each.samples:>9,}"
        f"{each.files - each.samples:>10,}{each.shards:>8}{human_bytes(each.bytes):>11}"
        for name, each in manifest.splits.items()
    ]
    lines.append("stored    " + _counts(manifest.stored))
    if manifest.options.get("raw_share"):
        lines += _forms(directory, manifest)
    if manifest.rejected:
        lines.append("rejected  " + _counts(manifest.rejected) + " (see rejected.csv)")
    lines += [
        f"pixels    {plan}: mean ({_triple(each.mean)}), std ({_triple(each.std)})"
        for plan, each in manifest.pixels.items()
    ]
    if manifest.originals:
        lines.append("originals " + _originals(manifest.originals))
    if manifest.sources:
        lines.append("added     " + _counts(manifest.sources))
    lines.append("options   " + _options(manifest.options))
    lines.append("versions  " + ", ".join(f"{name} {v}" for name, v in manifest.versions.items()))
    return "\n".join(lines)


def _forms(directory: Path, manifest: Manifest) -> list[str]:
    """How many images are arrays and how many JPEGs, with their bytes: what the indexes list."""
    counts = {"npy": 0, "jpg": 0}
    sizes = dict(counts)
    for name in manifest.files:
        if name.endswith(".idx"):
            try:
                text = (directory / name).read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError):
                return []  # `verify` says what is wrong with it
            for kind, size in re.findall(r"^(npy|jpg) \d+ (\d+) ", text, re.MULTILINE):
                counts[kind] += 1
                sizes[kind] += int(size)
    return [
        f"forms     {counts['npy']:,} arrays ({human_bytes(sizes['npy'])}), "
        f"{counts['jpg']:,} JPEGs ({human_bytes(sizes['jpg'])})"
    ]


def printable(text: str) -> str:
    r"""``text`` on one line, whatever it holds: control characters as Python writes them.

    >>> printable("a\nb")
    'a\\nb'
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _counts(counts: Mapping[str, int]) -> str:
    return printable(
        ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items())
    )


def _originals(originals: Mapping[str, float]) -> str:
    text = (
        f"{originals['mean_width']:.0f} x {originals['mean_height']:.0f} px on average, "
        f"{originals['jpeg_share']:.1%} JPEGs"
    )
    quality = originals.get("mean_jpeg_quality")
    return text if quality is None else f"{text} of quality {quality:.0f} (estimated mean)"


def _options(options: Mapping[str, object]) -> str:
    """Those that are set."""
    return printable(
        ", ".join(
            f"{name.replace('_', ' ')} {value}"
            for name, value in options.items()
            if value is not None
        )
    )


def _triple(values: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
