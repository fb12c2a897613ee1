"""How every command of the project starts and ends: exit codes, and no traceback for a mistake."""

from __future__ import annotations

import errno
import io
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import click

from shards.errors import Interrupted

HELP = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}
"""``context_settings`` of every command: defaults are always shown."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN_S = 0.01


class _Stop(KeyboardInterrupt):
    """Raised in the main thread by the first SIGINT or SIGTERM.

    No library swallows it, as ``except Exception`` would an :class:`Interrupted`.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


class FiniteRange(click.FloatRange):
    """Numbers from an interval; unlike click's own it takes no nan, which is in no interval."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Text to the number; a usage error where it is none."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


def run(command: click.Command, prog_name: str) -> NoReturn:
    """Run a click command and end the process.

    Exit codes: 0 done, 1 the job failed, 2 the user's mistake, 130 or 143 stopped on request.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name need not be printable
            stream.reconfigure(errors="backslashreplace")
    sys.unraisablehook = _stop_again
    for each in STOP_SIGNALS:
        signal.signal(each, _raise_stop)
    code = _exit_code_of(command, prog_name)
    _ignore_signals()  # nothing tears apart how the interpreter ends
    sys.exit(code)


def _exit_code_of(command: click.Command, prog_name: str) -> int:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # held since the program began
        # Not command.main(): it turns a closed pipe into a silent exit code 1.
        with command.make_context(prog_name, sys.argv[1:]) as context:
            command.invoke(context)
        sys.stdout.flush()  # a closed pipe shows here rather than at interpreter shutdown
        return 0
    except click.exceptions.Exit as leave:  # --help
        return leave.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        asked = error.ctx.command_path if error.ctx is not None else prog_name
        message = " ".join(error.format_message().split())  # click lists choices line by line
        click.echo(f"error: {message} (see {asked} --help)", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as stop:
        click.echo("interrupted", err=True)
        return stop.exit_code if isinstance(stop, _Stop) else 130
    except BrokenPipeError:
        # The reader went away (`... | head`): normal, and nothing more may be written there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        click.echo(f"error: {describe_os_error(error)}{_way_on(error)}", err=True)
        return 1


def _way_on(error: OSError) -> str:
    """What to do about it, where that is plain."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "; free some room and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "; check its permissions"
    return ""


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
    before: dict[signal.Signals, Any] = {
        each: signal.signal(each, _raise_stop) for each in STOP_SIGNALS
    }
    try:
        yield
    except _Stop as stop:
        raise Interrupted(message, exit_code=stop.exit_code) from None
    finally:
        for each, handler in before.items():
            if handler is not _raise_stop:  # else what is further out deals with it, when it ends
                signal.signal(each, handler)


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep signals for later, and for ever in every process that is started meanwhile.

    For the main thread, within :func:`run` or :func:`stop_on_signals`.
    """
    # What this thread blocks its children inherit; the kernel may hand the signal to another one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    _held.holding = True
    try:
        yield
    finally:
        _held.holding = False
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if _held.signum is not None:
            signum, _held.signum = _held.signum, None
            _raise_stop(signum, None)


@dataclass
class _Held:
    """Whether signals wait, and the one that does."""

    holding: bool = False
    signum: int | None = None


_held = _Held()


def _raise_stop(signum: int, _frame: FrameType | None) -> None:
    if _held.holding:
        _held.signum = signum
        return
    _ignore_signals()
    raise _Stop(signum)


def _ignore_signals() -> None:
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)


def _stop_again(lost: Any) -> None:
    """Ask once more for a stop that fell into a destructor or a callback, where Python drops it."""
    if not isinstance(lost.exc_value, _Stop):
        sys.__unraisablehook__(lost)
        return
    for each in STOP_SIGNALS:
        signal.signal(each, _raise_stop)
    signum = lost.exc_value.exit_code - 128
    threading.Timer(AGAIN_S, os.kill, (os.getpid(), signum)).start()
