"""How long a session may run, and how much of it a kill may cost: what two options say."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any

import click

CHECKPOINT_EVERY_S = 600.0
"""Writing 500 MB (resnet101 with its moments) takes seconds: well below 1 % of ten minutes."""
UNITS_S = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?){unit})?" for unit in UNITS_S))


@dataclass(frozen=True, slots=True, kw_only=True)
class Safety:
    """When a session saves between epochs, and when it ends by itself.

    Of the session, not of the run: a resumed run may have others.
    """

    checkpoint_every_s: float | None = CHECKPOINT_EVERY_S
    checkpoint_every_steps: int | None = None
    time_limit_s: float | None = None
    started: float = field(default_factory=time.monotonic)
    """When the limit began to run."""

    @property
    def over(self) -> bool:
        """Whether the time limit has come."""
        limit = self.time_limit_s
        return limit is not None and time.monotonic() - self.started >= limit

    def is_save_due(self, seconds: float, steps: int) -> bool:
        """Whether so much since the last checkpoint is more than a kill may cost."""
        every_s, every_steps = self.checkpoint_every_s, self.checkpoint_every_steps
        return (every_s is not None and seconds >= every_s) or (
            every_steps is not None and steps >= every_steps
        )


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``45m``, ``3h55m`` or ``1d12h``.

    Raises:
        ValueError: It is none of these, or no time at all.
    """
    match = _DURATION.fullmatch(text.replace(" ", ""))
    seconds = sum(
        float(number) * UNITS_S[unit]
        for unit, number in (match.groupdict() if match else {}).items()
        if number is not None
    )
    if seconds <= 0:
        raise ValueError(f"{text!r} is not a time such as 90s, 45m or 3h55m")
    return seconds


def duration_text(seconds: float) -> str:
    """The reverse of :func:`parse_duration`, in the largest unit that is exact."""
    for unit, length in UNITS_S.items():
        if seconds % length == 0:
            return f"{seconds // length:.0f}{unit}"
    return f"{seconds}s"


def duration_of(_context: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """``3h55m`` -> seconds."""
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), param=param) from None


def checkpoint_every_of(
    _context: click.Context, param: click.Parameter, value: str | None
) -> dict[str, Any] | None:
    """``10m``, ``500`` or ``10m,500`` -> two fields of :class:`Safety`; what is not given is off."""
    if value is None:
        return None
    fields: dict[str, float] = {}
    for part in value.split(","):
        is_steps = re.fullmatch(r"[1-9]\d*", part.strip()) is not None
        name = "checkpoint_every_steps" if is_steps else "checkpoint_every_s"
        try:
            number = int(part) if is_steps else parse_duration(part)
        except ValueError:
            number = None
        if number is None or name in fields:
            raise click.BadParameter(
                f"{value!r} is not a time such as 10m, a number of steps such as 500, or both as in "
                "10m,500",
                param=param,
            )
        fields[name] = number
    return {"checkpoint_every_s": None, "checkpoint_every_steps": None} | fields
