"""A foreign WebDataset folder as a catalogue, so that it packs like photographs do.

Nothing is copied here: a photograph is a part of a tar. Packing then checks, resizes and stores it
as any other, so that every promise of a shard set holds, resuming included.
"""

from __future__ import annotations

import contextlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.catalog import Catalog, FileState, Origin, SplitCatalog, build_split
from preprocess.class_names import name_notes
from preprocess.folder_layout import SPLIT_FOLDERS
from preprocess.foreign_label import LABEL_BYTES, MAX_CLASSES, BadLabel, is_number, label_of
from preprocess.tar_end import require_end
from shards.errors import ShardError, UserError, unknown_name
from shards.format import SPLITS, Manifest
from shards.user_paths import require_regular_file

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
CLS_EXTENSIONS = ("cls", "class", "cls.txt")
NAMES_FILES = ("class_names.txt", "classes.txt", "classnames.txt")
SHOWN = 3


@dataclass
class _Sample:
    """What a foreign sample holds that is of use."""

    name: str
    """``<tar>/<key>.<extension>``: its path in the catalogue."""
    origin: Origin
    label: str
    state: FileState


@dataclass
class _Found:
    samples: list[_Sample] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    """Tars that give no sample."""


def read_webdataset(
    folder: Path, *, splits: dict[str, str], class_names: tuple[str, ...] | None, seed: int
) -> Catalog:
    """List the samples of all tars below a folder.

    Args:
        folder: Holds the tars.
        splits: Pattern of tar names -> split; without any, names begin with train, val or test.
        class_names: In the order of numeric labels; None to look for a file of names.
        seed: Of the order in which training photographs are stored.

    Raises:
        UserError: No tars, no train or val split, or samples without an image or a label.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    tars = sorted(each for each in folder.rglob("*.tar") if each.is_file())
    if not tars:
        packed = any(folder.rglob("*.tar.*")) or any(folder.rglob("*.tgz"))
        raise UserError(
            f"{folder} holds no .tar file" + ("; unpack .tar.gz to .tar first" if packed else "")
        )
    class_names = class_names or _names_in(folder)
    found = {split: _Found() for split in SPLITS}
    for tar in tars:
        name = tar.relative_to(folder).as_posix()
        _read_tar(tar, name, found[_split_of(name, splits)])
    _refuse_problems(folder, found)
    names, position = _classes(found, class_names)
    origins: dict[str, Origin] = {}
    catalogs: dict[str, SplitCatalog] = {}
    for split, each in found.items():
        if not each.samples:
            continue
        origins |= {sample.name: sample.origin for sample in each.samples}
        catalogs[split] = build_split(
            [sample.name for sample in each.samples],
            [position[sample.label] for sample in each.samples],
            np.arange(len(each.samples), dtype=np.int32),
            [sample.state for sample in each.samples],
            shuffle_seed=seed if split == "train" else None,
        )
    return Catalog(
        root=folder,
        layout="webdataset",
        class_names=names,
        splits=catalogs,
        notes=[
            f"{len(tars):,} tars are read; keys are made anew, the old ones kept in .json",
            *_shard_set_note(folder),
            *_empty_tars([tar for each in found.values() for tar in each.empty]),
            *name_notes(names),
            *_unseen_classes(names, catalogs),
        ],
        origins=origins,
        asked={"--seed": str(seed)},
    )


def read_names(file: Path) -> tuple[str, ...]:
    """Class names, one a line, in the order of numeric labels."""
    try:
        lines = require_regular_file(file).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {file}: {error}") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UserError(f"{file} holds no class names, expected one a line")
    if len(names) > MAX_CLASSES:
        raise UserError(
            f"{file} has {len(names):,} lines, expected at most {MAX_CLASSES:,} classes"
        )
    if len(set(names)) != len(names):
        raise UserError(f"{file} gives a class name twice")
    return names


def _shard_set_note(folder: Path) -> list[str]:
    with contextlib.suppress(ShardError):
        Manifest.read(folder)
        return [
            f"{folder} is a shard set already, which `python -m train` reads as it is; adopted, "
            "every photograph counts once: how often the rows repeat it is not carried over"
        ]
    return []


def _names_in(folder: Path) -> tuple[str, ...] | None:
    with contextlib.suppress(ShardError):  # no shard set, or its manifest is of no use
        return Manifest.read(folder).class_names
    found = next((folder / name for name in NAMES_FILES if (folder / name).is_file()), None)
    return None if found is None else read_names(found)


def _split_of(name: str, splits: dict[str, str]) -> str:
    for pattern, split in splits.items():
        if fnmatch(name, pattern):
            return split
    if splits:
        raise UserError(f"{name} matches no --split pattern ({', '.join(splits)})")
    for part in name.lower().split("/"):
        word = re.split(r"[^a-z]", part)[0]
        if word in SPLIT_FOLDERS:
            return SPLIT_FOLDERS[word]
    raise UserError(
        f"{name} does not tell its split: it begins with none of {', '.join(SPLIT_FOLDERS)}; "
        "say --split train=PATTERN --split val=PATTERN"
    )


def _read_tar(tar: Path, name: str, found: _Found) -> None:
    seen: set[str] = set()
    had = len(found.samples)
    try:
        time = tar.stat().st_mtime_ns
        with tarfile.open(tar, "r:") as opened:
            for key, members, twice in _samples(opened):
                where = f"{name}/{key}"
                if twice:
                    what = "samples have an extension twice"
                    found.problems.setdefault(what, []).append(f"{where}.{twice}")
                    continue
                if key in seen:
                    found.problems.setdefault("keys occur twice", []).append(where)
                seen.add(key)
                image = next((each for each in IMAGE_EXTENSIONS if each in members), None)
                if image is None:
                    what = f"samples have no image ({', '.join(IMAGE_EXTENSIONS)})"
                    found.problems.setdefault(what, []).append(where)
                    continue
                foreign = _json_of(opened, members)
                try:
                    label = label_of(_cls_of(opened, members), foreign)
                except BadLabel as error:
                    found.problems.setdefault(str(error), []).append(where)
                    continue
                metadata: dict[str, Any] = {"key": key}
                if foreign is not None:
                    metadata["json"] = foreign
                member = members[image]
                text = json.dumps(metadata, sort_keys=True)
                origin = Origin(tar, member.offset_data, member.size, text)
                state = FileState(member.size, time)
                found.samples.append(_Sample(f"{where}.{image}", origin, label, state))
            require_end(tar, opened.offset)
        if len(found.samples) == had:
            found.empty.append(name)
    except (tarfile.TarError, OSError, EOFError) as error:
        found.problems.setdefault("tars cannot be read", []).append(f"{name} ({error})")


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo], str]]:
    """Files in a row that share a key: all of their name before its first dot.

    Yields:
        The key, its files by lower-case extension, and an extension that occurs twice, if any.
    """
    current: str | None = None
    members: dict[str, tarfile.TarInfo] = {}
    twice = ""
    for member in tar:
        if not member.isfile():
            continue
        folder, slash, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        if not stem or not extension:  # hidden, or WebDataset's own __index__ files
            continue
        key = f"{folder}{slash}{stem}"
        if key != current:
            if members and current is not None:
                yield current, members, twice
            current, members, twice = key, {}, ""
        if extension.lower() in members:
            twice = extension.lower()
        members[extension.lower()] = member
    if members and current is not None:
        yield current, members, twice


def _json_of(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> Any:
    """The sample's JSON; None where there is none, or nothing that could be written again."""
    if "json" not in members:
        return None
    try:
        content = json.loads(_content(tar, members["json"]))
        json.dumps([[[content]]])  # it goes into the new .json, somewhat deeper
    except (ValueError, RecursionError):
        return None
    return content


