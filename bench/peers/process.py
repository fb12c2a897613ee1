"""This end of the protocol of ``scripts/serve.py``: one request, one answer, then standstill.

Between its answers a process and all its workers are stopped by a signal, so that what a loader
prepares ahead does not run while another one is measured.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bench.stock_pillow import last_line
from shards.errors import JobError

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

CLOSE_S = 10.0
"""How long workers may take to end by themselves."""
KEEPER_S = 2.0
SHOWN = 300
"""Characters of a message."""


class PeerProcess:
    """A command that answers a line of JSON with a line of JSON; a context manager.

    Args:
        command: What to run. It is to make itself the leader of a process group.
        log: Takes its stderr.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer to a request; the process stands still before and after.

        Raises:
            JobError: It ended, hangs, answers something else, or tells of an error of its own. It
                is no longer of use then.
        """
        self.tell(request)
        return self.hear(timeout_s)

    def tell(self, request: dict[str, Any]) -> None:
        """Let it run on a request, to be followed by :meth:`hear`."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:  # it has ended, and hear() says how
            pass

    def hear(self, timeout_s: float) -> dict[str, Any]:
        """The answer to what was told; the process stands still afterwards.

        Raises:
            JobError: As of :meth:`ask`.
        """
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise JobError(f"no answer within {timeout_s:.0f} s") from None
        if line is None:
            raise JobError(self._how_it_ended())
        self._stop()
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise JobError(f"answered {line.strip()[:SHOWN]!r}, expected a JSON object")
        if "error" in answer:
            raise JobError(str(answer["error"]).strip()[:SHOWN])
        return answer

    def close(self, patience_s: float = CLOSE_S) -> None:
        """Let it end, and after so many seconds make it and its workers end."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.close()
        except OSError:  # it has ended with a request unread
            pass
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.terminate()
        # Python's keeper of shared memory outlives this one to put away what others left behind.
        self._signal(signal.SIGTERM)
        give_up = time.monotonic() + KEEPER_S
        while self._is_there() and time.monotonic() < give_up:
            time.sleep(0.01)
        if self._is_there():
            self._signal(signal.SIGKILL)
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def _stop(self) -> None:
        """Make it and its workers stand still, and see that it does.

        Were this process killed between the two, the system would wake and end only those that stand
        still by then, and one that a busy machine had not yet stopped would stand there for good.
        """
        if self._signal(signal.SIGSTOP) and self._process.returncode is None:
            # It stays to be waited for: how it ended is Popen's to learn.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _is_there(self) -> bool:
        """Whether it runs, or any of its workers."""
        return self._process.poll() is None or self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> bool:
        """To it and its workers; False where none is left."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            return "it closed its output and runs on"
        try:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        except ValueError:
            how = f"killed by signal {-code}"
        return f"ended with {how}: {last_line(self._log.read_text(errors='replace'))[:SHOWN]}"
