"""Packing: the same bytes whatever happens on the way, and nothing published when it fails."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from preprocess.discover import read_catalog
from preprocess.image import ImageOptions
from preprocess.pack import codec_versions, expected_bytes, pack
from preprocess.pack_job import announce
from preprocess.shard_task import shard_files, shard_tasks
from shards.errors import JobError, UserError
from shards.format import MANIFEST_NAME, WORK_NAME, Manifest
from shards.photo_times import TIMES_NAME
from shards.reader import ShardSet

SHORT_SIDE = 96  # that of pack_set
MANY = 300
"""Files of the data set that is cut into several shards."""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a set, without those that hold times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("pack.log", TIMES_NAME)
    }


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def unbroken(
    many_photos: Path, tmp_path_factory: pytest.TempPathFactory, pack_set: Any
) -> dict[str, bytes]:
    """What packing ``many_photos`` in one go gives."""
    out = tmp_path_factory.mktemp("unbroken") / "set"
    pack_set(many_photos, out)
    files = contents(out)
    assert sum(name.endswith(".tar") for name in files) == 6
    return files


@pytest.mark.parametrize("workers", [1, 3])
def test_the_set_is_byte_identical_for_any_number_of_workers(
    workers: int, many_photos: Path, unbroken: dict[str, bytes], tmp_path: Path, pack_set: Any
) -> None:
    pack_set(many_photos, tmp_path / "set", workers=workers)
    assert contents(tmp_path / "set") == unbroken


def test_the_set_is_byte_identical_when_photographs_lie_elsewhere(
    tiny_shards: Path, dataset_copy: Path, tmp_path: Path, pack_set: Any
) -> None:
    for path in dataset_copy.rglob("*.jpg"):
        os.utime(path, (1, 1))
    pack_set(dataset_copy, tmp_path / "set")
    assert contents(tmp_path / "set") == contents(tiny_shards)


def test_a_finished_set_holds_no_work_and_nothing_unlisted(tiny_shards: Path) -> None:
    listed = set(ShardSet(tiny_shards).manifest.files)
    assert {path.name for path in tiny_shards.iterdir()} == listed | {MANIFEST_NAME, TIMES_NAME}


def start_packing(
    data: Path, out: Path, environment: dict[str, str], workers: int = 2
) -> subprocess.Popen[bytes]:
    """Errors go to a file: what outlives the process would keep a pipe open."""
    arguments = ["--out", out, "--short-side", SHORT_SIDE, "--workers", workers]
    with errors_of(out).open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "preprocess", str(data), *map(str, arguments)],
            env=environment, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
        )  # fmt: skip


def errors_of(out: Path) -> Path:
    return out.with_name("errors.txt")


def wait_for_first_shard(out: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not list((out / WORK_NAME).glob("*-0*.json")):
        assert process.poll() is None, errors_of(out).read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def members_of_session(session: int) -> list[str]:
    """Processes of that session that still run, as ``pid command``."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, fields = status.read_text().rpartition(") ")
        except OSError:  # it has just ended
            continue
        state, _, _, its_session = fields.split()[:4]
        if int(its_session) == session and state != "Z":
            found.append(name)
    return found


