"""A foreign WebDataset becomes a proper shard set: checked, with new keys, the old ones kept."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocess.adopt import read_names, read_webdataset
from preprocess.image import ImageOptions
from preprocess.pack import pack
from shards.errors import UserError
from shards.format import Manifest
from shards.reader import ShardSet
from shards.verify import verify

OPTIONS = ImageOptions(short_side=96)
Members = Iterable[tuple[str, bytes]]
MakeImage = Callable[[], bytes]


def write_tar(file: Path, members: Members) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def image(rng: np.random.Generator, photo: Any, jpeg: Any) -> MakeImage:
    return lambda: jpeg(photo(rng, 160, 120))


def sample(key: str, image: bytes, label: str, extension: str = "jpg") -> list[tuple[str, bytes]]:
    return [(f"{key}.{extension}", image), (f"{key}.cls", label.encode())]


def samples(keys: list[str], image: MakeImage, labels: list[int]) -> list[tuple[str, bytes]]:
    pairs = zip(keys, labels, strict=True)
    return [member for key, label in pairs for member in sample(key, image(), str(label))]


@pytest.fixture
def foreign(tmp_path: Path, image: MakeImage) -> Path:
    """Two train tars, val and test, with numeric labels; keys with folders and spaces."""
    folder = tmp_path / "foreign"
    for tar in range(2):
        keys = [f"photos/no {tar}{at}" for at in range(6)]
        write_tar(folder / f"train-{tar:04d}.tar", samples(keys, image, [0, 1, 2, 0, 1, 2]))
    for split in ("val", "test"):
        write_tar(folder / f"{split}-0000.tar", samples(["x0", "x1", "x2"], image, [0, 1, 2]))
    return folder


def adopt(
    folder: Path,
    out: Path,
    *,
    workers: int = 2,
    splits: dict[str, str] | None = None,
    names: tuple[str, ...] | None = None,
    max_rejected: float = 0.0,
) -> Manifest:
    catalog = read_webdataset(folder, splits=splits or {}, class_names=names, seed=0)
    with ThreadPoolExecutor(workers) as executor:
        return pack(catalog, out, OPTIONS, executor, max_rejected=max_rejected)


def contents(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def labels_by_path(out: Path, split: str) -> dict[str, str]:
    shard_set = ShardSet(out)
    with shard_set.split(split) as opened:
        return {
            opened.metadata(at)["path"]: shard_set.manifest.class_names[label]
            for at, label in enumerate(opened.labels)
        }


def test_a_foreign_set_becomes_one_that_verifies(foreign: Path, tmp_path: Path) -> None:
    manifest = adopt(foreign, tmp_path / "set")
    assert {name: split.samples for name, split in manifest.splits.items()} == {
        "train": 12,
        "val": 3,
        "test": 3,
    }
    assert manifest.class_names == ("0", "1", "2")
    assert manifest.source["layout"] == "webdataset"
    assert verify(ShardSet(tmp_path / "set"), decode=True, threads=2) == []
    assert labels_by_path(tmp_path / "set", "val") == {
        f"val-0000.tar/x{at}.jpg": str(at) for at in range(3)
    }


def test_images_that_fit_keep_their_bytes_and_the_old_key(
    tmp_path: Path, image: MakeImage, photo: Any, jpeg: Any, rng: np.random.Generator
) -> None:
    small = jpeg(photo(rng, 90, 80))
    for split in ("train", "val"):
        members = sample("dir/odd key", small, "agaric") + sample("b", image(), "bolete")
        write_tar(tmp_path / "a" / f"{split}.tar", members)
    adopt(tmp_path / "a", tmp_path / "set")
    with ShardSet(tmp_path / "set").split("train") as train:
        at = train.labels.tolist().index(0)
        assert train.payload(at).tobytes() == small
        assert train.metadata(at) == {"path": "train.tar/dir/odd key.jpg", "key": "dir/odd key"}
        assert train.samples["key"].tolist() == [0, 1]


def test_labels_of_json_are_understood_and_the_json_is_kept(
    tmp_path: Path, image: MakeImage
) -> None:
    said = {"label": "Boletus edulis", "latitude": 47.5, "path": "theirs"}
    for split in ("train", "valid"):
        members = [("k.PNG", image()), ("k.json", json.dumps(said).encode()), ("k.txt", b"x")]
        members += [("l.jpg", image()), ("l.json", b'{"species": "Amanita muscaria"}')]
        write_tar(tmp_path / "a" / split / "00.tar", members)
    manifest = adopt(tmp_path / "a", tmp_path / "set")
    assert manifest.class_names == ("Amanita muscaria", "Boletus edulis")
    with ShardSet(tmp_path / "set").split("val") as val:
        assert val.metadata(0) == {"path": "valid/00.tar/k.png", "key": "k", "json": said}


def test_numeric_labels_take_their_names_from_a_file_and_are_sorted_by_them(
    foreign: Path, tmp_path: Path
) -> None:
    (foreign / "classes.txt").write_text("Russula\nAmanita\nBoletus\n")
    manifest = adopt(foreign, tmp_path / "set")
    assert manifest.class_names == ("Amanita", "Boletus", "Russula")
    assert labels_by_path(tmp_path / "set", "test") == {
        "test-0000.tar/x0.jpg": "Russula",
        "test-0000.tar/x1.jpg": "Amanita",
        "test-0000.tar/x2.jpg": "Boletus",
    }


def test_ten_numeric_classes_keep_their_order(tmp_path: Path, image: MakeImage) -> None:
    for split in ("train", "val"):
        members = samples(["a", "b", "c"], image, [10, 2, 0])
        write_tar(tmp_path / "a" / f"{split}.tar", members)
    manifest = adopt(tmp_path / "a", tmp_path / "set")
    assert manifest.class_names == tuple(f"{at:02d}" for at in range(11))
    with ShardSet(tmp_path / "set").split("val") as val:
        assert val.labels.tolist() == [10, 2, 0]


def test_splits_may_be_given_by_pattern(foreign: Path, tmp_path: Path) -> None:
    splits = {"train-0000.tar": "train", "train-*.tar": "val", "*": "test"}
    manifest = adopt(foreign, tmp_path / "set", splits=splits)
    assert {name: split.samples for name, split in manifest.splits.items()} == {
        "train": 6,
        "val": 6,
        "test": 6,
    }


def test_what_does_not_decode_is_rejected_by_name(tmp_path: Path, image: MakeImage) -> None:
    whole, cut = image(), image()[:-300]
    write_tar(tmp_path / "a" / "train.tar", sample("a", whole, "x") + sample("b", cut, "y"))
    write_tar(tmp_path / "a" / "val.tar", sample("a", whole, "x"))
    manifest = adopt(tmp_path / "a", tmp_path / "set", max_rejected=0.5)
    assert manifest.splits["train"].samples == 1
    assert sum(manifest.rejected.values()) == 1
    assert "train,train.tar/b.jpg,damaged" in (tmp_path / "set" / "rejected.csv").read_text()


def test_the_set_is_the_same_for_any_number_of_workers_and_wherever_the_tars_lie(
    foreign: Path, tmp_path: Path
) -> None:
    adopt(foreign, tmp_path / "one", workers=1)
    adopt(foreign.rename(tmp_path / "moved"), tmp_path / "three", workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_lost_shards_are_made_again_as_in_packing(foreign: Path, tmp_path: Path) -> None:
    adopt(foreign, tmp_path / "set")
    before = contents(tmp_path / "set")
    (tmp_path / "set" / "train-000000.tar").unlink()
    adopt(foreign, tmp_path / "set")
    assert contents(tmp_path / "set") == before


def test_a_shard_set_of_ours_can_be_adopted(tiny_shards: Path, tmp_path: Path) -> None:
    manifest = adopt(tiny_shards, tmp_path / "set")
    assert manifest.class_names == Manifest.read(tiny_shards).class_names
    with ShardSet(tiny_shards).split("val") as ours, ShardSet(tmp_path / "set").split("val") as new:
        assert new.labels.tolist() == ours.labels.tolist()
        assert new.payload(0).tobytes() == ours.payload(0).tobytes()
        assert new.metadata(0)["json"] == ours.metadata(0)


def test_a_shard_set_of_ours_is_adopted_with_a_note_on_what_is_lost(tiny_shards: Path) -> None:
    catalog = read_webdataset(tiny_shards, splits={}, class_names=None, seed=0)
    assert any(
        "`python -m train` reads as it is; adopted, every photograph counts once" in note
        for note in catalog.notes
    )


def test_a_manifest_of_something_else_gives_no_class_names(foreign: Path, tmp_path: Path) -> None:
    names = adopt(foreign, tmp_path / "without").class_names
    (foreign / "manifest.json").write_text('{"name": "an application", "version": 2}')
    assert adopt(foreign, tmp_path / "with").class_names == names


def bad(folder: Path, tars: dict[str, list[tuple[str, bytes]]]) -> None:
    for name, members in tars.items():
        write_tar(folder / name, members)


BAD: dict[str, tuple[dict[str, list[tuple[str, bytes]]], str]] = {
    "no tars": ({}, r"^.*a holds no \.tar file$"),
    "no val": (
        {"train.tar": sample("a", b"x", "0")},
        r"no tar is of split val; it needs one named",
    ),
    "an unknown split": (
        {"part-0.tar": sample("a", b"x", "0")},
        r"part-0\.tar does not tell its split: it begins with none of train, val, .* say --split",
    ),
    "no image": (
        {"train.tar": [("a.cls", b"0"), ("b.mp4", b"")], "val.tar": sample("a", b"x", "0")},
        r"train: 2 samples have no image \(jpg, jpeg, png, webp\): train\.tar/a, train\.tar/b",
    ),
    "no label": (
        {"train.tar": [("a.jpg", b"x")], "val.tar": sample("a", b"x", "0")},
        r"train: 1 samples have no label: train\.tar/a",
    ),
    "a negative label": (
        {"train.tar": sample("a", b"x", "-1") + sample("b", b"x", "0")},
        r"train: 1 samples have a negative label \(often: unlabelled\): train\.tar/a",
    ),
    "a label beyond all classes": (
        {"train.tar": sample("a", b"x", "100000"), "val.tar": sample("a", b"x", str(10**30))},
        r"train: 1 samples have a label beyond 99,999: train\.tar/a\n"
        r"  - val: 1 samples have a label beyond 99,999: val\.tar/a",
    ),
    "a number of 5,000 digits": (
        {"train.tar": sample("a", b"x", "9" * 5000)},
        r"train: 1 samples have a label of more than 1,000 characters: train\.tar/a",
    ),
    "an extension twice": (
        {"train.tar": [("a.JPG", b"x"), *sample("a", b"x", "0")]},
        r"train: 1 samples have an extension twice: train\.tar/a\.jpg",
    ),
    "a label that is not UTF-8": (
        {"train.tar": [("a.jpg", b"x"), ("a.cls", b"C\xe8pe")]},
        r"train: 1 samples have a label that is not UTF-8: train\.tar/a",
    ),
    "a label with a control character": (
        {"train.tar": sample("a", b"x", "Bo\x1b[31mletus")},
        r"train: 1 samples have a label with control characters: train\.tar/a",
    ),
    "a truth value for a label": (
        {"train.tar": [("a.jpg", b"x"), ("a.json", b'{"label": true}')]},
        r"samples have a JSON label that is neither a name nor a whole number: train\.tar/a",
    ),
    "numbers and names": (
        {"train.tar": sample("a", b"x", "7"), "val.tar": sample("a", b"x", "Boletus")},
        r"^labels are numbers \('7'\) and names \('Boletus'\), expected one or the other$",
    ),
    "one class": (
        {"train.tar": sample("a", b"x", "7"), "val.tar": sample("a", b"x", "7")},
        r"^all samples have the label '7'; a classifier needs two or more$",
    ),
    "a key twice": (
        {
            "train.tar": sample("a", b"x", "0") + sample("b", b"x", "0") + sample("a", b"x", "0"),
            "val.tar": sample("a", b"x", "0"),
        },
        r"train: 1 keys occur twice: train\.tar/a",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_cannot_be_adopted_is_refused_in_clear_words(
    case: str, tmp_path: Path
) -> None:
    tars, message = BAD[case]
    (tmp_path / "a").mkdir()
    bad(tmp_path / "a", tars)
    with pytest.raises(UserError) as error:
        adopt(tmp_path / "a", tmp_path / "set")
    assert re.search(message, error.value.message), error.value.message


def test_a_tar_cut_short_is_refused_by_name(foreign: Path, tmp_path: Path) -> None:
    tar = foreign / "train-0001.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"train: 1 tars cannot be read: train-0001\.tar \("):
        adopt(foreign, tmp_path / "set")


def damage_a_header(data: bytes) -> bytes:
    """Flip a bit of the second sample's first header."""
    at = data.index(b"photos/no 01.jpg\0")
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damage_a_header, r"damaged header at byte [\d,]+"),
        (lambda data: data[: data.index(b"photos/no 01.jpg\0")], "cut: no end marker"),
        (lambda data: data[: len(data.rstrip(b"\0")) // 512 * 512 + 1024], "cut: no end marker"),
        (lambda data: data + data, r"more behind its end at byte [\d,]+; were tars joined\?"),
    ],
    ids=["damaged", "cut between members", "cut in the end marker", "joined"],
)
def test_no_sample_of_a_tar_is_lost_silently(
    change: Callable[[bytes], bytes], said: str, foreign: Path
) -> None:
    tar = foreign / "train-0000.tar"
    tar.write_bytes(change(tar.read_bytes()))
    with pytest.raises(UserError, match=rf"tars cannot be read: train-0000\.tar \({said}\)"):
        read_webdataset(foreign, splits={}, class_names=None, seed=0)


