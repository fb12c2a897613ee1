"""JSON objects that carry their own SHA-256: what a disk changed is found when they are read."""

from __future__ import annotations

import hashlib
import json
from typing import Any

SEAL = "sha256"


def seal(content: dict[str, Any]) -> str:
    """Canonical text of an object with its own hash: the same content gives the same bytes."""
    return canonical(content | {SEAL: digest(content)})


def unseal(content: dict[str, Any]) -> dict[str, Any]:
    """The object without its hash.

    Raises:
        ValueError: It changed since it was written.
    """
    rest = {name: value for name, value in content.items() if name != SEAL}
    if content.get(SEAL) != digest(rest):
        raise ValueError("its sha256 does not match its content")
    return rest


def parse_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: The text is not JSON, is nested beyond all reason, or is no object.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of an object's canonical text.

    Raises:
        ValueError: It is nested too deep to be written.
    """
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def canonical(content: dict[str, Any]) -> str:
    """An object as text, its keys sorted."""
    try:
        return json.dumps(content, indent=1, sort_keys=True) + "\n"
    except RecursionError:
        raise ValueError("it is nested too deep") from None
