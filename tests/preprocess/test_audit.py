"""The audit finds planted copies, and packing with its table leaves them out of train alone."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from preprocess.audit import Audit, audit, photos_of, report, write_audit
from preprocess.contact_sheet import LEGEND_PX
from preprocess.copies import Copy, Photo, find_copies, read_copies, write_copies
from preprocess.discover import read_catalog
from preprocess.exclude import copies_to_exclude, exclude_copies
from preprocess.image import ImageOptions
from preprocess.pack import pack
from preprocess.photo_hash import PhotoHash, look_of, near_pairs
from shards.errors import JobError, UserError
from shards.format import Manifest
from shards.reader import ShardSet

AMANITA, BOLETUS, CANTHARELLUS = "Amanita muscaria", "Boletus edulis", "Cantharellus cibarius"
PLANTED = {
    # (a, b): kind
    (("test", f"{BOLETUS}/test 00.jpg"), ("train", f"{BOLETUS}/leaked exactly.jpg")): "exact",
    (("val", f"{AMANITA}/val 01.jpg"), ("train", f"{AMANITA}/leaked nearly.png")): "near",
    (("train", f"{AMANITA}/train 04.jpg"), ("train", f"{BOLETUS}/other label.jpg")): "exact",
    (("train", f"{BOLETUS}/train 05 again.jpg"), ("train", f"{BOLETUS}/train 05.jpg")): "near",
}
PLACEHOLDERS = [f"{name}/copyright {at}.jpg" for name in (AMANITA, CANTHARELLUS) for at in (0, 1)]


def plant(data: Path, name: str) -> Path:
    """A row of train more; the file is to be written."""
    with (data / "train.csv").open("a", encoding="utf-8") as file:
        file.write(f"/kaggle/working/merged_dataset/{name},{name.partition('/')[0]}\n")
    return data / "merged_dataset" / name


def plant_copies(data: Path) -> Path:
    images = data / "merged_dataset"
    shutil.copy(images / BOLETUS / "test 00.jpg", plant(data, f"{BOLETUS}/leaked exactly.jpg"))
    shutil.copy(images / AMANITA / "train 04.jpg", plant(data, f"{BOLETUS}/other label.jpg"))
    near = Image.open(images / AMANITA / "val 01.jpg")
    near.resize((near.width * 3 // 2, near.height * 3 // 2)).save(
        plant(data, f"{AMANITA}/leaked nearly.png")
    )
    again = Image.open(images / BOLETUS / "train 05.jpg")
    again.save(plant(data, f"{BOLETUS}/train 05 again.jpg"), quality=60)
    for name in PLACEHOLDERS:
        picture = np.full((120, 160, 3), 255, np.uint8)
        cv2.putText(picture, "copyright", (10, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2)
        cv2.imwrite(str(plant(data, name)), picture)
    return data


@pytest.fixture(scope="session")
def data_with_copies(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant_copies(
        Path(shutil.copytree(tiny_dataset, tmp_path_factory.mktemp("copies") / "mushrooms"))
    )


def audited(data: Path) -> Audit:
    with ThreadPoolExecutor(2) as executor:
        return audit(photos_of(data, seed=0), executor)


@pytest.fixture(scope="session")
def found(data_with_copies: Path) -> Audit:
    return audited(data_with_copies)


@pytest.fixture(scope="session")
def table(found: Audit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_audit(found, tmp_path_factory.mktemp("audit"))[0]


def names_of(found: Audit) -> dict[Any, str]:
    return {((c.a.split, c.a.path), (c.b.split, c.b.path)): c.kind for c in found.copies}


def pack_excluding(data: Path, table: Path, out: Path, workers: int = 2) -> Manifest:
    catalog = exclude_copies(read_catalog(data), table)
    with ThreadPoolExecutor(workers) as executor:
        return pack(catalog, out, ImageOptions(short_side=96), executor)


def contents(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


# Finding


def test_every_planted_copy_is_found_and_nothing_else(found: Audit) -> None:
    pairs = names_of(found)
    placeholders = {pair for pair in pairs if "copyright" in pair[0][1]}
    assert {pair: pairs[pair] for pair in pairs.keys() - placeholders} == PLANTED
    assert len(placeholders) == len(PLACEHOLDERS) - 1


def test_a_data_set_without_copies_has_none(tiny_dataset: Path) -> None:
    clean = audited(tiny_dataset)
    assert (clean.copies, clean.unreadable, clean.undecodable) == ([], [], [])
    assert len(clean.photos) == 36


def test_the_shard_set_of_the_same_photographs_gives_the_same_pairs(
    data_with_copies: Path, found: Audit, pack_set: Any, tmp_path: Path
) -> None:
    pack_set(data_with_copies, tmp_path / "set")
    of_shards = names_of(audited(tmp_path / "set"))
    assert of_shards.keys() == names_of(found).keys()


def test_arrays_in_a_shard_set_are_compared_too(tiny_dataset: Path, tmp_path: Path) -> None:
    options = ImageOptions(short_side=96, raw_share=1.0)
    with ThreadPoolExecutor(2) as executor:
        pack(read_catalog(tiny_dataset), tmp_path / "set", options, executor)
    found = audited(tmp_path / "set")
    assert (found.copies, found.undecodable) == ([], [])


def test_files_that_are_no_images_are_compared_by_their_bytes(gappy_dataset: Path) -> None:
    found = audited(gappy_dataset)
    broken = {f"{AMANITA}/train 07.jpg", f"{BOLETUS}/train 05.jpg"}
    assert {photo.path for photo in found.undecodable} == broken
    assert "2 photographs do not decode and were compared by their bytes alone" in report(found)


@pytest.mark.parametrize(
    "change",
    [
        lambda image, file: image.save(file, quality=50),
        lambda image, file: image.resize((image.width // 2, image.height // 2)).save(file),
        lambda image, file: image.save(file, format="PNG"),
        lambda image, file: image.crop((2, 2, image.width - 2, image.height - 2)).save(file),
    ],
    ids=["quality 50", "half the size", "PNG", "2 % cropped"],
)
def test_a_changed_copy_stays_within_the_threshold(
    change: Callable[..., None], photo: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    image = Image.fromarray(photo(rng, 400, 300))
    image.save(tmp_path / "a.jpg", quality=95)
    change(image, tmp_path / "b.jpg")
    one, other = (look_of((tmp_path / name).read_bytes()) for name in ("a.jpg", "b.jpg"))
    assert one is not None
    assert other is not None
    assert (one ^ other).bit_count() <= 4


def test_a_photograph_turned_by_exif_looks_like_the_turned_one(
    photo: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    image = Image.fromarray(photo(rng, 400, 300))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "b.jpg")
    one, other = (look_of((tmp_path / name).read_bytes()) for name in ("a.jpg", "b.jpg"))
    assert one is not None
    assert other is not None
    assert (one ^ other).bit_count() <= 4


@pytest.mark.parametrize("threshold", [0, 1, 4, 9, 16])
def test_near_pairs_are_those_of_comparing_all(threshold: int, rng: np.random.Generator) -> None:
    looks = rng.integers(0, 2**64, 400, dtype=np.uint64)
    flips = (rng.random((200, 64)) < 0.08) @ (1 << np.arange(64, dtype=np.uint64))
    looks[200:] = looks[:200] ^ flips.astype(np.uint64)
    looks[:3] = looks[5]
    distance = np.array([[(int(a) ^ int(b)).bit_count() for b in looks] for a in looks])
    expected = {(a, b) for a, b in np.argwhere(np.triu(distance <= threshold, 1)).tolist()}
    one, other, bits = near_pairs(looks, threshold)
    pairs = [(min(a, b), max(a, b)) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected
    assert bits.tolist() == distance[one, other].tolist()


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_hashes_make_no_pair(count: int) -> None:
    assert [len(column) for column in near_pairs(np.zeros(count, np.uint64), 4)] == [0, 0, 0]


@pytest.mark.speed
def test_a_hundred_thousand_hashes_are_paired_in_seconds(rng: np.random.Generator) -> None:
    looks = rng.integers(0, 2**64, 100_000, dtype=np.uint64)
    looks[50_000:50_500] = looks[:500] ^ np.uint64(0b1011 << 30)
    start = time.perf_counter()
    assert len(near_pairs(looks, 4)[0]) >= 500
    assert time.perf_counter() - start < 10


def test_a_placeholder_under_many_names_makes_as_many_pairs_not_their_square() -> None:
    photos = [Photo("train", f"{at}.jpg", f"class {at % 9}") for at in range(3000)]
    hashes = [PhotoHash(bytes([at % 2]), 5) for at in range(3000)]
    assert len(find_copies(photos, hashes)) == 2999


# Telling


def test_the_report_counts_pairs_and_names_the_worst(found: Audit) -> None:
    lines = report(found).splitlines()
    assert lines[0].split() == "pairs of copies inside a split across splits across labels".split()
    assert lines[1].split() == ["exact", "4", "1", "3"]
    assert lines[2].split()[-3:] == ["1", "1", "0"]
    leak = f"  exact  0  test {BOLETUS}/test 00.jpg ({BOLETUS})  =  train {BOLETUS}/leaked exactly"
    assert any(line.startswith(leak) for line in lines)


def test_a_placeholder_stands_out(found: Audit) -> None:
    assert "one picture under 4 names and 2 labels (a placeholder?): train " in report(found)


def test_the_table_reads_back_as_it_was_written(found: Audit, table: Path) -> None:
    assert read_copies(table) == found.copies
    with table.open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["split_a"], first["split_b"], first["kind"]) == ("test", "train", "exact")


def test_contact_sheets_show_the_pairs_and_old_ones_go(found: Audit, tmp_path: Path) -> None:
    (tmp_path / "near-across-labels.jpg").write_text("of an earlier audit")
    names = {file.name for file in write_audit(found, tmp_path)}
    assert names == {
        "audit.csv",
        "exact-inside-a-split.jpg",
        "exact-across-splits.jpg",
        "exact-across-labels.jpg",
        "near-inside-a-split.jpg",
        "near-across-splits.jpg",
    }
    assert {file.name for file in tmp_path.iterdir()} == names
    sheet = cv2.imread(str(tmp_path / "exact-across-splits.jpg"))
    assert sheet is not None
    legend, pairs = sheet[:LEGEND_PX], sheet[LEGEND_PX:]
    assert legend[:, -20:].min() > 250  # no word runs out of it
    assert (legend < 128).any(axis=(0, 2)).sum() > 200  # columns with ink
    left, right = pairs[10:250, 10:250], pairs[10:250, 250:490]
    assert np.abs(left.astype(int) - right).mean() < 3  # one photograph, twice
    assert left.std() > 20


def test_the_command_prints_the_table_and_writes_the_files(
    data_with_copies: Path, found: Audit, tmp_path: Path, run_command: Any
) -> None:
    done = run_command("preprocess", "audit", data_with_copies, "--out", "found", "--workers", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert report(found) in done.stdout
    assert read_copies(tmp_path / "found" / "audit.csv") == found.copies


def test_without_imagehash_one_line_says_how_to_install_it(
    tiny_dataset: Path, tmp_path: Path, run_command: Any, command_environment: dict[str, str]
) -> None:
    (tmp_path / "imagehash.py").write_text("raise ImportError")
    path = f"{tmp_path}:{command_environment['PYTHONPATH']}"
    done = run_command("preprocess", "audit", tiny_dataset, env={"PYTHONPATH": path})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: audit needs ImageHash: pip install 'hyphae[audit]'\n"


# Excluding


def copy(a: str, b: str, distance: int = 0) -> Copy:
    """``copy("test x", "train y")``; a label is the first letter of the name."""
    one, other = (Photo(split, name, name[0]) for split, name in (each.split() for each in (a, b)))
    return Copy("near" if distance else "exact", distance, one, other)


@pytest.mark.parametrize(
    ("copies", "expected"),
    [
        ([copy("test a1", "train a2")], {"a2": "copy of a test photograph (a1)"}),
        ([copy("val a1", "train b2", 3)], {"b2": "copy of a val photograph (a1)"}),
        (
            [copy("train a1", "train b1")],
            {"a1": "copy under another label (b1)", "b1": "copy under another label (a1)"},
        ),
        ([copy("train a2", "train a1")], {"a2": "copy within train (a1)"}),
        ([copy("test a1", "val b1")], {}),
        (  # equality is transitive ...
            [copy("val a1", "train a2"), copy("train a2", "train a3")],
            {"a2": "copy of a val photograph (a1)", "a3": "copy of a val photograph (a1)"},
        ),
        (  # ... being near is not: of a chain the ends may stay
            [copy("train a1", "train a2", 4), copy("train a2", "train a3", 4)],
            {"a2": "copy within train (a1)"},
        ),
    ],
)
def test_what_is_excluded(copies: list[Copy], expected: dict[str, str]) -> None:
    assert copies_to_exclude(copies) == {
        path: f"excluded: {reason}" for path, reason in expected.items()
    }


def test_packing_leaves_them_out_of_train_and_says_why(
    data_with_copies: Path, table: Path, tmp_path: Path
) -> None:
    manifest = pack_excluding(data_with_copies, table, tmp_path / "set")
    assert {name: (s.files, s.samples) for name, s in manifest.splits.items()} == {
        "train": (32, 23),
        "val": (6, 6),
        "test": (6, 6),
    }
    assert manifest.rejected == {
        "excluded: copy of a test photograph": 1,
        "excluded: copy of a val photograph": 1,
        "excluded: copy under another label": 6,
        "excluded: copy within train": 1,
    }
    with (tmp_path / "set" / "rejected.csv").open(newline="") as file:
        rows = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert rows[f"{BOLETUS}/leaked exactly.jpg"] == (
        f"excluded: copy of a test photograph ({BOLETUS}/test 00.jpg)"
    )
    with ShardSet(tmp_path / "set").split("train") as train:
        # The planted rows stand last in train.csv; -1 - label where left out, as if rejected.
        assert train.rows[-8:-5].tolist() == [-2, -2, -1]
        assert train.metadata(train.rows[-5])["path"] == f"{BOLETUS}/train 05 again.jpg"
        assert train.rows[-4:].tolist() == [-1, -1, -3, -3]
        paths = {train.metadata(sample)["path"] for sample in range(len(train))}
    assert not paths & rows.keys()


def test_packing_without_the_copies_leaves_none_in_train(
    data_with_copies: Path, table: Path, tmp_path: Path
) -> None:
    pack_excluding(data_with_copies, table, tmp_path / "set")
    assert audited(tmp_path / "set").copies == []


def test_the_set_is_the_same_for_any_number_of_workers_and_another_one_without_exclusions(
    data_with_copies: Path, table: Path, pack_set: Any, tmp_path: Path
) -> None:
    one = pack_excluding(data_with_copies, table, tmp_path / "one", workers=1)
    pack_excluding(data_with_copies, table, tmp_path / "three", workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    every = pack_set(data_with_copies, tmp_path / "every")
    assert every.fingerprint != one.fingerprint
    named = r"made differently \(--exclude audit.csv \([0-9a-f]{12}\) there, not given now\);"
    with pytest.raises(UserError, match=named):
        pack_set(data_with_copies, tmp_path / "one")


def test_a_shortened_table_is_named_as_another_one(
    data_with_copies: Path, table: Path, tmp_path: Path
) -> None:
    pack_excluding(data_with_copies, table, tmp_path / "set")
    shorter = tmp_path / "audit.csv"
    shorter.write_text("".join(table.read_text().splitlines(keepends=True)[:2]))
    named = r"\(--exclude audit.csv \((\w+)\) there, audit.csv \((?!\1)\w+\) now\);"
    with pytest.raises(UserError, match=named):
        pack_excluding(data_with_copies, shorter, tmp_path / "set")


def test_excluded_photographs_are_not_held_against_the_set(
    data_with_copies: Path, table: Path, tmp_path: Path
) -> None:
    catalog = exclude_copies(read_catalog(data_with_copies), table)
    options = ImageOptions(short_side=96)
    with ThreadPoolExecutor(2) as executor:
        pack(catalog, tmp_path / "set", options, executor, max_rejected=0.0)
        # ... while a broken one still is.
        broken = Path(shutil.copytree(data_with_copies, tmp_path / "broken"))
        (broken / "merged_dataset" / AMANITA / "train 08.jpg").write_text("<html>")
        catalog = exclude_copies(read_catalog(broken), table)
        with pytest.raises(JobError, match=r"^1 of 44 photographs were rejected \(1 not an image"):
            pack(catalog, tmp_path / "other", options, executor, max_rejected=0.0)


def test_the_packing_command_prints_what_the_table_leaves_out(
    data_with_copies: Path, table: Path, tmp_path: Path, run_command: Any
) -> None:
    arguments = ["--out", tmp_path / "set", "--exclude", table, "--short-side", "96"]
    done = run_command("preprocess", data_with_copies, *arguments, "--workers", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "note: audit.csv leaves 9 photographs out of train: 1 as copy of a test photograph, "
        "1 as copy of a val photograph, 6 as copy under another label, 1 as copy within train\n"
    ) in done.stdout
    assert "20.5% excluded\n  excluded 1: copy of a test photograph\n" in done.stdout


def test_a_table_of_other_photographs_is_refused(tiny_dataset: Path, table: Path) -> None:
    with pytest.raises(UserError, match=r"names 8 photographs that are not in .*; audit this data"):
        exclude_copies(read_catalog(tiny_dataset), table)


def test_a_table_with_labels_that_were_corrected_since_is_refused(
    data_with_copies: Path, table: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(data_with_copies, tmp_path / "data"))
    name = f"{BOLETUS}/other label.jpg"
    train = (data / "train.csv").read_text()
    (data / "train.csv").write_text(train.replace(f"{name},{BOLETUS}", f"{name},{AMANITA}"))
    with pytest.raises(UserError) as caught:
        exclude_copies(read_catalog(data), table)
    assert caught.value.message == (
        f"{table} gives 1 photographs a label that they no longer have: "
        f"{name!r} ({BOLETUS!r} there, {AMANITA!r} in the data); audit again"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na,b\n", r"is no audit\.csv: it has no column kind, distance"),
        (
            "kind,distance,split_a,path_a,label_a,split_b,path_b,label_b\nnear,x,a,b,c,d,e,f\n",
            r"line 2: distance 'x' is no number from 0 to 64",
        ),
        (
            "kind,distance,split_a,path_a,label_a,split_b,path_b,label_b\nExact,0,a,b,c,d,e,f\n",
            r"line 2: kind 'Exact' is neither exact nor near",
        ),
        (
            "kind,distance,split_a,path_a,label_a,split_b,path_b,label_b\nexact,0,a,b,c\n",
            r"line 2 has too few fields, expected kind,distance,",
        ),
    ],
)
def test_a_table_that_is_none_is_refused_by_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "audit.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_copies(tmp_path / "audit.csv")


def test_a_name_that_is_not_utf8_survives_the_table(tmp_path: Path) -> None:
    odd = Photo("train", 'a\udce9, \n"b".jpg', "C\udce8pe")
    copies = [Copy("near", 2, odd, Photo("val", "x.jpg", "a"))]
    write_copies(tmp_path / "audit.csv", copies)
    assert read_copies(tmp_path / "audit.csv") == copies
