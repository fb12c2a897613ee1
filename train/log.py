"""The run folder: what is printed, JSON lines, TensorBoard. The one place to add a metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from torch.utils.tensorboard import SummaryWriter

from shards.writer import write_file

METRICS, LOG, CONFIG, SUMMARY = "metrics.jsonl", "train.log", "config.json", "summary.json"


class RunLog:
    """Everything that a run tells the world goes through here."""

    def __init__(self, folder: Path, epochs_done: int = 0) -> None:
        self.folder = folder
        self._forget_after(epochs_done)
        self._writer = SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def say(self, line: str) -> None:
        """Print a line, and keep it in ``train.log``."""
        click.echo(line)
        self.note(line)

    def note(self, line: str) -> None:
        """Keep in ``train.log`` what the program prints as its last line."""
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def metrics(self, epoch: int, values: dict[str, float]) -> None:
        """Record scalars such as ``val/miou`` of an epoch, counted from 1."""
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **values}) + "\n")
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write ``config.json`` or ``summary.json``."""
        write_file(self.folder / name, (json.dumps(content, indent=1) + "\n").encode())

    def _forget_after(self, epochs_done: int) -> None:
        """Drop what a killed session recorded of an epoch that its checkpoint does not know."""
        path = self.folder / METRICS
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if _epoch_of(line) <= epochs_done]
            path.write_text("".join(kept), encoding="utf-8")

    def close(self) -> None:
        """Finish the TensorBoard file."""
        self._writer.close()


def _epoch_of(line: str) -> float:
    """The epoch of a line of metrics; a line that was cut off belongs to none."""
    try:
        return int(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
