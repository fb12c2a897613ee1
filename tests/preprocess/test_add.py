"""Photographs from elsewhere go to train alone, with what is known of them, and never from test."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from preprocess.add import add_photos, refuse_copies
from preprocess.catalog import Catalog
from preprocess.discover import read_catalog
from preprocess.image import ImageOptions
from preprocess.pack import pack, pack_slice
from shards.errors import UserError
from shards.format import Manifest
from shards.reader import ShardSet

AMANITA, BOLETUS = "Amanita muscaria", "Boletus edulis"
GBIF = """\
gbifID\tclass\tspecies\tscientificName\tdecimalLatitude\tdecimalLongitude\teventDate\tlicense\t\
identifier\treferences\tfile
1\tAgaricomycetes\tBoletus edulis\tBoletus edulis Bull.\t47.5\t-8.25\t2021-09-12T10:00\tCC_BY_4_0\t\
https://images.example/1.jpeg\thttps://gbif.example/1\tphotos/1.jpg
2\tAgaricomycetes\t\tAmanita muscaria (L.) Lam.\t\t\t\tCC0_1_0\thttps://images.example/2.jpeg\t\t\
photos/2 "quoted.jpg
"""
INATURALIST = """\
id,observed_on,license,url,image_url,latitude,longitude,scientific_name,taxon_species_name,file
7,2020-10-01,CC-BY-NC,https://inat.example/7,https://inat.example/7.jpg,60.1,24.9,\
Boletus edulis,Boletus edulis,7.png
8,,,,,,,Amanita muscaria,,"eight, 8.jpg"
"""


@pytest.fixture
def draw(rng: np.random.Generator, photo: Any, jpeg: Any) -> Callable[[Path], None]:
    """Writes a new photograph."""

    def write(file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".png":
            Image.fromarray(photo(rng, 200, 150)).save(file)
        else:
            file.write_bytes(jpeg(photo(rng, 200, 150)))

    return write


@pytest.fixture
def sources(tmp_path: Path, draw: Callable[[Path], None]) -> tuple[Path, Path]:
    """A GBIF and an iNaturalist export with two photographs each."""
    gbif, inat = tmp_path / "from gbif" / "gbif.csv", tmp_path / "from inat" / "inat.csv"
    for file in ("photos/1.jpg", 'photos/2 "quoted.jpg'):
        draw(gbif.parent / file)
    for file in ("7.png", "eight, 8.jpg"):
        draw(inat.parent / file)
    gbif.write_text(GBIF)
    inat.write_text(INATURALIST)
    return gbif, inat


def source(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "more.csv").write_text(text)
    return folder / "more.csv"


def with_added(data: Path, out: Path, *files: Path, max_missing: float = 0.0) -> Catalog:
    catalog = add_photos(read_catalog(data), list(files), seed=0, max_missing=max_missing)
    with ThreadPoolExecutor(2) as executor:
        return refuse_copies(catalog, out, executor)


def pack_with(data: Path, out: Path, *files: Path, workers: int = 2) -> Manifest:
    catalog = with_added(data, out, *files)
    with ThreadPoolExecutor(workers) as executor:
        return pack(catalog, out, ImageOptions(short_side=96), executor, max_rejected=0.0)


def metadata_of(out: Path) -> dict[str, dict[str, Any]]:
    with ShardSet(out).split("train") as train:
        every = [train.metadata(sample) for sample in range(len(train))]
    return {each.pop("path"): each for each in every}


def refused(out: Path) -> dict[str, str]:
    with (out / "rejected.csv").open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_exports_of_gbif_and_inaturalist_are_understood_and_kept_with_the_sample(
    tiny_dataset: Path, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest = pack_with(tiny_dataset, tmp_path / "set", *sources)
    assert {name: split.samples for name, split in manifest.splits.items()} == {
        "train": 28,
        "val": 6,
        "test": 6,
    }
    assert manifest.splits["train"].rows == 40
    assert manifest.sources == {"gbif": 2, "inat": 2}
    assert Manifest.read(tmp_path / "set").sources == manifest.sources
    known = metadata_of(tmp_path / "set")
    assert known["gbif.csv:photos/1.jpg"] == {
        "latitude": 47.5,
        "longitude": -8.25,
        "date": "2021-09-12T10:00",
        "url": "https://gbif.example/1",
        "licence": "CC_BY_4_0",
        "source": "gbif",
    }
    assert known['gbif.csv:photos/2 "quoted.jpg'] == {
        "url": "https://images.example/2.jpeg",
        "licence": "CC0_1_0",
        "source": "gbif",
    }
    assert known["inat.csv:7.png"]["url"] == "https://inat.example/7"
    assert known["inat.csv:eight, 8.jpg"] == {"source": "inat"}
    assert known[f"{BOLETUS}/train 04.jpg"] == {}


def test_added_photographs_have_their_label_and_stand_in_any_tar_reader(
    tiny_dataset: Path, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    pack_with(tiny_dataset, tmp_path / "set", *sources)
    labels = {}
    with tarfile.open(tmp_path / "set" / "train-000000.tar") as tar:
        for name in tar.getnames():
            if name.endswith(".json"):
                path = json.load(tar.extractfile(name))["path"]  # type: ignore[arg-type]
                labels[path] = tar.extractfile(name[:-4] + "cls").read()  # type: ignore[union-attr]
    assert labels["gbif.csv:photos/1.jpg"] == labels["inat.csv:7.png"] == b"00001"
    assert labels["inat.csv:eight, 8.jpg"] == b"00000"


def test_own_columns_and_a_named_source_are_counted(
    tiny_dataset: Path, draw: Callable[[Path], None], tmp_path: Path
) -> None:
    for name in "abc":
        draw(tmp_path / "more" / f"{name}.jpg")
    text = f"file,label,source\na.jpg,{BOLETUS},herbarium\nb.jpg,{BOLETUS},walk\nc.jpg,{BOLETUS},walk\n"
    manifest = pack_with(tiny_dataset, tmp_path / "set", source(tmp_path / "more", text))
    assert manifest.sources == {"herbarium": 1, "walk": 2}


def test_copies_of_val_and_test_are_refused_and_those_of_train_are_not(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    images, more = tiny_dataset / "merged_dataset" / BOLETUS, tmp_path / "more"
    text = f"file,label\nexact.jpg,{BOLETUS}\nnear.png,{AMANITA}\nof train.jpg,{BOLETUS}\n"
    file = source(more, text)
    shutil.copy(images / "test 01.jpg", more / "exact.jpg")
    shutil.copy(images / "train 04.jpg", more / "of train.jpg")
    near = Image.open(images / "val 00.jpg")
    near.resize((near.width * 2, near.height * 2)).save(more / "near.png")
    manifest = pack_with(tiny_dataset, tmp_path / "set", file)
    assert manifest.splits["train"].samples == 25
    assert manifest.rejected == {
        "excluded: added copy of a test photograph": 1,
        "excluded: added copy of a val photograph": 1,
    }
    assert refused(tmp_path / "set") == {
        "more.csv:exact.jpg": f"excluded: added copy of a test photograph ({BOLETUS}/test 01.jpg)",
        "more.csv:near.png": f"excluded: added copy of a val photograph ({BOLETUS}/val 00.jpg)",
    }
    with ShardSet(tmp_path / "set").split("train") as train:
        assert train.rows[-3:-1].tolist() == [-2, -1]


def test_a_finished_set_with_refusals_is_known_again_without_comparing(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = source(tmp_path / "more", f"file,label\nexact.jpg,{BOLETUS}\n")
    copied = tiny_dataset / "merged_dataset" / BOLETUS / "test 01.jpg"
    shutil.copy(copied, tmp_path / "more" / "exact.jpg")
    first = pack_with(tiny_dataset, tmp_path / "set", file)
    monkeypatch.setattr("preprocess.add.hash_photos", None)
    assert pack_with(tiny_dataset, tmp_path / "set", file) == first


def test_the_set_depends_neither_on_workers_nor_on_where_the_source_lies(
    tiny_dataset: Path, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    pack_with(tiny_dataset, tmp_path / "one", *sources, workers=1)
    moved = Path(shutil.move(sources[0].parent, tmp_path / "elsewhere")) / "gbif.csv"
    pack_with(tiny_dataset, tmp_path / "two", moved, sources[1], workers=3)
    one, two = (
        {each.name: each.read_bytes() for each in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert one == two


def test_a_set_begun_as_a_slice_ends_as_one_packed_at_once(
    tiny_dataset: Path, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    pack_with(tiny_dataset, tmp_path / "whole", *sources)
    catalog = with_added(tiny_dataset, tmp_path / "parts", *sources)
    with ThreadPoolExecutor(2) as executor:
        pack_slice(catalog, tmp_path / "parts", ImageOptions(short_side=96), executor, (0, 2))
    pack_with(tiny_dataset, tmp_path / "parts", *sources)
    whole, parts = (
        {each.name: each.read_bytes() for each in (tmp_path / name).iterdir()}
        for name in ("whole", "parts")
    )
    assert whole == parts


def test_what_is_known_of_a_photograph_is_part_of_the_input(
    tiny_dataset: Path, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    before = with_added(tiny_dataset, tmp_path / "set", *sources)
    sources[1].write_text(INATURALIST.replace("CC-BY-NC", "CC0"))
    assert with_added(tiny_dataset, tmp_path / "set", *sources).digest() != before.digest()
    assert read_catalog(tiny_dataset).digest() != before.digest()


def test_rows_that_name_a_file_again_repeat_it(
    tiny_dataset: Path, draw: Callable[[Path], None], tmp_path: Path
) -> None:
    draw(tmp_path / "more" / "a.jpg")
    file = source(tmp_path / "more", "file,label\n" + f"a.jpg,{BOLETUS}\n./a.jpg,{BOLETUS}\n")
    pack_with(tiny_dataset, tmp_path / "set", file)
    with ShardSet(tmp_path / "set").split("train") as train:
        assert train.repeats[train.rows[-1]] == 2


BAD = {
    "a class that is none": (
        "file,label\na.jpg,Boletus eduliss\n",
        r"more\.csv: 1 labels are no class: unknown class 'Boletus eduliss'; did you mean "
        r"'Boletus edulis'\?",
    ),
    "no file column": ("species,url\nBoletus edulis,x\n", r"has no file column: its header is"),
    "no label column": ("file,url\na.jpg,x\n", r"has no label column: its header is 'file,url'"),
    "two file columns": (
        "file,File,label\na.jpg,b.jpg,Boletus edulis\n",
        r"more\.csv has 2 columns 'file', expected one$",
    ),
    "a name with a zero byte": (
        "file,label\na\0.jpg,Boletus edulis\n",
        r"1 paths that leave the folder of the CSV: 'a\\x00\.jpg'",
    ),
    "no rows": ("file,label\n", r"lists no photographs"),
    "a path out of the folder": (
        "file,label\n../a.jpg,Boletus edulis\n",
        r"1 paths that leave the folder of the CSV: '\.\./a\.jpg'",
    ),
    "a latitude that is none": (
        "file,label,latitude\na.jpg,Boletus edulis,north\na.jpg,Boletus edulis,\n",
        r"1 lines with an impossible latitude: 2 \('north'\)",
    ),
    "a latitude beyond the pole": (
        "file,label,lat\na.jpg,Boletus edulis,91\n",
        r"1 lines with an impossible latitude: 2 \('91'\)",
    ),
    "two labels": (
        "file,label\na.jpg,Boletus edulis\na.jpg,Amanita muscaria\n",
        r"1 lines give a file a second label: 'a\.jpg' \('Boletus edulis' and 'Amanita muscaria'\)",
    ),
    "a missing file": (
        "file,label\nb.jpg,Boletus edulis\n",
        r"more\.csv: 1 of 1 files are missing in .*more: b\.jpg",
    ),
    "an empty label": ("file,label\na.jpg,\n", r"1 lines without a file or a label: 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_source_is_refused_in_clear_words(
    case: str, tiny_dataset: Path, draw: Callable[[Path], None], tmp_path: Path
) -> None:
    text, message = BAD[case]
    draw(tmp_path / "more" / "a.jpg")
    with pytest.raises(UserError) as error:
        with_added(tiny_dataset, tmp_path / "set", source(tmp_path / "more", text))
    assert re.search(message, error.value.message), error.value.message


def test_sources_of_one_name_are_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    files = [source(tmp_path / name, "file,label\n") for name in ("a", "b")]
    with pytest.raises(UserError, match=r"two --add files are called more\.csv; rename one"):
        with_added(tiny_dataset, tmp_path / "set", *files)


def test_the_command_adds_and_says_so(
    tiny_dataset: Path, sources: tuple[Path, Path], tmp_path: Path, run_command: Any
) -> None:
    arguments = ["--out", "set", "--short-side", "96", "--workers", "1", "--add", sources[0]]
    done = run_command("preprocess", tiny_dataset, *arguments, "--add", sources[1])
    assert (done.returncode, done.stderr) == (0, "")
    assert f"note: 2 photographs of {sources[0]} are added to train\n" in done.stdout
    assert "  added to train: 2 of gbif, 2 of inat\n" in done.stdout
    again = run_command("preprocess", tiny_dataset, *arguments, "--add", sources[1])
    assert "set is complete already, made of the same; nothing to do\n" in again.stdout
    fewer = run_command("preprocess", tiny_dataset, *arguments)
    assert fewer.returncode == 2
    first, second = sources[0].name, sources[1].name
    assert re.search(
        rf"\(--add {first} \(\w+\), {second} \(\w+\) there, {first} \(\w+\) now\); choose",
        fewer.stderr,
    )


def test_an_unknown_class_ends_the_command_with_one_line_and_leaves_nothing(
    tiny_dataset: Path, tmp_path: Path, run_command: Any
) -> None:
    file = source(tmp_path / "more", "file,label\na.jpg,Boletus\n")
    done = run_command("preprocess", tiny_dataset, "--out", "set", "--add", file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: cannot add photographs:\n  - more.csv: 1 labels are no ")
    assert not (tmp_path / "set").exists()
