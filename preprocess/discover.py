"""Which layout a folder has, and the catalogue of what it holds.

Two layouts are understood: the Kaggle one (``train.csv``, ``val.csv``, ``test.csv`` and the
photographs, also one folder deeper), and folders of classes (below ``train/ val/ test/``, or a
stratified 70/15/15 split made here).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from preprocess.catalog import Catalog
from preprocess.class_names import name_notes
from preprocess.csv_layout import find_csv_folder, read_csv_layout
from preprocess.folder_layout import read_folder_layout
from shards.errors import UserError


def read_catalog(data: Path, *, seed: int = 0, max_missing: float | None = None) -> Catalog:
    """Find out what ``data`` holds.

    Args:
        data: The folder that the user named.
        seed: Of the order in which training photographs are stored, and of a split made here.
        max_missing: Share of listed files that may be missing on disk; None for a few
            (:func:`~shards.rejects.num_allowed`).

    Raises:
        UserError: Nothing usable, class names with control characters, or problems with the CSV
            files: all of them in one message.
    """
    if not data.exists():
        raise UserError(f"no such folder: {data}")
    if not data.is_dir():
        raise UserError(f"{data} is a file, expected the folder of the data set")
    csv_folder = find_csv_folder(data)
    if csv_folder is not None:
        catalog = read_csv_layout(csv_folder, seed=seed, max_missing=max_missing)
    else:
        catalog = read_folder_layout(data, seed=seed)
    return replace(catalog, notes=[*catalog.notes, *name_notes(catalog.class_names)])
