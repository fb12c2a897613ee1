"""More training photographs from elsewhere: a CSV beside them, also as GBIF or iNaturalist write it.

Column names are those of GBIF's occurrence and multimedia tables (Darwin Core terms, tab-separated)
and of iNaturalist's observation export, plus ``file``, which neither has: where the photograph was
saved, relative to the CSV. Nothing is downloaded.
"""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from preprocess.audit import photos_of_split
from preprocess.catalog import (
    MISSING,
    Catalog,
    FileState,
    Origin,
    build_split,
    list_states,
    name_with_hash,
)
from preprocess.copies import Photo, find_copies, group_copies
from preprocess.csv_text import csv_errors, describe_header, open_csv
from preprocess.photo_hash import OnHashed, hash_photos
from preprocess.shard_task import SOURCE
from shards.errors import UserError, unknown_name
from shards.format import MANIFEST_NAME, REJECTED_NAME
from shards.rejects import EXCLUDED, num_allowed

FILE_COLUMNS = ("file", "filename", "filepath", "path", "image_path", "image")
# GBIF's own `class` is the taxonomic one (Agaricomycetes), so it comes behind the species' names.
LABEL_COLUMNS = (
    "label",
    "species",  # GBIF: the accepted name without author
    "taxon_species_name",  # iNaturalist
    "scientific_name",
    "scientificname",  # GBIF: with author
    "class_name",
    "class",
)
METADATA_COLUMNS = {
    "latitude": ("latitude", "decimallatitude", "lat"),
    "longitude": ("longitude", "decimallongitude", "lon", "lng"),
    "date": ("date", "eventdate", "observed_on", "created"),
    "url": ("url", "references", "image_url", "identifier", "occurrenceid"),
    "licence": ("licence", "license"),
    SOURCE: (SOURCE, "datasetname", "publisher", "institutioncode"),
}
"""Field of the sample's ``.json`` -> columns that hold it, the first that is not empty."""

LIMITS = {"latitude": 90.0, "longitude": 180.0}
REFUSED = f"{EXCLUDED}added copy of a "
SHOWN = 3


@dataclass
class _Table:
    """One ``--add`` CSV, its rows resolved to distinct files."""

    folder: Path
    name: str
    paths: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def complain(self, what: str, example: str) -> None:
        self.problems.setdefault(what, []).append(example)


def add_photos(
    catalog: Catalog, files: list[Path], *, seed: int, max_missing: float | None
) -> Catalog:
    """Add the photographs of CSV files to train.

    In the catalogue a photograph is called ``<name of the CSV>:<file>``, so that its name does not
    depend on where the CSV lies.

    Args:
        catalog: What to add to.
        files: CSV files, each with its photographs beside or below it.
        seed: Of the order in which training photographs are stored.
        max_missing: Share of the listed files of each CSV that may be missing on disk; None for a
            few (:func:`~shards.rejects.num_allowed`).

    Raises:
        UserError: All problems of all files in one message, each with its first few examples.
    """
    if "train" not in catalog.splits:
        raise UserError("there is no train split to add to")
    names = [file.name for file in files]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two --add files are called {name}; rename one, it names its photos")
    train, origins, notes = catalog.splits["train"], dict(catalog.origins), list(catalog.notes)
    paths, labels, rows = list(train.paths), train.labels.tolist(), [train.rows]
    states = list(map(FileState, train.sizes.tolist(), train.times.tolist()))
    problems: list[str] = []
    for file in files:
        table = _read_table(file, catalog.class_names)
        found = list_states(table.folder, table.paths)
        missing = [
            path for path, state in zip(table.paths, found, strict=True) if state.size == MISSING
        ]
        if len(missing) > num_allowed(len(table.paths), max_missing):
            table.problems[f"of {len(table.paths):,} files are missing in {table.folder}"] = missing
        problems += [_counted(table.name, what, each) for what, each in table.problems.items()]
        rows.append(np.asarray(table.rows, np.int32) + np.int32(len(paths)))
        paths += [f"{table.name}:{path}" for path in table.paths]
        labels += table.labels
        states += found
        for path, metadata in zip(table.paths, table.metadata, strict=True):
            text = json.dumps(metadata, sort_keys=True)
            origins[f"{table.name}:{path}"] = Origin(table.folder / path, metadata=text)
        notes.append(f"{len(table.paths):,} photographs of {file} are added to train")
    if problems:
        raise UserError("\n  - ".join(["cannot add photographs:", *problems]))
    split = build_split(paths, labels, np.concatenate(rows), states, shuffle_seed=seed)
    return replace(
        catalog,
        splits=catalog.splits | {"train": split},
        origins=origins,
        notes=notes,
        asked=catalog.asked | {"--add": ", ".join(map(name_with_hash, sorted(files)))},
    )


def refuse_copies(
    catalog: Catalog, out: Path, executor: Executor, on_hashed: OnHashed = lambda count: None
) -> Catalog:
    """Leave out added photographs that are exact or near copies of val or test photographs.

    A published set in ``out`` already says which they were; else all of val, test and the added
    ones are hashed.
    """
    refused = _refused_before(catalog, out)
    if refused is None:
        refused = _find_refused(catalog, executor, on_hashed)
    note = f"{len(refused):,} added photographs are copies of val or test and left out"
    return replace(
        catalog,
        excluded=catalog.excluded | refused,
        notes=[*catalog.notes, note] if refused else catalog.notes,
    )


def num_to_compare(catalog: Catalog) -> int:
    """How many photographs :func:`refuse_copies` hashes."""
    return len(_to_compare(catalog))