def test_a_tar_without_samples_is_noted(foreign: Path) -> None:
    write_tar(foreign / "train-0002.tar", [])
    catalog = read_webdataset(foreign, splits={}, class_names=None, seed=0)
    assert "1 tars give no sample: train-0002.tar" in catalog.notes


def test_a_compressed_tar_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "train.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no \.tar file; unpack \.tar\.gz to \.tar first"):
        adopt(tmp_path, tmp_path / "set")


def test_labels_must_be_among_the_names_given(foreign: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\n")
    names = read_names(tmp_path / "names.txt")
    with pytest.raises(UserError, match=r"label 2 is beyond the 2 class names given"):
        adopt(foreign, tmp_path / "set", names=names)


def test_the_largest_label_is_adopted_at_once_and_the_gaps_are_noted(
    tmp_path: Path, image: MakeImage
) -> None:
    for split in ("train", "val"):
        members = sample("a", image(), "0") + sample("b", image(), "99999")
        write_tar(tmp_path / "a" / f"{split}.tar", members)
    catalog = read_webdataset(tmp_path / "a", splits={}, class_names=None, seed=0)
    assert catalog.splits["val"].labels.tolist() == [0, 99_999]
    note = "99,998 of 100,000 classes have no photograph: 00001, 00002, 00003, ..."
    assert catalog.notes[-1] == note


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"names\.txt holds no class names, expected one a line"),
        ("\n \n", r"names\.txt holds no class names, expected one a line"),
        ("a\nb\na\n", r"names\.txt gives a class name twice"),
        ("\n".join(map(str, range(100_001))), r"has 100,001 lines, expected at most 100,000"),
    ],
)
def test_class_names_are_checked(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        read_names(tmp_path / "names.txt")


def test_json_that_is_nested_beyond_reason_is_left_behind(tmp_path: Path, image: MakeImage) -> None:
    for split in ("train", "val"):
        members = []
        for depth in (50, *range(300, 1200, 20), 100_000):
            text = "[" * depth + "]" * depth
            label = "0" if depth < 700 else "1"
            members += [*sample(f"k{depth}", image(), label), (f"k{depth}.json", text.encode())]
        write_tar(tmp_path / "a" / f"{split}.tar", members)
    adopt(tmp_path / "a", tmp_path / "set")
    with ShardSet(tmp_path / "set").split("val") as val:
        kept = [val.metadata(at) for at in range(len(val))]
    assert "json" in kept[0]
    assert "json" not in kept[-1]


def test_a_changed_tar_is_noticed_by_its_time(foreign: Path, tmp_path: Path) -> None:
    adopt(foreign, tmp_path / "set")
    os.utime(foreign / "val-0000.tar", (1, 1))
    with pytest.raises(UserError, match=r"'val-0000\.tar/x0\.jpg', .* were modified since"):
        adopt(foreign, tmp_path / "set")


def test_the_command_adopts_and_a_second_run_has_nothing_to_do(
    foreign: Path, tmp_path: Path, run_command: Any
) -> None:
    arguments = ["preprocess", "adopt", foreign, "--out", "set", "--workers", "1"]
    done = run_command(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "18 photographs of 3 classes (webdataset)" in done.stdout
    again = run_command(*arguments)
    assert again.stdout.startswith("note: 4 tars are read")
    assert "set is complete already, made of the same; nothing to do\n" in again.stdout


def test_a_split_pattern_that_is_none_ends_with_one_line(
    foreign: Path, tmp_path: Path, run_command: Any
) -> None:
    done = run_command("preprocess", "adopt", foreign, "--out", "set", "--split", "trian=*.tar")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"error: .*'trian=\*\.tar' is not SPLIT=PATTERN with SPLIT one of train, val, test .*\n",
        done.stderr,
    )
