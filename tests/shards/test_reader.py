"""Random access: every byte checked, every damage named by shard, key and source."""

from __future__ import annotations

import errno
import io
import pickle
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards.errors import ShardError
from shards.format import key_name
from shards.reader import ShardSet, Split, Verify


def flip_byte_of(shards: Path, sample: int) -> tuple[str, str, str]:
    """Damage a train sample; returns its shard, key and source."""
    with ShardSet(shards).split("train") as split:
        record = split.samples[sample]
        source = split.metadata(sample)["path"]
    shard = shards / f"train-{record['shard']:06d}.tar"
    data = bytearray(shard.read_bytes())
    data[int(record["offset"]) + int(record["size"]) // 2] ^= 0x10
    shard.write_bytes(data)
    return shard.name, key_name(int(record["key"])), source


def test_every_sample_is_an_image_of_the_recorded_size(tiny_shards: Path) -> None:
    with ShardSet(tiny_shards).split("train") as split:
        assert len(split) == 24
        for sample, record in enumerate(split.samples):
            image = Image.open(io.BytesIO(split.payload(sample)))
            assert image.size == (record["width"], record["height"])


def test_rows_give_the_labels_of_the_csv_in_its_order(
    tiny_shards: Path, tiny_dataset: Path
) -> None:
    lines = (tiny_dataset / "train.csv").read_text().splitlines()[1:]
    shards = ShardSet(tiny_shards)
    with shards.split("train") as split:
        names = [shards.manifest.class_names[split.labels[sample]] for sample in split.rows]
        sources = [split.metadata(sample)["path"] for sample in split.rows]
    assert [
        f"/kaggle/working/merged_dataset/{s},{n}" for s, n in zip(sources, names, strict=True)
    ] == lines


def test_an_unknown_split_is_refused_with_those_there_are(tiny_shards: Path) -> None:
    with pytest.raises(ShardError, match=r"no split 'valid' \(it has: train, val, test\)"):
        ShardSet(tiny_shards).split("valid")


def test_a_flipped_byte_names_shard_key_and_source(shards_copy: Path) -> None:
    shard, key, source = flip_byte_of(shards_copy, 5)
    with ShardSet(shards_copy).split("train") as split:
        with pytest.raises(ShardError, match="crc32 does not match") as caught:
            split.payload(5)
        assert f"sample {key} of {shards_copy / shard} (source {source})" in caught.value.message
        assert len(split.payload(4)) == split.samples["size"][4]


@pytest.mark.parametrize(("verify", "second_read"), [("always", "fails"), ("first", "passes")])
def test_verify_says_whether_a_second_read_is_checked(
    shards_copy: Path, verify: Verify, second_read: str
) -> None:
    with ShardSet(shards_copy).split("train", verify) as split:
        split.payload(3)
    with ShardSet(shards_copy).split("train", verify) as split:
        split.payload(3)
        flip_byte_of(shards_copy, 3)  # the map sees it: it is shared with the file
        if second_read == "passes":
            assert len(split.payload(3)) == split.samples["size"][3]
        else:
            with pytest.raises(ShardError, match="crc32"):
                split.payload(3)


def test_verify_never_hands_out_damaged_bytes_unchecked(shards_copy: Path) -> None:
    flip_byte_of(shards_copy, 0)
    with ShardSet(shards_copy).split("train", "never") as split:
        assert len(split.payload(0)) == split.samples["size"][0]


def test_a_truncated_shard_is_refused_with_both_sizes(shards_copy: Path) -> None:
    shard = shards_copy / "train-000000.tar"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-10_000])
    message = rf"train-000000\.tar has {size - 10_000} bytes, the manifest says {size}"
    with ShardSet(shards_copy).split("train") as split, pytest.raises(ShardError, match=message):
        split.payload(0)


@pytest.mark.parametrize("how", ["missing", "empty", "a folder"])
def test_a_shard_that_cannot_be_opened_is_named(shards_copy: Path, how: str) -> None:
    shard = shards_copy / "val-000000.tar"
    shard.unlink()
    if how == "empty":
        shard.touch()
    elif how == "a folder":
        shard.mkdir()
    message = r"cannot open shard .*val-000000\.tar: .*; pack the set again"
    with ShardSet(shards_copy).split("val") as split, pytest.raises(ShardError, match=message):
        split.payload(0)


