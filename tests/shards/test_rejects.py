"""How many photographs may be unusable: by default a few of a small set, else what is said."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from shards.rejects import describe_too_many, max_rejected_option, num_allowed


@pytest.mark.parametrize(
    ("files", "allowed"), [(0, 0), (9, 0), (10, 1), (29, 2), (30, 3), (300, 3), (72_870, 728)]
)
def test_without_the_option_it_is_one_percent_or_a_few(files: int, allowed: int) -> None:
    assert num_allowed(files, None) == allowed


@given(files=st.integers(0, 10**6), percent=st.integers(0, 100))
def test_the_option_is_taken_at_its_word(files: int, percent: int) -> None:
    assert num_allowed(files, percent / 100) == files * percent // 100


def test_the_message_counts_reasons_and_names_the_rule() -> None:
    reasons = ["not an image", "not an image", "missing", "excluded: copy (a.jpg)"]
    assert describe_too_many(reasons, 20, None) == (
        "3 of 20 photographs were rejected (2 not an image, 1 missing), more than the 2 that are "
        "allowed without --max-rejected"
    )
    assert describe_too_many(reasons, 300, None) is None
    assert describe_too_many(reasons, 300, 0.005) == (
        "3 of 300 photographs were rejected (2 not an image, 1 missing), more than "
        "--max-rejected 0.5 (percent) allows"
    )


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "None"), ("0", "0.0"), ("5", "0.05"), ("100", "1.0")]
)
def test_the_command_gets_a_share(value: str | None, expected: str) -> None:
    assert invoke(value) == (0, f"{expected}\n")


@pytest.mark.parametrize("value", ["nan", "-nan", "-1", "101", "inf", "many"])
def test_what_is_no_percentage_is_refused(value: str) -> None:
    code, output = invoke(value)
    assert code == 2
    assert "'--max-rejected'" in output


def invoke(value: str | None) -> tuple[int, str]:
    @click.command()
    @max_rejected_option
    def command(max_rejected: float | None) -> None:
        click.echo(max_rejected)

    arguments = [] if value is None else [f"--max-rejected={value}"]
    done = CliRunner().invoke(command, arguments)
    return done.exit_code, "None\n" if done.output == "\n" else done.output
