"""Lists of values for fields of the configuration -> the runs of a sweep."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, get_origin

from shards.errors import UserError
from train.config.config import TrainConfig
from train.config.settings import FIELDS, Layer, as_text, parse, settle

MAX_RUNS = 10_000
"""More is a slip of the keyboard."""
NAME_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a sweep."""

    values: Mapping[str, Any]
    """Of the fields that vary."""
    config: TrainConfig

    def __str__(self) -> str:
        return describe(self.values)

    def name(self, fingerprint: str) -> str:
        """Of the run folder: its values to read, and a digest of the whole configuration.

        The same configuration on the same shard set has the same name in any sweep, so a sweep that
        grows finds the runs it already has.
        """
        digest = digest_of([self.config.to_dict(), fingerprint])
        values = (f"{each:.3g}" if isinstance(each, float) else as_text(name, each)
                  for name, each in self.values.items())  # fmt: skip
        readable = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", each) for each in values)
        return f"{readable[:NAME_LENGTH]}-{digest}"


def describe(values: Mapping[str, Any]) -> str:
    """``arch resnet18, image_size 224``."""
    return ", ".join(f"{name} {as_text(name, each)}" for name, each in values.items())


def digest_of(content: object) -> str:
    """Eight hexadecimal digits of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]


def read_values(name: str, texts: Sequence[str]) -> tuple[Any, ...]:
    """The values of a field from its option, which may be given several times.

    A comma stands between values; where a value has commas of its own (``mean``, ``classes``), a
    semicolon.

    Raises:
        UserError: A value is missing, makes no sense or is there twice.
    """
    field = FIELDS[name]
    separator = ";" if get_origin(field.kind) is tuple and name != "fold" else ","
    option = f"--{name.replace('_', '-')}"
    values: list[Any] = []
    for part in (each.strip() for text in texts for each in text.split(separator)):
        if not part:
            raise UserError(f"{option} has an empty value in {separator.join(texts)!r}")
        try:
            value = parse(name, part)
        except ValueError as error:
            raise UserError(f"{option}: {error}") from None
        if value in values:
            raise UserError(f"{option} has {as_text(name, value)} twice; drop one of them")
        values.append(value)
    return tuple(values)


def grid(lists: Mapping[str, Sequence[Any]], layers: Sequence[Layer]) -> list[Point]:
    """Every combination of the values, the last field varying fastest.

    Args:
        lists: Values by field; a field with one value is the same in all runs.
        layers: Below the command line, the strongest first.

    Raises:
        UserError: There are too many, or one of them contradicts itself; the message names it.
    """
    count = math.prod(map(len, lists.values()))
    if count > MAX_RUNS:
        raise UserError(f"{sizes(lists)} are {count:,} runs; at most {MAX_RUNS:,} make a sweep")
    points = list(_points(lists, layers))
    seen: dict[str, Point] = {}
    for point in points:
        twin = seen.setdefault(digest_of(point.config.to_dict()), point)
        if twin is not point:
            raise UserError(f"({twin}) and ({point}) are the same configuration; drop one of them")
    return points


def _points(lists: Mapping[str, Sequence[Any]], layers: Sequence[Layer]) -> Iterator[Point]:
    varied = [name for name, values in lists.items() if len(values) > 1] or list(lists)
    for number, combination in enumerate(product(*lists.values()), 1):
        chosen = dict(zip(lists, combination, strict=True))
        values = {name: chosen[name] for name in varied}
        try:
            yield Point(values, settle([Layer("command line", chosen), *layers]).config)
        except UserError as error:
            raise UserError(f"run {number} ({describe(values)}): {error.message}") from None


def sizes(lists: Mapping[str, Sequence[Any]]) -> str:
    """``arch (2) x image_size (3)``."""
    varied = {name: len(values) for name, values in lists.items() if len(values) > 1}
    return " x ".join(f"{name} ({count})" for name, count in varied.items())