def test_a_damaged_sample_table_is_refused(shards_copy: Path) -> None:
    table = shards_copy / "train.samples.npy"
    data = bytearray(table.read_bytes())
    data[-5] ^= 1
    table.write_bytes(data)
    with pytest.raises(ShardError, match=r"train\.samples\.npy is damaged: sha256"):
        ShardSet(shards_copy).split("train")


def test_a_damaged_row_table_is_refused(shards_copy: Path) -> None:
    table = shards_copy / "train.rows.npy"
    table.write_bytes(table.read_bytes()[:-4])
    split = ShardSet(shards_copy).split("train")
    with pytest.raises(ShardError, match=r"train\.rows\.npy is damaged: sha256"):
        _ = split.rows


def test_a_missing_sample_table_is_named(shards_copy: Path) -> None:
    (shards_copy / "val.samples.npy").unlink()
    with pytest.raises(ShardError, match=r"cannot read .*val\.samples\.npy: No such file"):
        ShardSet(shards_copy).split("val")


@pytest.mark.parametrize("name", ["manifest.json", "val.samples.npy", "val-000000.tar"])
def test_a_file_that_may_not_be_read_is_told_by_its_permissions(
    name: str, shards_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = io.open

    def refusing(file: Any, *args: Any, **options: Any) -> Any:
        if str(file).endswith(name):  # root may read everything
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return opened(file, *args, **options)

    monkeypatch.setattr(io, "open", refusing)
    message = rf"^cannot read .*{name}: Permission denied; check its permissions$"
    with pytest.raises(ShardError, match=message):
        ShardSet(shards_copy).split("val").payload(0)


def test_a_moved_shard_set_reads_the_same(tiny_shards: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_shards, tmp_path / "elsewhere")
    with ShardSet(tiny_shards).split("val") as one, ShardSet(moved).split("val") as other:
        assert [bytes(one.payload(at)) for at in range(6)] == [
            bytes(other.payload(at)) for at in range(6)
        ]


def test_a_pickled_split_reads_the_same_after_maps_were_open(tiny_shards: Path) -> None:
    with ShardSet(tiny_shards).split("train") as split:
        payload = bytes(split.payload(2))
        copy: Split = pickle.loads(pickle.dumps(split))
        with copy:
            assert bytes(copy.payload(2)) == payload
            assert copy.metadata(2) == split.metadata(2)


def test_a_pickled_split_reads_the_same_in_another_process(
    tiny_shards: Path, command_environment: dict[str, str]
) -> None:
    with ShardSet(tiny_shards).split("train") as split:
        expected = bytes(split.payload(1))
        pickled = pickle.dumps(split)
    code = (
        "import pickle, sys; split = pickle.load(sys.stdin.buffer);"
        "sys.stdout.buffer.write(split.payload(1))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickled, env=command_environment, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == expected


def test_threads_read_what_one_thread_reads(tiny_shards: Path) -> None:
    with ShardSet(tiny_shards).split("train") as split:
        expected = [bytes(split.payload(at)) for at in range(len(split))]
    with ShardSet(tiny_shards).split("train") as split, ThreadPoolExecutor(8) as threads:
        samples = list(range(len(split))) * 4
        read = list(threads.map(lambda at: bytes(split.payload(at)), samples))
    assert read == expected * 4


def test_closing_keeps_a_view_that_is_still_in_use_valid(tiny_shards: Path) -> None:
    split = ShardSet(tiny_shards).split("train")
    view = split.payload(0)
    before = bytes(view)
    split.close()
    assert bytes(view) == before


def test_describing_a_sample_of_a_missing_shard_does_not_raise(shards_copy: Path) -> None:
    split = ShardSet(shards_copy).split("val")
    (shards_copy / "val-000000.tar").unlink()
    assert re.fullmatch(
        r"sample 000000000 of .*val-000000\.tar \(source unknown\)", split.describe(0)
    )


def test_sample_ids_of_a_gappy_set_skip_no_record(gappy_shards: Path) -> None:
    with ShardSet(gappy_shards).split("train") as split:
        assert len(split) == 22
        assert np.all(np.diff(split.samples["key"].astype(int)) >= 1)
        assert int(split.samples["key"][-1]) >= 22
