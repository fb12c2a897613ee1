"""The Kaggle layout: CSV files of ``path,label`` rows, which may repeat a file."""

from __future__ import annotations

import csv
import os
import posixpath
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from preprocess.catalog import MISSING, Catalog, FileState, build_split, list_states
from preprocess.csv_text import csv_errors, describe_header, open_csv
from shards.errors import UserError
from shards.format import SPLITS
from shards.rejects import num_allowed

PATH_COLUMNS = ("image_path", "filepath", "path", "file", "filename", "image")
LABEL_COLUMNS = ("label", "class", "species", "class_name")
if TYPE_CHECKING:
    from _csv import Reader as _Reader

IMAGE_FOLDER = "merged_dataset"
PREFIX = "/kaggle/working/"
SHOWN = 3
"""How many examples of a problem are printed."""


@dataclass
class _Table:
    """One CSV file, its rows resolved to distinct files."""

    folder: Path
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    bad: dict[str, list[str]] = field(default_factory=dict)
    """Kind of problem -> every example."""
    file_of_path: dict[str, int] = field(default_factory=dict)
    file_of_text: dict[str, int] = field(default_factory=dict)
    """The same by the row's own text: most rows repeat one, and need no more than this."""

    def add(self, text: str, label: str, line: int) -> None:
        """Count a row, or note what is wrong with it."""
        if not text or not label:
            self.note("lines with an empty path or label", f"{line}")
            return
        at = self.file_of_text.get(text)
        if at is None:
            path = _relative_path(text, self.folder)
            if path is None:
                self.note("paths that leave the data folder", repr(text))
                return
            at = self.file_of_path.setdefault(path, len(self.paths))
            if at == len(self.paths):
                self.paths.append(path)
                self.labels.append(label)
            self.file_of_text[text] = at
        if self.labels[at] != label:
            example = f"{self.paths[at]!r} ({self.labels[at]!r} and {label!r})"
            self.note("files with two labels", example)
        self.rows.append(at)

    def note(self, kind: str, example: str) -> None:
        """Remember an example of a kind of problem."""
        self.bad.setdefault(kind, []).append(example)


def find_csv_folder(data: Path) -> Path | None:
    """``data``, or the one folder below it, that holds any of the three CSV files.

    Raises:
        UserError: Several folders below it do.
    """
    if _has_table(data):
        return data
    found = sorted(each for each in data.iterdir() if each.is_dir() and _has_table(each))
    if len(found) > 1:
        raise UserError(
            f"{data} holds {len(found)} data sets with CSV files: "
            f"{', '.join(each.name for each in found[:SHOWN])}{', ...' if found[SHOWN:] else ''}; "
            f"name one, such as {found[0]}"
        )
    return found[0] if found else None


def _has_table(folder: Path) -> bool:
    return any(_is_there(folder / f"{split}.csv") for split in SPLITS)


def _is_there(file: Path) -> bool:
    """Whether something bears the name: a folder, a pipe or a broken link is to be named as such."""
    return os.path.lexists(file)


def read_csv_layout(folder: Path, *, seed: int, max_missing: float | None) -> Catalog:
    """Parse the CSV files beside the photographs.

    Raises:
        UserError: All problems of all files in one message, each with its first few examples.
    """
    root = folder / IMAGE_FOLDER if (folder / IMAGE_FOLDER).is_dir() else folder
    tables = {
        split: _read_table(folder / f"{split}.csv", folder)
        for split in SPLITS
        if _is_there(folder / f"{split}.csv")
    }
    class_names = tuple(sorted({label for table in tables.values() for label in table.labels}))
    states = {split: list_states(root, table.paths) for split, table in tables.items()}

    problems = [problem for table in tables.values() for problem in table.problems]
    problems += [f"no {each}.csv in {folder}" for each in ("train", "val") if each not in tables]
    if len(class_names) == 1:
        problems.append(f"one class, {class_names[0]!r}; a classifier needs two or more")
    problems += _contradictions(tables)
    problems += _missing_files(tables, states, root, max_missing)
    if problems:
        found = ", ".join(f"{name}.csv {len(table.rows):,} rows" for name, table in tables.items())
        raise UserError(
            "\n  - ".join(
                [f"cannot pack {folder} ({found}; {len(class_names)} classes):", *problems]
            )
        )

    index = {name: position for position, name in enumerate(class_names)}
    return Catalog(
        root=root,
        layout="csv",
        class_names=class_names,
        splits={
            split: build_split(
                table.paths,
                [index[label] for label in table.labels],
                np.asarray(table.rows, np.int32),
                states[split],
                shuffle_seed=seed if split == "train" else None,
            )
            for split, table in tables.items()
        },
        notes=_notes(tables, class_names),
        asked={"--seed": str(seed)},
    )


