"""What a class may be called."""

from __future__ import annotations

import unicodedata


def has_controls(name: str) -> bool:
    """Whether a name holds control characters, which could rewrite a terminal or a table."""
    return any(unicodedata.category(character) == "Cc" for character in name)