def members_after_a_while(session: int, patience_s: float = 20) -> list[str]:
    """Who still runs once Python's own helper, which ends after its parent, had time to end."""
    deadline = time.monotonic() + patience_s
    while (left := members_of_session(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def end_session(session: int) -> None:
    try:
        os.killpg(session, signal.SIGKILL)
    except ProcessLookupError:
        pass


@pytest.fixture
def killed(
    many_photos: Path, tmp_path: Path, command_environment: dict[str, str]
) -> Iterator[tuple[Path, int]]:
    """The folder of a pack whose main process was killed outright, and its session."""
    out = tmp_path / "set"
    process = start_packing(many_photos, out, command_environment)
    try:
        wait_for_first_shard(out, process)
        process.kill()
        process.wait(timeout=60)
        yield out, process.pid
    finally:
        end_session(process.pid)


def test_a_killed_pack_goes_on_and_ends_as_if_never_killed(
    killed: tuple[Path, int],
    many_photos: Path,
    unbroken: dict[str, bytes],
    run_command: Any,
) -> None:
    out, _ = killed
    assert not (out / MANIFEST_NAME).exists()
    done = run_command("preprocess", many_photos, "--out", out, "--short-side", str(SHORT_SIDE))
    assert done.returncode == 0, done.stderr
    assert "going on" in done.stdout
    assert contents(out) == unbroken


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_pack_leaves_no_processes_behind(killed: tuple[Path, int]) -> None:
    _, session = killed
    deadline = time.monotonic() + 5
    while (left := members_of_session(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_pack_says_how_to_go_on_and_keeps_its_shards(
    signum: signal.Signals,
    code: int,
    many_photos: Path,
    tmp_path: Path,
    command_environment: dict[str, str],
) -> None:
    out = tmp_path / "set"
    process = start_packing(many_photos, out, command_environment, workers=1)
    try:
        wait_for_first_shard(out, process)
        # A terminal's Ctrl-C reaches the whole group; `kill` and schedulers the one process.
        (os.killpg if signum == signal.SIGINT else os.kill)(process.pid, signum)
        process.wait(timeout=60)
        errors = errors_of(out).read_text()
        left = members_after_a_while(process.pid)
    finally:
        end_session(process.pid)
    assert process.returncode == code
    assert errors.strip().splitlines()[-1] == (
        f"stopped; finished shards are kept in {out}: run the same command again to go on"
    )
    assert "Traceback" not in errors
    assert (out / WORK_NAME / "train-000000.json").exists()
    assert not (out / MANIFEST_NAME).exists()
    assert not left


def interrupt_packing(data: Path, out: Path) -> None:
    """Pack with one thread and stop once the first shard is done."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as executor, pytest.raises(KeyboardInterrupt):
        pack(
            read_catalog(data),
            out,
            ImageOptions(short_side=SHORT_SIDE),
            executor,
            on_progress=interrupt,
        )


def test_a_shard_whose_tar_is_cut_short_after_a_kill_is_made_again(
    many_photos: Path, unbroken: dict[str, bytes], tmp_path: Path, pack_set: Any
) -> None:
    out = tmp_path / "set"
    interrupt_packing(many_photos, out)
    tar = out / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    pack_set(many_photos, out)
    assert contents(out) == unbroken


def test_a_shard_that_is_done_is_not_made_again(many_photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    interrupt_packing(many_photos, out)
    finished = {path.stem for path in (out / WORK_NAME).glob("*-0*.json")}
    assert finished
    made: dict[str, bool] = {}
    with ThreadPoolExecutor(1) as executor:
        pack(
            read_catalog(many_photos),
            out,
            ImageOptions(short_side=SHORT_SIDE),
            executor,
            on_progress=lambda task, _, new: made.update({f"{task.split}-{task.shard:06d}": new}),
        )
    assert {name for name, new in made.items() if not new} == finished


def test_a_second_run_changes_nothing(tiny_dataset: Path, shards_copy: Path, pack_set: Any) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in shards_copy.iterdir()}
    manifest = pack_set(tiny_dataset, shards_copy)
    assert manifest == ShardSet(shards_copy).manifest
    assert {path.name: path.stat().st_mtime_ns for path in shards_copy.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"short_side": 64}, "short_side 96 there, 64 now"),
        ({"quality": 80}, "quality 90 there, 80 now"),
        ({"seed": 5}, "--seed 0 there, 5 now"),
    ],
)
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_other_options_are_refused_by_name(
    options: dict[str, int],
    difference: str,
    state: str,
    tiny_dataset: Path,
    tmp_path: Path,
    pack_set: Any,
) -> None:
    out = tmp_path / "set"
    if state == "finished":
        pack_set(tiny_dataset, out)
    else:
        interrupt_packing(tiny_dataset, out)
    before = contents(out)
    with pytest.raises(UserError, match="holds a shard set made differently") as caught:
        pack_set(tiny_dataset, out, **options)
    assert difference in caught.value.message
    assert contents(out) == before


def test_a_file_in_place_of_the_work_folder_is_refused(
    tiny_dataset: Path, tmp_path: Path, pack_set: Any
) -> None:
    (tmp_path / WORK_NAME).write_text("of something else")
    with pytest.raises(UserError, match=r"\.pack is a file, expected the folder of unfinished"):
        pack_set(tiny_dataset, tmp_path)


def test_nothing_is_announced_before_a_refusal(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    interrupt_packing(tiny_dataset, out)
    catalog = read_catalog(tiny_dataset)
    announce(catalog, tiny_dataset, out, ImageOptions(short_side=SHORT_SIDE), 1)
    assert capsys.readouterr().out.startswith("going on ")
    with pytest.raises(UserError, match=f"short_side {SHORT_SIDE} there, 64 now"):
        announce(catalog, tiny_dataset, out, ImageOptions(short_side=64), 1)
    assert capsys.readouterr().out == ""


def test_a_set_of_before_options_were_noted_is_known_again(
    tiny_dataset: Path, shards_copy: Path, pack_set: Any
) -> None:
    manifest = Manifest.read(shards_copy)
    del manifest.source["asked"]
    (shards_copy / MANIFEST_NAME).write_text(manifest.to_json())
    assert pack_set(tiny_dataset, shards_copy) == manifest
    with pytest.raises(UserError, match="--seed not given there, 5 now"):
        pack_set(tiny_dataset, shards_copy, seed=5)


def test_another_codec_version_is_refused_by_name(
    tiny_dataset: Path, shards_copy: Path, pack_set: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_with = codec_versions()["simplejpeg"]
    monkeypatch.setattr("simplejpeg.__version__", "0.0.1")
    with pytest.raises(UserError, match=f"simplejpeg '{made_with}' there, '0.0.1' now"):
        pack_set(tiny_dataset, shards_copy)


def test_changed_photographs_are_refused(
    dataset_copy: Path, shards_copy: Path, pack_set: Any
) -> None:
    photo = next((dataset_copy / "merged_dataset").rglob("train 05.jpg"))
    photo.write_bytes(photo.read_bytes() + b"more")
    with pytest.raises(UserError, match="other photographs, labels or splits than now"):
        pack_set(dataset_copy, shards_copy)


def test_two_packs_into_one_folder_at_once_are_refused(
    tiny_dataset: Path, tmp_path: Path, pack_set: Any
) -> None:
    work = tmp_path / "set" / WORK_NAME
    work.mkdir(parents=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being packed by another process; wait for it"):
            pack_set(tiny_dataset, tmp_path / "set")
    assert [path.name for path in work.iterdir()] == ["lock"]


def test_a_folder_of_something_else_is_refused_and_kept(
    tiny_dataset: Path, tmp_path: Path, pack_set: Any
) -> None:
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(UserError, match="is not empty and holds no shard set"):
        pack_set(tiny_dataset, tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"chapter 1"}


class TestRejected:
    def test_too_many_publish_nothing_and_name_the_reasons(
        self, gappy_dataset: Path, tmp_path: Path, pack_set: Any
    ) -> None:
        out = tmp_path / "set"
        with pytest.raises(JobError, match="2 of 36 photographs were rejected") as caught:
            pack_set(gappy_dataset, out, max_rejected=0.05)
        assert "1 not an image" in caught.value.message
        assert "--max-rejected 5 (percent)" in caught.value.message
        assert caught.value.exit_code == 1
        assert not (out / MANIFEST_NAME).exists()
        assert len(rejected_rows(out)) == 2

    def test_allowing_more_publishes_what_was_already_packed(
        self, gappy_dataset: Path, gappy_shards: Path, tmp_path: Path, pack_set: Any
    ) -> None:
        with pytest.raises(JobError):
            pack_set(gappy_dataset, tmp_path / "set", max_rejected=0.05)
        pack_set(gappy_dataset, tmp_path / "set", max_rejected=0.1)
        assert contents(tmp_path / "set") == contents(gappy_shards)

    def test_rejected_csv_names_split_path_and_reason(self, gappy_shards: Path) -> None:
        assert sorted(rejected_rows(gappy_shards)) == [
            ("train", "Amanita muscaria/train 07.jpg", "not an image"),
            ("train", "Boletus edulis/train 05.jpg", "damaged JPEG: premature end of jpeg file"),
        ]

    def test_a_missing_file_is_rejected_like_any_other(
        self, dataset_copy: Path, tmp_path: Path, pack_set: Any
    ) -> None:
        next((dataset_copy / "merged_dataset").rglob("val 01.jpg")).unlink()
        manifest = pack_set(dataset_copy, tmp_path / "set", max_rejected=0.1)
        assert manifest.rejected == {"missing": 1}
        assert manifest.splits["val"].samples == 5

    def test_a_rejected_file_leaves_a_gap_and_moves_no_other(
        self, tiny_shards: Path, gappy_shards: Path
    ) -> None:
        with ShardSet(tiny_shards).split("train") as whole:
            expected = {key: path for key, path, _ in identities(whole)}
            labels = {key: label for key, _, label in identities(whole)}
        with ShardSet(gappy_shards).split("train") as gappy:
            for key, path, label in identities(gappy):
                assert (expected.pop(key), labels[key]) == (path, label)
        assert sorted(expected.values()) == [
            "Amanita muscaria/train 07.jpg", "Boletus edulis/train 05.jpg"
        ]  # fmt: skip

    def test_rows_of_a_rejected_file_hold_minus_one_minus_its_label(
        self, gappy_dataset: Path, gappy_shards: Path
    ) -> None:
        table = pd.read_csv(gappy_dataset / "train.csv")
        with ShardSet(gappy_shards).split("train") as split:
            rows = split.rows
            for row, (path, label) in enumerate(table.itertuples(index=False)):
                if path.endswith(("Amanita muscaria/train 07.jpg", "Boletus edulis/train 05.jpg")):
                    assert rows[row] == -1 - split.manifest.class_names.index(label)
                else:
                    assert path.endswith(split.metadata(int(rows[row]))["path"])
        assert (rows < 0).sum() == 2

    def test_counts_of_files_samples_and_rows_are_all_told(self, gappy_shards: Path) -> None:
        train = ShardSet(gappy_shards).manifest.splits["train"]
        assert (train.rows, train.files, train.samples) == (36, 24, 22)

    def test_a_shard_of_rejected_files_alone_is_not_written(
        self, tmp_path: Path, pack_set: Any
    ) -> None:
        for part, count in (("train", 4), ("val", 2)):
            for name in "ab":
                (tmp_path / "data" / part / name).mkdir(parents=True)
                for at in range(count):
                    (tmp_path / "data" / part / name / f"{at}.jpg").write_text("no image")
        for path in (tmp_path / "data" / "train").rglob("*.jpg"):
            Image.new("RGB", (20, 20), (at * 9, 0, 0)).save(path)
        out = tmp_path / "set"
        manifest = pack_set(tmp_path / "data", out, max_rejected=1)
        assert not list(out.glob("val-*"))
        assert manifest.splits["val"].samples == 0
        with ShardSet(out).split("val") as split:
            assert split.rows.tolist() == [-1, -1, -2, -2]


def rejected_rows(out: Path) -> list[tuple[str, ...]]:
    with (out / "rejected.csv").open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def identities(split: Any) -> list[tuple[int, str, int]]:
    """``(key, source path, label)`` of every sample."""
    return [
        (int(record["key"]), split.metadata(sample)["path"], int(record["label"]))
        for sample, record in enumerate(split.samples)
    ]


def test_a_full_disk_ends_the_job_and_the_next_run_completes_it(
    tiny_dataset: Path,
    tiny_shards: Path,
    tmp_path: Path,
    pack_set: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = os.fsync
    calls = iter(range(1000))

    def full_after_ten_files(descriptor: int) -> None:
        if next(calls) >= 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    out = tmp_path / "set"
    monkeypatch.setattr(os, "fsync", full_after_ten_files)
    message = rf"packing stopped: No space left on device: {out}/\S+; the finished shards are kept"
    with pytest.raises(JobError, match=message):
        pack_set(tiny_dataset, out, workers=1)
    assert not (out / MANIFEST_NAME).exists()
    assert not list(out.rglob("*.tmp"))
    monkeypatch.setattr(os, "fsync", real)
    pack_set(tiny_dataset, out)
    assert contents(out) == contents(tiny_shards)


def test_pixel_statistics_are_those_of_the_training_images(
    pack_set: Any, tiny_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "raw"  # JPEGs lose some contrast after it was measured, arrays nothing
    pack_set(tiny_dataset, out, raw_share=1.0, short_side=48)  # so low that every row counts
    with ShardSet(out).split("train") as split:
        moments = np.array(
            [[pixels.mean(axis=0), (pixels**2).mean(axis=0)] for pixels in all_pixels(split)]
        )
        repeats = split.repeats
    for plan, weights in (("natural", None), ("csv", repeats)):
        mean, mean_square = np.average(moments, axis=0, weights=weights)
        stats = ShardSet(out).manifest.pixels[plan]
        np.testing.assert_allclose(stats.mean, mean, atol=1e-6)
        np.testing.assert_allclose(stats.std, np.sqrt(mean_square - mean**2), atol=1e-6)


def all_pixels(split: Any) -> Iterator[npt.NDArray[np.float64]]:
    for sample in range(len(split)):
        yield np.load(io.BytesIO(split.payload(sample))).reshape(-1, 3) / 255


def test_stored_images_are_counted_by_what_was_done(tiny_shards: Path) -> None:
    stored = ShardSet(tiny_shards).manifest.stored
    assert stored == {"passed_through": 1, "resized": 35}


def test_awkward_files_of_the_tiny_set_are_stored_upright_and_in_colour(tiny_shards: Path) -> None:
    with ShardSet(tiny_shards).split("train") as split:
        sizes = {path: Image.open(io.BytesIO(split.payload(at))).size
                 for at, (_, path, _) in enumerate(identities(split))}  # fmt: skip
    assert sizes["Amanita muscaria/train 00.jpg"] == (128, 96)
    assert sizes["Amanita muscaria/train 01.jpg"] == (96, 132)
    assert sizes["Amanita muscaria/train 02.jpg"] == (120, 90)
    assert sizes["Boletus edulis/train 01.jpg"] == (96, 128)  # 160x120 turned by EXIF


@pytest.mark.parametrize(("files", "per_shard"), [(1, 64), (688, 64), (8000, 500), (72_870, 1000)])
def test_a_shards_size_depends_on_the_split_alone(files: int, per_shard: int) -> None:
    assert shard_files(files) == per_shard


def test_tasks_cover_the_catalogue_once_in_order(many_photos: Path) -> None:
    catalog = read_catalog(many_photos)
    tasks = list(shard_tasks(catalog, Path("out"), ImageOptions()))
    for name, split in catalog.splits.items():
        parts = [task for task in tasks if task.split == name]
        assert [path for part in parts for path in part.paths] == split.paths
        assert [part.first_key for part in parts] == [64 * at for at in range(len(parts))]


def test_the_space_estimate_covers_what_is_written(
    many_photos: Path, unbroken: dict[str, bytes]
) -> None:
    needed = expected_bytes(read_catalog(many_photos), ImageOptions(short_side=SHORT_SIDE))
    assert needed >= sum(len(data) for name, data in unbroken.items() if name.endswith(".tar"))
