"""Answers as a table for people, as CSV, as JSON lines."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TextIO

from train.inference.answers import UNKNOWN, Answer


class AnswerWriter(Protocol):
    """Writes one answer after the other."""

    def write(self, path: Path, answer: Answer) -> None:
        """Add the answer to a photograph."""
        ...


def in_a_line(path: Path) -> str:
    """A path without line breaks and other control characters, which a name may hold."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: repr(found.group())[1:-1], str(path))


class TableWriter:
    """A line a photograph: the answer, then the other candidates."""

    def __init__(self, file: TextIO, top: int) -> None:
        self._file = file

    def write(self, path: Path, answer: Answer) -> None:
        """Add a line."""
        said = f"{answer.name} {answer.probability:.0%}" if answer.name else answer.rank
        if answer.rank == UNKNOWN:
            said = f"not one of the known species (score {answer.known_score:.4g})"
        rank = f" ({answer.rank})" if answer.name and answer.rank != "species" else ""
        shown = answer.top[1:] if answer.rank == "species" else answer.top
        others = ", ".join(f"{name} {probability:.0%}" for name, probability in shown)
        danger = ""
        if answer.dangerous is not None:
            danger = f"; poisonous or deadly: {answer.dangerous:.1%}"
        chosen = ""
        if answer.species_set is not None:
            chosen = f"; set: {', '.join(answer.species_set) or 'empty'}"
        prior = ""
        if answer.prior is not None:
            prior = f"; prior: {answer.prior or 'no place or date, so none'}"
        self._file.write(f"{in_a_line(path)}: {said}{rank}; else {others}{chosen}{danger}{prior}\n")


class CsvWriter:
    """Columns: path, answer, rank, probability, edibility, dangerous, species and probabilities.

    Then how well the photograph fits the known species, the prediction set, its species between
    semicolons, and what a prior knew; empty where nothing says so.
    """

    def __init__(self, file: TextIO, top: int) -> None:
        self._table = csv.writer(file, lineterminator="\n")
        numbered = [
            f"{name}_{at}" for at in range(1, top + 1) for name in ("species", "probability")
        ]
        self._table.writerow(
            [
                "path",
                "answer",
                "rank",
                "probability",
                "edibility",
                "dangerous",
                *numbered,
                "known_score",
                "set",
                "prior",
            ]
        )

    def write(self, path: Path, answer: Answer) -> None:
        """Add a row."""
        dangerous = "" if answer.dangerous is None else f"{answer.dangerous:.6f}"
        score = answer.known_score
        candidates = [
            text for name, probability in answer.top for text in (name, f"{probability:.6f}")
        ]
        self._table.writerow(
            [path, answer.name, answer.rank, f"{answer.probability:.6f}", answer.edibility,
             dangerous, *candidates, "" if score is None else f"{score:.6g}",
             ";".join(answer.species_set or ()), answer.prior or ""]
        )  # fmt: skip


class JsonLinesWriter:
    """An object a line."""

    def __init__(self, file: TextIO, top: int) -> None:
        self._file = file

    def write(self, path: Path, answer: Answer) -> None:
        """Add a line."""
        content = {
            "path": str(path),
            "answer": answer.name,
            "rank": answer.rank,
            "probability": answer.probability,
            "edibility": answer.edibility,
            "dangerous": answer.dangerous,
            "top": [{"species": name, "probability": value} for name, value in answer.top],
            "known_score": answer.known_score,
            "set": answer.species_set,
            "prior": answer.prior,
        }
        self._file.write(json.dumps(content) + "\n")


WRITERS: dict[str, Callable[[TextIO, int], AnswerWriter]] = {
    "table": TableWriter,
    "csv": CsvWriter,
    "jsonl": JsonLinesWriter,
}
