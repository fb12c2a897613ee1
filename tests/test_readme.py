"""Every command that the README shows exists, with every option it is shown with."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OURS = ("make", "python", "bench")


def shown_commands() -> list[str]:
    """Commands in sh blocks, console blocks (behind ``$``) and the table of commands."""
    lines = []
    for language, block in re.findall(r"```(sh|console)\n(.*?)```", README, re.DOTALL):
        for line in block.splitlines():
            if language == "sh":
                lines.append(line)
            elif line.startswith("$ "):
                lines.append(line[2:])
    lines += re.findall(r"`((?:make|python -m|bench)\b[^`]*)`", README)
    commands = [line.split("#")[0].strip() for line in lines]
    return sorted({command for command in commands if command.split(" ")[0] in OURS})


COMMANDS = shown_commands()


def test_the_readme_shows_the_commands_of_every_package() -> None:
    text = "\n".join(COMMANDS)
    for needed in ("make demo", "make test", "make shards", "python -m train", "bench"):
        assert needed in text
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("make")])
def test_make_knows_the_target(command: str) -> None:
    words = [word for word in shlex.split(command) if word != "..."]
    done = subprocess.run(
        ["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [each for each in COMMANDS if not each.startswith("make")])
def test_the_help_of_the_command_names_its_options(command: str) -> None:
    words = shlex.split(command)
    module, rest = ("bench", words[1:]) if words[0] == "bench" else (words[2], words[3:])
    entry = entry_of(module)
    known = entry.list_commands(click.Context(entry)) if isinstance(entry, click.Group) else []
    named = [word for word in rest[:1] if word in known]
    by_default = ["pack"] if module == "preprocess" else []
    page = help_of(entry, named or by_default)
    for option in (word for word in rest if word.startswith("--")):
        assert option in page, f"{command!r}: {option} is not in its help"


def entry_of(module: str) -> click.Command:
    """The click command behind ``python -m module``."""
    if (ROOT / module.replace(".", "/")).is_dir():
        module += ".__main__"
    loaded = importlib.import_module(module)
    entry = getattr(loaded, "cli", None) or loaded.main
    assert isinstance(entry, click.Command)
    return entry


def help_of(entry: click.Command, subcommand: list[str]) -> str:
    done = CliRunner().invoke(entry, [*subcommand, "--help"])
    assert done.exit_code == 0, done.output
    return done.output