def _to_compare(catalog: Catalog) -> list[Photo]:
    return [
        photo
        for split in catalog.splits
        for photo in photos_of_split(catalog, split)
        if split != "train" or photo.path in catalog.origins
    ]


def _find_refused(catalog: Catalog, executor: Executor, on_hashed: OnHashed) -> dict[str, str]:
    photos = _to_compare(catalog)
    hashes = hash_photos([catalog.origin(photo.path) for photo in photos], executor, on_hashed)
    groups = group_copies(find_copies(photos, hashes))
    refused: dict[str, str] = {}
    for group in groups:
        around = [group, *(groups[near] for near in group.near)]
        evaluated = (each for part in around for each in part.members if each.split != "train")
        original = next(evaluated, None)
        if original is not None:
            reason = f"{REFUSED}{original.split} photograph ({original.path})"
            refused |= {each.path: reason for each in group.members if each.split == "train"}
    return refused


def _refused_before(catalog: Catalog, out: Path) -> dict[str, str] | None:
    """What a published set refused; None where there is none to tell."""
    if not (out / MANIFEST_NAME).is_file():
        return None
    try:
        text = (out / REJECTED_NAME).open(encoding="utf-8", errors="surrogateescape", newline="")
        with text as file:
            return {
                row["path"]: row["reason"]
                for row in csv.DictReader(file)
                if row["path"] in catalog.origins and row["reason"].startswith(REFUSED)
            }
    except (OSError, KeyError, csv.Error):
        return None


def _read_table(file: Path, class_names: tuple[str, ...]) -> _Table:
    table = _Table(folder=file.parent, name=file.name)
    label_of = {name: label for label, name in enumerate(class_names)}
    file_of: dict[str, int] = {}
    unknown: set[str] = set()
    with open_csv(file) as stream:
        reader = dict_reader(stream, file)
        for row in rows_of(reader, file):
            path, name = first_of(row, FILE_COLUMNS), _label_of(row, label_of)
            line = str(reader.line_num)
            if not path or not name:
                table.complain("lines without a file or a label", line)
                continue
            path = posixpath.normpath(path)
            if path.startswith(("../", "/")) or path in ("..", ".") or "\0" in path:
                table.complain("paths that leave the folder of the CSV", repr(path))
                continue
            if name not in label_of:
                if name not in unknown:
                    table.complain("labels are no class", unknown_name("class", name, class_names))
                unknown.add(name)
                continue
            at = file_of.setdefault(path, len(table.paths))
            if at == len(table.paths):
                table.paths.append(path)
                table.labels.append(label_of[name])
                table.metadata.append(_metadata(row, table, line))
            elif table.labels[at] != label_of[name]:
                names = f"{class_names[table.labels[at]]!r} and {name!r}"
                table.complain("lines give a file a second label", f"{path!r} ({names})")
            table.rows.append(at)
    if not table.rows and not table.problems:
        raise UserError(f"{file} lists no photographs")
    return table


def dict_reader(
    stream: IO[str], file: Path, needed: Sequence[str] = ("file", "label")
) -> csv.DictReader[str]:
    """Rows by lower-case column name; GBIF separates by tabs and quotes nothing.

    Raises:
        UserError: There is no column of what is needed, or two of one name.
    """
    tabs = "\t" in stream.readline()
    stream.seek(0)
    reader = csv.DictReader(
        stream,
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
    )
    with csv_errors(file, reader.reader):
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
    for what in needed:
        wanted = {"file": FILE_COLUMNS, "label": LABEL_COLUMNS}[what]
        if not set(wanted) & set(columns):
            raise UserError(
                f"{file} has no {what} column: its header is {describe_header(columns)}"
                f", expected {','.join(needed)} or, for {what}, one of {', '.join(wanted)}"
            )
        twice = next((name for name in wanted if columns.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{file} has {columns.count(twice)} columns {twice!r}, expected one")
    reader.fieldnames = columns
    return reader


def rows_of(reader: csv.DictReader[str], file: Path) -> Iterator[dict[str, Any]]:
    """The rows, with one line for what cannot be read."""
    with csv_errors(file, reader.reader):
        yield from reader


def _label_of(row: dict[str, Any], label_of: dict[str, int]) -> str:
    """The label of a row; of a scientific name with author the first two words, if need be."""
    name = first_of(row, LABEL_COLUMNS)
    binomial = " ".join(name.split()[:2])
    return binomial if name not in label_of and binomial in label_of else name


def _metadata(row: dict[str, Any], table: _Table, line: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for name, columns in METADATA_COLUMNS.items():
        text = first_of(row, columns)
        if not text:
            continue
        if name in LIMITS:
            try:
                metadata[name] = float(text)
            except ValueError:
                metadata[name] = float("nan")
            if not abs(metadata[name]) <= LIMITS[name]:
                table.complain(f"lines with an impossible {name}", f"{line} ({text!r})")
        else:
            metadata[name] = text
    return {SOURCE: Path(table.name).stem} | metadata


def first_of(row: dict[str, Any], columns: tuple[str, ...]) -> str:
    """The first of some columns that is not empty."""
    values = (row.get(name) for name in columns)
    return next((value.strip() for value in values if value and value.strip()), "")


def _counted(name: str, what: str, examples: list[str]) -> str:
    more = f", and {len(examples) - SHOWN:,} more" if len(examples) > SHOWN else ""
    return f"{name}: {len(examples):,} {what}: {', '.join(examples[:SHOWN])}{more}"
