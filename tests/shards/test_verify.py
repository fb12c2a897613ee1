"""``python -m shards verify``, ``ls`` and ``cat``, and packing again what verify says to delete."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shards.describe import describe
from shards.format import MANIFEST_NAME, Manifest
from shards.reader import ShardSet
from shards.verify import verify
from shards.writer import Sample


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_a_whole_set_has_no_problem(tiny_shards: Path) -> None:
    assert verify(ShardSet(tiny_shards), decode=True, threads=2) == []


def test_a_flipped_byte_of_an_image_is_named_by_shard_key_and_source(shards_copy: Path) -> None:
    with ShardSet(shards_copy).split("train") as split:
        record = split.samples[3]
        source = split.metadata(3)["path"]
    flip(shards_copy / "train-000000.tar", int(record["offset"]) + 100)
    (problem,) = verify(ShardSet(shards_copy))
    assert problem.file == "train-000000.tar"
    assert f"{record['key']:09d}" in problem.what
    assert source in problem.what
    assert problem.remedy.startswith("delete train-000000.tar and run the packing command again")


@pytest.mark.parametrize("name", ["train.samples.npy", "val.rows.npy", "train-000000.idx"])
def test_a_missing_file_is_named(name: str, shards_copy: Path) -> None:
    (shards_copy / name).unlink()
    (problem,) = verify(ShardSet(shards_copy))
    assert (problem.file, problem.what) == (name, "missing")


def test_a_foreign_file_is_named(shards_copy: Path) -> None:
    (shards_copy / "notes.txt").write_text("mine")
    (problem,) = verify(ShardSet(shards_copy))
    assert (problem.file, problem.what) == ("notes.txt", "not part of the set")


def test_ls_keeps_to_a_line_a_sample_whatever_names_hold(
    write_set: Any, tmp_path: Path, run_command: Any
) -> None:
    path = "a\nb\x1b[31m\u202e.jpg"
    write_set(tmp_path, [sample_of(path)])
    reseal(tmp_path, class_names=("x", "y\r\nz"), sources={"from\n": 1})
    listed = run_command("shards", "ls", str(tmp_path))
    assert listed.stdout == ("000000000  4x3  x1  y\\r\\nz  a\\nb\\x1b[31m\\u202e.jpg\n")
    assert "added     1 from\\n\n" in run_command("shards", "info", str(tmp_path)).stdout


def test_info_counts_arrays_and_jpegs_of_a_set_that_stores_both(
    write_set: Any, tmp_path: Path
) -> None:
    jpeg = sample_of("npy 1 2 a.jpg")
    arrays = [
        replace(jpeg, key=key, extension="npy", payload=bytes(500 * key)) for key in (1, 2, 4)
    ]
    write_set(tmp_path, [jpeg, *arrays])
    manifest = Manifest.read(tmp_path)
    assert "forms" not in describe(tmp_path, manifest)
    both = replace(manifest, options={"raw_share": 0.5})
    assert "\nforms     3 arrays (3.5 kB), 1 JPEGs (6 B)\n" in describe(tmp_path, both)
    (tmp_path / "train-000001.idx").unlink()
    assert "forms" not in describe(tmp_path, both)


def sample_of(path: str) -> Sample:
    return Sample(
        key=0, label=1, repeats=1, payload=b"pixels", extension="jpg", width=4, height=3,
        metadata={"path": path},
    )  # fmt: skip


def reseal(shards: Path, **fields: Any) -> None:
    """Change the manifest as a program that seals it anew does."""
    manifest = replace(Manifest.read(shards), **fields)
    (shards / MANIFEST_NAME).write_text(manifest.to_json())


@pytest.mark.parametrize(
    ("field", "file", "what"),
    [
        ("samples", "train.samples.npy", "has 24 samples, the manifest says 23"),
        ("rows", MANIFEST_NAME, "says 35 rows of split train, its tables say 36"),
        ("bytes", MANIFEST_NAME, "bytes of split train, its tables say"),
    ],
)
def test_a_manifest_that_counts_otherwise_than_its_tables_is_a_problem(
    field: str, file: str, what: str, shards_copy: Path
) -> None:
    splits = Manifest.read(shards_copy).splits
    wrong = replace(splits["train"], **{field: getattr(splits["train"], field) - 1})
    reseal(shards_copy, splits=splits | {"train": wrong})
    (problem,) = verify(ShardSet(shards_copy))
    assert problem.file == file
    assert what in problem.what
    assert problem.remedy == "remove the folder and run the packing command again"


def test_a_label_beyond_the_class_names_is_a_problem(shards_copy: Path) -> None:
    reseal(shards_copy, class_names=("a", "b"))
    assert {problem.file for problem in verify(ShardSet(shards_copy))} == {MANIFEST_NAME}


def test_a_tar_that_the_manifest_does_not_list_is_not_advised_to_be_deleted(
    shards_copy: Path,
) -> None:
    files = Manifest.read(shards_copy).files
    lost = {"train-000000.tar", "train-000000.idx"}
    reseal(shards_copy, files={name: each for name, each in files.items() if name not in lost})
    problems = verify(ShardSet(shards_copy))
    assert {problem.file for problem in problems} == lost | {"train.samples.npy"}
    assert not any("delete" in problem.remedy for problem in problems)


def test_a_lost_table_is_mended_by_what_verify_says(
    tiny_dataset: Path, tmp_path: Path, run_command
) -> None:
    out = tmp_path / "set"
    packing = ("preprocess", str(tiny_dataset), "--out", str(out), "--workers", "1")
    assert run_command(*packing).returncode == 0
    (out / "val.rows.npy").unlink()
    (problem,) = verify(ShardSet(out))
    assert problem.remedy == "remove the folder and run the packing command again"
    told = run_command(*packing)
    assert told.returncode == 1
    assert told.stderr.endswith(
        f"val.rows.npy is missing or damaged; remove {out} and pack again\n"
    )
    shutil.rmtree(out)
    assert run_command(*packing).returncode == 0


def test_packing_again_restores_what_verify_says_to_delete(
    tiny_dataset: Path, tmp_path: Path, run_command
) -> None:
    out = tmp_path / "set"
    packing = ("preprocess", str(tiny_dataset), "--out", str(out), "--short-side", "96")
    assert run_command(*packing).returncode == 0
    before = {each.name: each.read_bytes() for each in out.iterdir()}
    flip(out / "train-000000.tar", 5000)
    found = run_command("shards", "verify", str(out))
    assert found.returncode == 1
    assert "delete train-000000.tar" in found.stdout
    (out / "train-000000.tar").unlink()
    assert run_command(*packing).returncode == 0
    whole = run_command("shards", "verify", str(out), "--decode")
    assert whole.returncode == 0
    assert "every image decodes" in whole.stdout
    assert {each.name: each.read_bytes() for each in out.iterdir()} == before


def test_ls_lists_and_cat_writes_the_stored_bytes(tiny_shards: Path, run_command, tmp_path) -> None:
    listed = run_command("shards", "ls", str(tiny_shards), "--split", "val")
    with ShardSet(tiny_shards).split("val") as split:
        assert len(listed.stdout.splitlines()) == len(split)
        key, payload = int(split.samples["key"][2]), bytes(split.payload(2))
        assert split.metadata(2)["path"] in listed.stdout
    missing = run_command("shards", "cat", str(tiny_shards), "999")
    assert missing.returncode == 2
    assert "no sample 000000999" in missing.stderr
    assert payload.startswith(b"\xff\xd8")
    assert f"{key:09d}" in listed.stdout


@pytest.mark.parametrize("damage", [b"{", b"\xff", b"["])
def test_ls_names_a_sample_whose_json_is_damaged(
    damage: bytes, shards_copy: Path, run_command
) -> None:
    tar = shards_copy / "val-000000.tar"
    data = tar.read_bytes()
    at = data.index(b'{"path"')
    end = data.index(b"}", at) + 1
    tar.write_bytes(data[:at] + damage * (end - at) + data[end:])
    listed = run_command("shards", "ls", str(shards_copy), "--split", "val")
    assert (listed.returncode, listed.stdout) == (2, "")
    assert listed.stderr == (
        f"error: the .json of sample 000000000 of {tar} is damaged; delete that shard and pack "
        "again, and check the disk\n"
    )
    assert "source unknown" in ShardSet(shards_copy).split("val").describe(0)
