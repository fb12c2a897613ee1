"""``python -m train.study NAME``: a question answered on your shards, with a table and a picture."""

from __future__ import annotations

import importlib

import click

from shards.commands import HELP, run
from train.runs.interrupt import importing

STUDIES: dict[str, str] = {
    "conformal": "train.studies.conformal",
    "imbalance": "train.studies.imbalance",
    "unknown": "train.studies.unknown",
}
"""Module of each study; its click command is called ``main``."""


class _Registered(click.Group):
    """Imports a study when it is asked for, so that another one's libraries need not be there."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(STUDIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in STUDIES:
            return None
        with importing():
            command: click.Command = importlib.import_module(STUDIES[cmd_name]).main
        return command


@click.group(cls=_Registered, context_settings=HELP)
def main() -> None:
    """Answer a question on your shards: a table with intervals, a picture, and what predict needs.

    A study that was stopped or killed goes on with the same command.
    """


if __name__ == "__main__":
    run(main, "python -m train.study")
