"""Where a run's record goes: the terminal, ``train.log``, JSON lines, pictures, TensorBoard, W&B.

What is recorded stands in ``train/runs/record.py``. All curves have the images seen so far as their
horizontal axis: runs of different batch sizes and epoch lengths compare, and a resumed run goes on
where its checkpoint was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from shards.writer import write_file
from train.runs.figures import Picture, encode_png
from train.runs.wandb_log import WandbRun

METRICS, STEPS, LOG = "metrics.jsonl", "steps.jsonl", "train.log"
P = ParamSpec("P")
CONFIG, SUMMARY, FIGURES = "config.json", "summary.json", "figures"


def _counted(
    record: Callable[Concatenate[RunLog, P], None],
) -> Callable[Concatenate[RunLog, P], None]:
    """Add the time that a method takes to that of recording."""

    @wraps(record)
    def counted(log: RunLog, /, *args: P.args, **options: P.kwargs) -> None:
        start = time.perf_counter()
        record(log, *args, **options)
        log._spent_s += time.perf_counter() - start

    return counted


class RunLog:
    """Everything that a run tells the world goes through here."""

    def __init__(
        self,
        folder: Path,
        samples_seen: int = 0,
        wandb: WandbRun | None = None,
        in_epochs: int | None = None,
    ) -> None:
        """Go on with a record from where a checkpoint is.

        Args:
            folder: Of the run.
            samples_seen: By the checkpoint.
            wandb: Where the record goes, too.
            in_epochs: How many of them in epochs that were evaluated; by default all. Else a kill
                between an epoch's record and its checkpoint would leave that record twice.
        """
        self.folder = folder
        _forget_after(folder / METRICS, samples_seen if in_epochs is None else in_epochs)
        _forget_after(folder / STEPS, samples_seen)
        self._tensorboard = SummaryWriter(str(folder), purge_step=samples_seen + 1)
        self._wandb = wandb
        self._spent_s = 0.0

    def spent_s(self) -> float:
        """Seconds in the methods that record since this was last asked."""
        spent, self._spent_s = self._spent_s, 0.0
        return spent

    @_counted
    def say(self, line: str) -> None:
        """Print a line, and keep it in ``train.log``."""
        with tqdm.external_write_mode():  # a bar on the terminal makes room
            click.echo(line)
        self.note(line)

    def note(self, line: str) -> None:
        """Keep in ``train.log`` what the program prints as its last line."""
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    @_counted
    def metrics(self, epoch: float, samples_seen: int, values: Mapping[str, float]) -> None:
        """Record what an evaluation brought, such as ``val/miou``; ``epoch``: how many are done."""
        self._append(METRICS, {"epoch": epoch, "samples_seen": samples_seen, **values})
        self._scalars(samples_seen, values)
        self._tensorboard.flush()

    @_counted
    def step(self, samples_seen: int, values: Mapping[str, float]) -> None:
        """Record what was read between two evaluations, such as ``step/loss``."""
        self._append(STEPS, {"samples_seen": samples_seen, **values})
        self._scalars(samples_seen, values)

    @_counted
    def figures(self, samples_seen: int, pictures: Mapping[str, Picture]) -> None:
        """Show pictures such as ``val/confusion``; the last one of a name is also a file."""
        folder = self.folder / FIGURES
        folder.mkdir(exist_ok=True)
        for name, picture in pictures.items():
            encoded = encode_png(picture)
            write_file(folder / f"{name.replace('/', '-')}.png", encoded)
            # Not add_image, which would encode the picture a second time.
            height, width, channels = picture.shape
            image = Summary.Image(
                height=height, width=width, colorspace=channels, encoded_image_string=encoded
            )
            self._summary(Summary(value=[Summary.Value(tag=name, image=image)]), samples_seen)
        if self._wandb is not None:
            self._wandb.figures(samples_seen, pictures)

    def result(self, config: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Record hyperparameters beside final scores: TensorBoard's HPARAMS, W&B's summary."""
        # Not add_hparams: it writes to a folder of its own, which then looks like another run.
        for part in hparams(flat(config), dict(scores)):  # type: ignore[no-untyped-call]
            self._summary(part)
        for name, value in scores.items():
            self._tensorboard.add_scalar(name, value)
        if self._wandb is not None:
            self._wandb.result(scores)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write ``config.json`` or ``summary.json``."""
        write_file(self.folder / name, (json.dumps(content, indent=1) + "\n").encode())

    def close(self) -> None:
        """Finish the TensorBoard file and the W&B run."""
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.close()

    def _summary(self, summary: Summary, samples_seen: int | None = None) -> None:
        self._tensorboard.file_writer.add_summary(summary, samples_seen)  # type: ignore[attr-defined]

    def _append(self, name: str, values: dict[str, float]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def _scalars(self, samples_seen: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, samples_seen)
        if self._wandb is not None:
            self._wandb.scalars(samples_seen, values)


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, bool | int | float | str]:
    """Nested fields as ``augment.hflip_prob``; what is no number or text becomes text."""
    fields: dict[str, bool | int | float | str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{above}{name}.")
        else:
            plain = isinstance(value, bool | int | float | str)
            fields[above + name] = value if plain else str(value)
    return fields


def _forget_after(path: Path, samples_seen: int) -> None:
    """Drop the lines that a killed session wrote after the checkpoint that the run resumes from."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _samples_of(line) <= samples_seen]
        write_file(path, "".join(kept).encode())


def _samples_of(line: str) -> float:
    """The images seen at a line; a line that was cut off belongs to none."""
    try:
        return int(json.loads(line)["samples_seen"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
