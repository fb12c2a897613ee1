"""What is written: the same bytes each time, complete or not at all, readable by everyone."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import pickle
import string
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shards.format import SAMPLE_DTYPE, Manifest
from shards.reader import ShardSet
from shards.writer import (
    Sample,
    atomic_file,
    tar_header,
    write_file,
    write_rejected,
    write_shard,
)

WriteSet = Callable[[Path, list[Sample]], Manifest]


def make_sample(
    key: int, payload: bytes = b"pixels", label: int = 1, path: str = "a.jpg"
) -> Sample:
    return Sample(
        key=key,
        label=label,
        repeats=1,
        payload=payload,
        extension="jpg",
        width=4,
        height=3,
        metadata={"path": path},
    )


SAMPLES = st.lists(
    st.builds(
        Sample,
        key=st.integers(0, 10**9 - 1),
        label=st.integers(0, 99_999),
        repeats=st.integers(1, 5),
        payload=st.binary(max_size=1500),
        extension=st.just("jpg"),
        width=st.integers(1, 2**31),
        height=st.integers(1, 2**31),
        metadata=st.builds(lambda path: {"path": path}, st.text(max_size=40)),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda sample: sample.key,
)


@given(samples=SAMPLES)
def test_reading_gives_back_what_was_written(
    samples: list[Sample], write_set: WriteSet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("set")
    write_set(directory, samples)
    with ShardSet(directory).split("train", verify="always") as split:
        read = [
            Sample(
                key=int(record["key"]),
                label=int(split.labels[sample]),
                repeats=int(split.repeats[sample]),
                payload=bytes(split.payload(sample)),
                extension="jpg",
                width=int(record["width"]),
                height=int(record["height"]),
                metadata=split.metadata(sample),
            )
            for sample, record in enumerate(split.samples)
        ]
    assert read == samples


def test_a_shard_is_byte_identical_when_written_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        write_shard(folder, "train", 0, [make_sample(each, bytes(each)) for each in range(5)])
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
        monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
        monkeypatch.setattr(os, "getuid", lambda: 1234)
    assert written[0] == written[1]


def test_a_shard_holds_image_label_and_source_in_this_order(tmp_path: Path) -> None:
    write_shard(tmp_path, "val", 2, [make_sample(7, b"JPEG", 12, "Amanita muscaria/ä.jpg")])
    with tarfile.open(tmp_path / "val-000002.tar") as tar:
        members = tar.getmembers()
        contents = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    assert [each.name for each in members] == [f"000000007.{end}" for end in ("jpg", "cls", "json")]
    assert contents[:2] == [b"JPEG", b"00012"]
    assert json.loads(contents[2]) == {"path": "Amanita muscaria/ä.jpg"}
    assert {(each.mtime, each.uid, each.gid, each.uname, each.mode) for each in members} == {
        (0, 0, 0, "", 0o644)
    }


def test_the_index_points_at_the_data_of_every_member(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    samples = [make_sample(each, rng.bytes(each * 300)) for each in range(4)]
    write_shard(tmp_path, "train", 0, samples)
    data = (tmp_path / "train-000000.tar").read_bytes()
    header, *lines = (tmp_path / "train-000000.idx").read_text().splitlines()
    assert header == "v1.2 4"
    for sample, line in zip(samples, lines, strict=True):
        fields = line.split(" ")
        parts = {
            fields[at]: data[int(fields[at + 1]) : int(fields[at + 1]) + int(fields[at + 2])]
            for at in range(0, 12, 4)
        }
        assert parts["jpg"] == sample.payload
        assert parts["cls"] == b"00001"
        assert json.loads(parts["json"]) == sample.metadata


def test_a_shard_without_samples_is_not_written(tmp_path: Path) -> None:
    written = write_shard(tmp_path, "train", 0, [])
    assert (len(written.records), written.records.dtype, written.files) == (0, SAMPLE_DTYPE, {})
    assert not list(tmp_path.iterdir())


def test_a_shard_that_fails_halfway_leaves_nothing(tmp_path: Path) -> None:
    def samples() -> Iterator[Sample]:
        yield make_sample(0, bytes(100_000))
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        write_shard(tmp_path, "train", 0, samples())
    assert not list(tmp_path.iterdir())


def test_a_file_has_its_name_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "table.npy"
    target.write_bytes(b"old")
    with atomic_file(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_told_with_the_file_that_did_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for code, told in ((errno.ENOSPC, str(path)), (errno.EIO, None)):  # EIO: perhaps what is read
        with pytest.raises(OSError, match=r".") as failed, atomic_file(path):
            raise OSError(code, "refused")
        assert failed.value.filename == told
        assert pickle.loads(pickle.dumps(failed.value)).filename == told  # as a worker sends it
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_lists_every_other_file_with_its_hash(
    write_set: WriteSet, tmp_path: Path
) -> None:
    manifest = write_set(tmp_path, [make_sample(each) for each in range(4)])
    copies = tmp_path / "copies"
    copies.mkdir()
    on_disk = {path.name: path for path in tmp_path.iterdir() if path.is_file()}
    del on_disk["manifest.json"]
    assert manifest.files == {
        name: write_file(copies / name, path.read_bytes()) for name, path in on_disk.items()
    }


def test_rejected_files_keep_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(b"Boletus/caf\xe9, 1.jpg")
    write_rejected(tmp_path, [("train", path, "empty file")])
    text = (tmp_path / "rejected.csv").read_bytes().decode(errors="surrogateescape")
    assert list(csv.reader(io.StringIO(text))) == [
        ["split", "path", "reason"],
        ["train", path, "empty file"],
    ]


# webdataset leaves the closing of its files to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_image_label_and_source(tiny_shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    urls = sorted(str(path) for path in tiny_shards.glob("train-*.tar"))
    dataset = webdataset.WebDataset(urls, shardshuffle=False).decode("pil")
    read = list(dataset.to_tuple("__key__", "jpg", "cls", "json"))
    with ShardSet(tiny_shards).split("train") as split:
        assert [int(key) for key, *_ in read] == split.samples["key"].tolist()
        assert [label for _, _, label, _ in read] == split.labels.tolist()
        for sample, (_, image, label, metadata) in enumerate(read):
            assert isinstance(label, int)
            assert image.tobytes() == Image.open(io.BytesIO(split.payload(sample))).tobytes()
            assert metadata == split.metadata(sample)


@pytest.mark.dali
def test_dali_reads_images_and_labels_by_our_index(tiny_shards: Path) -> None:
    from nvidia.dali import fn, pipeline_def, types

    shards = sorted(tiny_shards.glob("train-*.tar"))

    @pipeline_def(batch_size=6, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> tuple[object, object, object]:
        encoded, digits = fn.readers.webdataset(
            paths=[str(path) for path in shards],
            index_paths=[str(path.with_suffix(".idx")) for path in shards],
            ext=["jpg", "cls"],
            missing_component_behavior="error",
        )
        places = types.Constant(np.array([10_000, 1_000, 100, 10, 1], np.int32))
        label = fn.reductions.sum((fn.cast(digits, dtype=types.INT32) - 48) * places)
        return encoded, label, fn.decoders.image(encoded, device="cpu")

    pipe = pipeline()
    pipe.build()
    with ShardSet(tiny_shards).split("train") as split:
        for first in range(0, len(split), 6):
            encoded, labels, images = pipe.run()
            for at in range(6):
                payload = split.payload(first + at)
                assert bytes(np.asarray(encoded[at])) == bytes(payload)
                assert int(np.asarray(labels[at]).item()) == split.labels[first + at]
                reference = np.asarray(Image.open(io.BytesIO(payload)))
                np.testing.assert_array_equal(np.asarray(images[at]), reference)


@given(name=st.text(string.digits + string.ascii_lowercase + ".", min_size=1, max_size=99),
       size=st.integers(0, 8 * 2**30 - 1))  # fmt: skip
def test_a_header_is_the_one_that_tarfile_makes(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    assert tar_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_a_device_or_link_stays_what_it_is(tmp_path: Path) -> None:
    real, link, null = (tmp_path / name for name in ("real", "link", "null"))
    real.write_bytes(b"before")
    link.symlink_to(real)
    null.symlink_to("/dev/null")
    for path in (link, null):
        assert write_file(path, b"after").bytes == 5
    assert real.read_bytes() == b"after"
    assert link.is_symlink()
    assert Path("/dev/null").is_char_device()
    assert {each.name for each in tmp_path.iterdir()} == {"real", "link", "null"}


def test_a_pipe_gets_what_is_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_file(pipe, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