def _read_table(file: Path, folder: Path) -> _Table:
    table = _Table(folder)
    try:
        with open_csv(file) as stream:
            reader = csv.reader(stream)
            with csv_errors(file, reader):
                _read_rows(reader, table, file.name)
    except UserError as error:  # such as a quote that is never closed
        table.problems.append(error.message)
    table.problems += [_counted(f"{file.name}: {kind}", each) for kind, each in table.bad.items()]
    if not table.rows and not table.problems:
        table.problems.append(f"{file.name} has no rows")
    return table


def _read_rows(reader: _Reader, table: _Table, name: str) -> None:
    header = [column.strip().lower() for column in next(reader, [])]
    path_at = next((header.index(column) for column in PATH_COLUMNS if column in header), None)
    label_at = next((header.index(column) for column in LABEL_COLUMNS if column in header), None)
    if path_at is None or label_at is None:
        absent = "path" if path_at is None else "label"
        table.problems.append(
            f"{name} has no {absent} column: its header is {describe_header(header)}, "
            "expected image_path,label or filepath,label"
        )
        return
    for column in (header[path_at], header[label_at]):
        if header.count(column) > 1:
            table.problems.append(
                f"{name} has {header.count(column)} columns {column!r}, expected one"
            )
            return
    for row in reader:
        if len(row) > max(path_at, label_at):
            table.add(row[path_at], row[label_at].strip(), reader.line_num)
        elif row:  # blank lines are harmless
            table.note("lines without both columns", f"{reader.line_num}")


def _relative_path(text: str, folder: Path) -> str | None:
    """The path below the image folder that a row means; None where it leads outside.

    The set names its files by where they lay on the machine that made it; what counts is the part
    behind that machine's folder.
    """
    path = text.removeprefix(PREFIX).removeprefix(f"{folder}/")
    before, found, behind = path.rpartition(f"{IMAGE_FOLDER}/")
    if found and (not before or before.endswith("/")) and ".." not in before.split("/"):
        path = behind
    path = posixpath.normpath(path)
    outside = path.startswith(("../", "/")) or path in ("..", ".") or "\0" in path
    return None if outside else path


def _contradictions(tables: dict[str, _Table]) -> list[str]:
    """Files that one split calls this and another one that."""
    first: dict[str, str] = {}
    examples = []
    for table in tables.values():
        for path, label in zip(table.paths, table.labels, strict=True):
            if first.setdefault(path, label) != label:
                examples.append(f"{path!r} ({first[path]!r} and {label!r})")
    return [_counted("files with two labels in different splits", examples)] if examples else []


def _missing_files(
    tables: dict[str, _Table],
    states: dict[str, list[FileState]],
    root: Path,
    max_missing: float | None,
) -> list[str]:
    missing = [
        path
        for split, table in tables.items()
        for path, state in zip(table.paths, states[split], strict=True)
        if state.size == MISSING
    ]
    files = sum(len(table.paths) for table in tables.values())
    if len(missing) <= num_allowed(files, max_missing):
        return []  # few: packing rejects and counts them
    return [_counted(f"of {files:,} files are missing in {root}", [repr(each) for each in missing])]


def _notes(tables: dict[str, _Table], class_names: tuple[str, ...]) -> list[str]:
    notes = []
    names = list(tables)
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            shared = len(set(tables[one].paths) & set(tables[other].paths))
            if shared:
                notes.append(f"{shared:,} files are in both {one} and {other}: scores may flatter")
    unseen = sorted(set(class_names) - set(tables["train"].labels))
    if unseen:
        notes.append(_counted("classes have no training photograph", unseen))
    if "test" not in tables:
        notes.append("no test.csv: training will report validation scores alone")
    return notes


def _counted(what: str, examples: list[str]) -> str:
    more = f", and {len(examples) - SHOWN:,} more" if len(examples) > SHOWN else ""
    return f"{len(examples):,} {what}: {', '.join(examples[:SHOWN])}{more}"
