"""How long a device takes for something, without waiting for it."""

from __future__ import annotations

import time
from types import TracebackType

import torch


class Span:
    """Times what runs, or is handed to a GPU, within.

    A CUDA device works behind the program: two events mark the span among its work, and their
    distance can be read once it has come so far. Elsewhere the program's own clock is read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device.type == "cuda":
            self._events = (_event(), _event())
        self._seconds = 0.0

    def __enter__(self) -> Span:
        """Begin."""
        self._record(0)
        self._seconds = -time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        self._seconds += time.perf_counter()
        self._record(1)

    def _record(self, end: int) -> None:
        if self._events is not None:
            self._events[end].record(torch.cuda.current_stream(self._device))

    def seconds(self) -> float:
        """Its length; of a CUDA device only after what followed it was waited for."""
        if self._events is None:
            return self._seconds
        return float(self._events[0].elapsed_time(self._events[1])) / 1e3


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
