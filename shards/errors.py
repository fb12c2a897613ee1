"""Errors that a user sees: one line that says what is wrong, and the exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import IO, Any

import click


class UserError(click.ClickException):
    """A mistake in what the user gave: options, paths, data. Exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message without click's usage lines."""
        click.echo(f"error: {self.format_message()}", file=file, err=file is None)


class ShardError(UserError):
    """A shard set that is missing, unfinished, damaged or of another format."""


class JobError(UserError):
    """A job that started well and failed. Exit code 1."""

    exit_code = 1


class Interrupted(UserError):
    """A job that was asked to stop and saved its work. Exit code 130 (SIGINT) or 143 (SIGTERM)."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message: stopping on request is not an error."""
        click.echo(self.format_message(), file=file, err=file is None)


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> str:
    """The message for a name that is not one of ``known``, with the nearest one.

    >>> unknown_name("arch", "resnet5", ["resnet50", "vgg11"])
    "unknown arch 'resnet5'; did you mean 'resnet50'?"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        suggestion = f"did you mean {near[0]!r}?"
    else:
        suggestion = f"known: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
    return f"unknown {kind} {name!r}; {suggestion}{' ' + hint if hint else ''}"
