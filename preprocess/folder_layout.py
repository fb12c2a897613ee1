"""Folders of classes: ``train/<class>/<file>`` and so on, or ``<class>/<file>`` to be split."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from preprocess.catalog import Catalog, SplitCatalog, build_split, list_sizes
from shards.errors import UserError
from shards.format import SPLITS

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
Photos = dict[str, list[str]]
"""Class name -> paths of its photographs."""

EVAL_SHARE = 0.15
"""Of each class, for val and again for test, where the split is made here."""


def read_folder_layout(data: Path, *, seed: int) -> Catalog:
    """Take every folder as a class.

    Raises:
        UserError: No photographs, or ``train/`` without ``val/``.
    """
    split_folders = {
        SPLIT_FOLDERS[each.name.lower()]: each
        for each in sorted(data.iterdir())
        if each.is_dir() and each.name.lower() in SPLIT_FOLDERS
    }
    if split_folders:
        for needed in ("train", "val"):
            if needed not in split_folders:
                raise UserError(
                    f"{data} has {', '.join(sorted(split_folders))}/ but no {needed}/; add it, or "
                    "put the class folders directly into the data folder to have them split"
                )
        found = {split: _photos_by_class(data, split_folders[split]) for split in split_folders}
        notes = (
            [] if "test" in found else ["no test/: training will report validation scores alone"]
        )
    else:
        found, note = _split(_photos_by_class(data, data), seed)
        notes = [note]
    class_names = tuple(sorted({name for classes in found.values() for name in classes}))
    if not any(classes for classes in found.values()):
        raise UserError(
            f"{data} holds neither train.csv, val.csv, test.csv nor class folders with photographs "
            f"({', '.join(EXTENSIONS)})"
        )
    if len(class_names) < 2:
        raise UserError(f"{data} has one class, {class_names[0]!r}; a classifier needs two or more")
    index = {name: label for label, name in enumerate(class_names)}
    return Catalog(
        root=data,
        layout="folders",
        class_names=class_names,
        splits={
            split: _split_catalog(data, found[split], index, seed if split == "train" else None)
            for split in SPLITS
            if split in found
        },
        notes=notes,
    )


def _photos_by_class(root: Path, folder: Path) -> Photos:
    """``class name -> paths relative to root``, sorted; hidden and foreign files are skipped."""
    classes = {}
    for each in sorted(folder.iterdir()):
        if each.is_dir() and not each.name.startswith("."):
            paths = [
                os.path.relpath(os.path.join(at, name), root).replace(os.sep, "/")
                for at, _, names in os.walk(each)
                for name in names
                if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
            ]
            if paths:
                classes[each.name] = sorted(paths)
    return classes


def _split(classes: Photos, seed: int) -> tuple[dict[str, Photos], str]:
    """Part each class at random into train, val and test; train gets one at least."""
    parts: dict[str, Photos] = {split: {} for split in SPLITS}
    for number, (name, paths) in enumerate(classes.items()):
        keys = np.random.Philox(key=[seed, number]).random_raw(len(paths))
        shuffled = [paths[at] for at in np.argsort(keys, kind="stable")]
        held_out = min(round(EVAL_SHARE * len(paths)), (len(paths) - 1) // 2)
        parts["val"][name] = sorted(shuffled[:held_out])
        parts["test"][name] = sorted(shuffled[held_out : 2 * held_out])
        parts["train"][name] = sorted(shuffled[2 * held_out :])
    return parts, f"no CSV and no train/ val/ test/: split 70/15/15 within each class, seed {seed}"


def _split_catalog(
    root: Path, classes: Photos, index: dict[str, int], shuffle_seed: int | None
) -> SplitCatalog:
    paths = [path for each in classes.values() for path in each]
    labels = [index[name] for name, each in classes.items() for _ in each]
    rows = np.arange(len(paths), dtype=np.int32)
    return build_split(paths, labels, rows, list_sizes(root, paths), shuffle_seed=shuffle_seed)
