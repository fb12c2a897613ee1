"""Plain data of a file -> a typed dataclass, each field checked: a file can hold anything."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from shards.errors import unknown_name

T = TypeVar("T")


def from_plain(kind: type[T], content: object, where: str) -> T:
    """Build a dataclass from a dictionary.

    Fields may be numbers, text, tensors, literals, optional values, tuples (lists will do, as JSON
    knows no other), dictionaries, and dataclasses of these.

    Args:
        kind: The dataclass.
        content: What the file holds.
        where: What messages call it.

    Raises:
        ValueError: A field is missing, unknown, or of another type; the message names it.
        OverflowError: A whole number is too large for a field of floats.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where} is {_kind_of(content)}, expected a dictionary")
    hints = get_type_hints(kind)
    for name in content:
        if name not in hints:
            raise ValueError(unknown_name(f"{where} field", str(name), hints))
    for each in fields(cast(Any, kind)):
        required = each.default is MISSING and each.default_factory is MISSING
        if required and each.name not in content:
            raise ValueError(f"{where} has no {each.name}")
    return kind(
        **{name: checked(hints[name], each, f"{where}.{name}") for name, each in content.items()}
    )


def checked(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the annotation ``hint`` has it.

    Raises:
        ValueError: It is of another type; the message begins with ``where``.
        OverflowError: A whole number is too large for a float.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return from_plain(cast(Any, hint), value, where)
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        kinds = [part for part in parts if part is not NoneType]
        return checked(
            next((each for each in kinds if type(value) is each), kinds[0]), value, where
        )
    if origin is Literal:
        if isinstance(value, str) and value in parts:
            return value
        raise ValueError(f"{where} is none of {', '.join(parts)}")
    if origin is tuple and isinstance(value, tuple | list):
        of_each = parts[:1] * len(value) if parts[-1] is ... else parts
        if len(of_each) != len(value):
            raise ValueError(f"{where} has {len(value)} values, expected {len(of_each)}")
        pairs = zip(of_each, value, strict=True)
        return tuple(checked(part, each, where) for part, each in pairs)
    if origin is dict and isinstance(value, dict):
        found = {}
        for name, each in value.items():
            checked(parts[0], name, where)
            found[name] = checked(parts[1], each, f"{where}.{name}")
        # A state dictionary stays as it is: it carries the versions of its modules.
        return found if is_dataclass(parts[1]) else value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is hint:
        return value
    raise ValueError(f"{where} is {_kind_of(value)}, expected {(origin or hint).__name__}")


def _kind_of(value: object) -> str:
    """What a message says of a value, which may be long or hard to print."""
    return f"of type {type(value).__name__}"
