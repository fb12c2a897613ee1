"""The label of a sample that somebody else packed, as text."""

from __future__ import annotations

import re
from typing import Any

from preprocess.class_names import has_controls
from shards.format import LABEL_DIGITS

LABEL_FIELDS = ("label", "cls", "class", "class_name", "target", "species")
"""Of a sample's JSON, the first that serves."""

MAX_CLASSES = 10**LABEL_DIGITS
"""More do not fit a shard's labels."""

LABEL_BYTES = 1000
"""No label is longer, nor a number that Python would take minutes over."""


class BadLabel(Exception):
    """Says what is wrong with the labels of some samples."""


def label_of(cls: bytes | None, foreign: Any) -> str:
    """The label as text: a class name, or digits.

    Args:
        cls: Content of the sample's ``.cls``, to ``LABEL_BYTES + 1`` bytes; None without one.
        foreign: The sample's JSON, which counts where there is no ``.cls``.

    Raises:
        BadLabel: There is none, or none that names a class.
    """
    label = _json_label(foreign) if cls is None else _cls_label(cls)
    if not label:
        raise BadLabel("samples have no label")
    if len(label) > LABEL_BYTES:
        raise BadLabel(_TOO_LONG)
    if not _is_text(label):
        raise BadLabel(_NO_UTF8)
    if has_controls(label):
        raise BadLabel("samples have a label with control characters")
    if re.fullmatch(r"-\d+", label):
        raise BadLabel("samples have a negative label (often: unlabelled)")
    if is_number(label) and int(label) >= MAX_CLASSES:
        raise BadLabel(f"samples have a label beyond {MAX_CLASSES - 1:,}")
    return label


def is_number(label: str) -> bool:
    """Whether a label is a whole number, and so a position among class names."""
    return label.isascii() and label.isdigit()


_TOO_LONG = f"samples have a label of more than {LABEL_BYTES:,} characters"
_NO_UTF8 = "samples have a label that is not UTF-8"


def _cls_label(cls: bytes) -> str:
    if len(cls) > LABEL_BYTES:
        raise BadLabel(_TOO_LONG)
    return cls.decode("utf-8-sig", errors="surrogateescape").strip()


def _json_label(foreign: Any) -> str:
    if isinstance(foreign, dict):
        values = [foreign[name] for name in LABEL_FIELDS if foreign.get(name) is not None]
    else:
        values = [] if foreign is None or isinstance(foreign, str) else [foreign]
    for value in values:
        if isinstance(value, int | str) and not isinstance(value, bool):
            return str(value).strip()
    if values:
        raise BadLabel("samples have a JSON label that is neither a name nor a whole number")
    return ""


def _is_text(label: str) -> bool:
    try:
        label.encode()
    except UnicodeEncodeError:  # a surrogate: a byte that is none of UTF-8, or JSON's own
        return False
    return True