def _cls_of(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> bytes | None:
    found = next((members[each] for each in CLS_EXTENSIONS if each in members), None)
    return None if found is None else _content(tar, found, LABEL_BYTES + 1)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, size: int = -1) -> bytes:
    """The first ``size`` bytes of a member, by default all."""
    file = tar.extractfile(member)
    return b"" if file is None else file.read(size)


def _refuse_problems(folder: Path, found: dict[str, _Found]) -> None:
    lines = [
        f"{split}: {len(examples):,} {what}: {', '.join(examples[:SHOWN])}"
        + (f", and {len(examples) - SHOWN:,} more" if len(examples) > SHOWN else "")
        for split, each in found.items()
        for what, examples in each.problems.items()
    ]
    lines += [
        f"no tar is of split {split}; it needs one named {split}-*.tar, or --split {split}=PATTERN"
        for split in ("train", "val")
        if not found[split].samples and not found[split].problems
    ]
    if lines:
        raise UserError("\n  - ".join([f"cannot adopt {folder}:", *lines]))


def _classes(
    found: dict[str, _Found], class_names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names, sorted as everywhere, and the position of each label text among them.

    Numbers are positions in ``class_names``; without names they become ``007``, so that sorting
    keeps their order.
    """
    texts = sorted({sample.label for each in found.values() for sample in each.samples})
    if len(texts) < 2:
        raise UserError(f"all samples have the label {texts[0]!r}; a classifier needs two or more")
    numbers = [text for text in texts if is_number(text)]
    if 0 < len(numbers) < len(texts) and not set(texts) <= set(class_names or ()):
        name = next(text for text in texts if text not in numbers)
        raise UserError(
            f"labels are numbers ({numbers[0]!r}) and names ({name!r}), expected one or the other"
        )
    if len(numbers) < len(texts):
        unknown = [text for text in texts if class_names and text not in class_names]
        if class_names and unknown:
            raise UserError(unknown_name("class", unknown[0], class_names))
        names = tuple(sorted(class_names or texts))
        return names, {name: label for label, name in enumerate(names)}
    largest = max(map(int, texts))
    if class_names is None:
        class_names = tuple(f"{number:0{len(str(largest))}d}" for number in range(largest + 1))
    if largest >= len(class_names):
        raise UserError(f"label {largest} is beyond the {len(class_names)} class names given")
    names = tuple(sorted(class_names))
    position = {name: label for label, name in enumerate(names)}
    return names, {text: position[class_names[int(text)]] for text in texts}


def _empty_tars(names: list[str]) -> list[str]:
    more = ", ..." if len(names) > SHOWN else ""
    return (
        [f"{len(names):,} tars give no sample: {', '.join(names[:SHOWN])}{more}"] if names else []
    )


def _unseen_classes(names: tuple[str, ...], catalogs: dict[str, SplitCatalog]) -> list[str]:
    seen = {int(label) for split in catalogs.values() for label in np.unique(split.labels)}
    unseen = [name for label, name in enumerate(names) if label not in seen]
    if not unseen:
        return []
    more = ", ..." if len(unseen) > SHOWN else ""
    return [
        f"{len(unseen):,} of {len(names):,} classes have no photograph: "
        f"{', '.join(unseen[:SHOWN])}{more}"
    ]
