"""Folders of classes: ``train/<class>/<file>`` and so on, or ``<class>/<file>`` to be split."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from preprocess.catalog import Catalog, SplitCatalog, build_split, list_states
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

SHOWN = 3

EVAL_SHARE = 0.15
"""Of each class, for val and again for test, where the split is made here."""


def read_folder_layout(data: Path, *, seed: int) -> Catalog:
    """Take every folder as a class.

    Raises:
        UserError: No photographs, ``train/`` without ``val/``, two folders for one split, or a link
            that makes a class of photographs of another one.
    """
    split_folders = _find_split_folders(data)
    ignored = _Ignored()
    folders: dict[Path, Path] = {}
    if split_folders:
        for needed in ("train", "val"):
            if needed not in split_folders:
                raise UserError(
                    f"{data} has {', '.join(sorted(split_folders))}/ but no {needed}/; add it, or "
                    "put the class folders directly into the data folder to have them split"
                )
        ignored.look_beside(data, set(split_folders.values()))
        found = {
            split: _photos_by_class(data, folder, ignored, folders)
            for split, folder in split_folders.items()
        }
        notes = (
            [] if "test" in found else ["no test/: training will report validation scores alone"]
        )
    else:
        found, note = _split(_photos_by_class(data, data, ignored, folders), seed)
        notes = [note]
    _refuse_shared(folders)
    notes += ignored.notes(data)
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
        asked={"--seed": str(seed)},
    )


def _find_split_folders(data: Path) -> dict[str, Path]:
    split_folders: dict[str, Path] = {}
    for each in sorted(data.iterdir()):
        split = SPLIT_FOLDERS.get(each.name.lower())
        if split is None or not each.is_dir():
            continue
        if split in split_folders:
            raise UserError(
                f"{data} has both {split_folders[split].name}/ and {each.name}/ for {split}; "
                "put them together"
            )
        split_folders[split] = each
    return split_folders


@dataclass
class _Ignored:
    """What lies in a data folder and is not packed; hidden files are nobody's business."""

    outside: list[Path] = field(default_factory=list)
    """Photographs in no class folder."""
    folders: list[Path] = field(default_factory=list)
    """Without a photograph, or beside ``train/`` and ``val/``."""
    files: list[Path] = field(default_factory=list)
    """That are no photographs, by their extension."""

    def add_file(self, file: Path, *, outside: bool = False) -> None:
        """Count a file; one outside of the class folders may be a photograph."""
        is_photo = outside and file.name.lower().endswith(EXTENSIONS)
        (self.outside if is_photo else self.files).append(file)

    def look_beside(self, data: Path, split_folders: set[Path]) -> None:
        """Count what lies beside the folders of the splits."""
        for each in sorted(data.iterdir()):
            if each.is_dir() and each not in split_folders and not each.name.startswith("."):
                self.folders.append(each)
            elif each.is_file() and not each.name.startswith("."):
                self.add_file(each, outside=True)

    def notes(self, data: Path) -> list[str]:
        """One line, or none."""
        parts = [
            f"{len(paths):,} {what} ({_examples(paths, data)})"
            for what, paths in (
                ("photographs outside of class folders", self.outside),
                ("folders without photographs of a class", self.folders),
                ("files that are no photographs", self.files),
            )
            if paths
        ]
        return [f"not packed: {', '.join(parts)}"] if parts else []


def _examples(paths: list[Path], data: Path) -> str:
    names = [each.relative_to(data).as_posix() for each in paths[:SHOWN]]
    return ", ".join(names) + (", ..." if len(paths) > SHOWN else "")


def _photos_by_class(
    root: Path, folder: Path, ignored: _Ignored, folders: dict[Path, Path]
) -> Photos:
    """``class name -> paths relative to root``, sorted; hidden and foreign files are skipped.

    Each class folder is noted in ``folders``, with where it really lies.
    """
    classes: Photos = {}
    above = {each for at in (folder.resolve(), root.resolve()) for each in (at, *at.parents)}
    for each in sorted(folder.iterdir()):
        if each.name.startswith("."):
            continue
        if not each.is_dir():
            ignored.add_file(each, outside=True)
            continue
        real = each.resolve()
        if real in above:
            raise UserError(f"class folder {each} is a link to {real}, which holds it; remove it")
        paths = []
        for at, _, names in os.walk(each):
            for name in names:
                file = os.path.join(at, name)
                if name.startswith("."):
                    continue
                if name.lower().endswith(EXTENSIONS):
                    paths.append(os.path.relpath(file, root).replace(os.sep, "/"))
                else:
                    ignored.add_file(Path(file))
        if paths:
            classes[each.name] = sorted(paths)
            folders[each] = real
        else:
            ignored.folders.append(each)
    return classes


def _refuse_shared(folders: dict[Path, Path]) -> None:
    """Refuse class folders that are, by a link, one folder, or one inside the other."""
    named: dict[Path, Path] = {}
    for folder, real in folders.items():
        other = named.setdefault(real, folder)
        if other != folder:
            raise UserError(
                f"class folders {other} and {folder} are one folder, {real}; remove the link"
            )
    for folder, real in folders.items():
        other = next((named[parent] for parent in real.parents if parent in named), folder)
        if other != folder:
            raise UserError(
                f"class folder {folder} is a link into class folder {other}: {real}; remove it"
            )


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
    return build_split(paths, labels, rows, list_states(root, paths), shuffle_seed=shuffle_seed)
