"""What a class may be called."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from shards.errors import UserError

SHOWN = 3


def has_controls(name: str) -> bool:
    """Whether a name holds control characters, which could rewrite a terminal or a table."""
    return any(unicodedata.category(character) == "Cc" for character in name)


def name_notes(names: Sequence[str]) -> list[str]:
    """What is odd about class names, a line each.

    Raises:
        UserError: One holds control characters.
    """
    bad = [repr(name) for name in names if has_controls(name)]
    if bad:
        raise UserError(f"{_counted(bad)} hold control characters; rename them")
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), []).append(repr(name))
    pairs = [" and ".join(each) for each in alike.values() if len(each) > 1]
    foreign = [repr(name) for name in names if _is_foreign(name)]
    notes = [f"{_counted(pairs)} differ only by case or Unicode form: one class?"] if pairs else []
    return [*notes, f"{_counted(foreign)} are not UTF-8"] if foreign else notes


def _is_foreign(name: str) -> bool:
    return any(unicodedata.category(character) == "Cs" for character in name)


def _counted(shown: list[str]) -> str:
    more = ", ..." if len(shown) > SHOWN else ""
    return f"class names {', '.join(shown[:SHOWN])}{more}"
