"""Photographs and sets that several tests of packing share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.preprocess.image_kinds import HEIGHT, WIDTH, Photo, Pixels
from tests.preprocess.packing import contents

MANY = 300
"""Files of the data set that is cut into several shards."""


@pytest.fixture(scope="session")
def many_photos(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of many files (links to a few photographs): five shards of train."""
    root = tmp_path_factory.mktemp("many") / "photos"
    sources = sorted((tiny_dataset / "merged_dataset").rglob("train*.jpg"))
    for at in range(MANY):
        source = sources[at % len(sources)]
        part = "val" if at % 20 == 0 else "train"
        target = root / part / source.parent.name / f"{at:04d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)
    return root


@pytest.fixture(scope="session")
def unbroken(
    many_photos: Path, tmp_path_factory: pytest.TempPathFactory, pack_set: Any
) -> dict[str, bytes]:
    """What packing ``many_photos`` in one go gives."""
    out = tmp_path_factory.mktemp("unbroken") / "set"
    pack_set(many_photos, out)
    files = contents(out)
    assert sum(name.endswith(".tar") for name in files) == 6
    return files


@pytest.fixture
def pixels(photo: Photo, rng: np.random.Generator) -> Pixels:
    return photo(rng, WIDTH, HEIGHT)
