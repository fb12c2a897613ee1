"""How every command of the project starts and ends: exit codes, and no traceback for a mistake."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

from shards.errors import Interrupted

HELP = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}
"""``context_settings`` of every command: defaults are always shown."""


def run(command: click.Command, prog_name: str) -> NoReturn:
    """Run a click command and end the process.

    Exit codes: 0 done, 1 the job failed, 2 the user's mistake, 130 or 143 stopped on request.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name need not be printable
            stream.reconfigure(errors="backslashreplace")
    try:
        # Not command.main(): it turns a closed pipe into a silent exit code 1.
        with command.make_context(prog_name, sys.argv[1:]) as context:
            command.invoke(context)
        sys.stdout.flush()  # a closed pipe shows here rather than at interpreter shutdown
        code = 0
    except click.exceptions.Exit as leave:  # --help
        code = leave.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.UsageError as error:
        click.echo(f"error: {error.format_message()} (see {prog_name} --help)", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        # The reader went away (`... | head`): normal, and nothing more may be written there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        click.echo(f"error: {describe_os_error(error)}", err=True)
        code = 1
    sys.exit(code)


def describe_os_error(error: OSError) -> str:
    """What the operating system refused, and for which file."""
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}"


@contextmanager
def stop_on_signals(message: str) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into :class:`Interrupted`, raised in the main thread.

    ``message`` says how to go on. A second signal while unwinding is ignored, so that clean-up
    which takes a second is not torn apart by an impatient Ctrl-C.
    """

    def stop(signum: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(message, exit_code=128 + signum)

    before: dict[signal.Signals, Any] = {
        each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
