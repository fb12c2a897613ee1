"""What kills, full disks and flipped bytes do to a set: nothing that goes unseen."""

from __future__ import annotations

import contextlib
import filecmp
import io
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.memory import can_measure_memory, tree_pss
from loaders.augment import AugmentConfig
from loaders.config import LoaderConfig
from loaders.factory import create_loader
from preprocess.demo_data import draw_demo_data
from preprocess.discover import read_catalog
from shards.errors import ShardError
from shards.reader import ShardSet
from shards.verify import verify

KILLS = 20
BESIDE_THE_SET = {"pack.log", "pack.times"}
FLIPS = 200


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    draw_demo_data(folder, train_files=24, eval_files=6, size=128)
    return folder


def command(photos: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "preprocess", str(photos), "--out", str(out)]


def pack_unbroken(photos: Path, out: Path, environment: dict[str, str]) -> None:
    subprocess.run(command(photos, out), env=environment, check=True, capture_output=True)


def differences(one: Path, other: Path) -> list[str]:
    """Names of files of the set that differ or are in one folder only."""
    names = {each.name for folder in (one, other) for each in folder.iterdir()} - BESIDE_THE_SET
    same, _, _ = filecmp.cmpfiles(one, other, sorted(names), shallow=False)
    return sorted(names - set(same))


@pytest.mark.slow
def test_a_pack_killed_at_any_moment_ends_as_if_never_killed(
    photos: Path, tmp_path: Path, command_environment: dict[str, str]
) -> None:
    start = time.perf_counter()
    pack_unbroken(photos, tmp_path / "unbroken", command_environment)
    duration = time.perf_counter() - start
    moments = random.Random(0)
    unfinished = 0
    for kill in range(KILLS):
        out = tmp_path / f"killed-{kill}"
        with subprocess.Popen(
            command(photos, out), env=command_environment, stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            time.sleep(moments.uniform(0.2, 1.0) * duration)
            process.kill()
        unfinished += not (out / "manifest.json").exists()
        pack_unbroken(photos, out, command_environment)
        assert differences(tmp_path / "unbroken", out) == [], f"kill {kill}"
        shutil.rmtree(out)
    assert unfinished > KILLS / 2, "most kills came too late to show anything"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_pack_and_the_next_run_completes_it(
    photos: Path, tmp_path: Path, small_disk: Path, command_environment: dict[str, str]
) -> None:
    pack_unbroken(photos, tmp_path / "unbroken", command_environment)
    out, filler = small_disk / "set", small_disk / "filler"
    with subprocess.Popen(
        command(photos, out), env=command_environment, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        while not out.exists():  # it has found room enough, and begins
            time.sleep(0.01)
        fill_up(filler)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "No space left on device" in errors
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    filler.unlink()
    pack_unbroken(photos, out, command_environment)
    assert differences(tmp_path / "unbroken", out) == []


def fill_up(file: Path) -> None:
    """Write to a file until its disk is full."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(1 << 16))


def test_every_flipped_byte_is_found_and_none_reaches_a_batch(shards_copy: Path) -> None:
    expected = batches(shards_copy)
    generator = random.Random(1)
    files = sorted(
        each for each in shards_copy.iterdir() if each.suffix in (".tar", ".idx", ".npy")
    )
    files.append(shards_copy / "manifest.json")
    raised = 0
    for flip in range(FLIPS):
        file = files[flip % len(files)]
        whole = file.read_bytes()
        at = generator.randrange(len(whole))
        damaged = whole[:at] + bytes([whole[at] ^ 1 << generator.randrange(8)]) + whole[at + 1 :]
        file.write_bytes(damaged)
        try:
            assert is_found(shards_copy), f"byte {at} of {file.name}"
            seen, complaint = try_batches(shards_copy)
            raised += bool(complaint)
            if complaint and file.suffix == ".tar":
                assert file.name in complaint
            for images, others in zip(expected, seen, strict=not complaint):
                np.testing.assert_array_equal(images, others)
        finally:
            file.write_bytes(whole)
    assert raised > FLIPS / 10


def is_found(directory: Path) -> bool:
    try:
        return bool(verify(ShardSet(directory)))
    except ShardError:
        return True


def try_batches(directory: Path) -> tuple[list[np.ndarray], str]:
    """The batches, or none and the complaint."""
    try:
        return batches(directory), ""
    except ShardError as error:
        return [], error.message


def batches(directory: Path) -> list[np.ndarray]:
    config = LoaderConfig(
        shards=directory, backend="opencv", batch_size=8, image_size=32, augment=AugmentConfig()
    )
    loader = create_loader(config)
    try:
        return [batch.images.numpy() for batch in loader.epoch(0)]
    finally:
        loader.close()


OFFICIAL_FILES, OFFICIAL_ROWS = 72_870, 689_520


def write_official_layout(folder: Path, *, contents: Callable[[int], bytes]) -> None:
    """Files, rows and classes as many as the published train.csv has; file N holds contents(N)."""
    classes, rows_per_class = 169, 4080
    names = [f"Genus species{label:03d}" for label in range(classes)]
    paths: list[list[str]] = [[] for _ in names]
    for number in range(OFFICIAL_FILES):
        label = number % classes
        paths[label].append(f"{names[label]}/photo {number}.jpg")
    for label, name in enumerate(names):
        (folder / "merged_dataset" / name).mkdir(parents=True)
        for within, path in enumerate(paths[label]):
            number = within * classes + label
            (folder / "merged_dataset" / path).write_bytes(contents(number))
    rows = [
        f"/kaggle/working/merged_dataset/{paths[label][row % len(paths[label])]},{name}\n"
        for label, name in enumerate(names)
        for row in range(rows_per_class)
    ]
    (folder / "train.csv").write_text("image_path,label\n" + "".join(rows))
    (folder / "val.csv").write_text("image_path,label\n" + "".join(rows[::rows_per_class]))


@pytest.mark.slow
@pytest.mark.speed
def test_the_official_csv_of_689520_rows_is_catalogued_in_8_seconds(tmp_path: Path) -> None:
    write_official_layout(tmp_path, contents=lambda number: b"x")
    start = time.perf_counter()
    catalog = read_catalog(tmp_path)
    assert time.perf_counter() - start < 8
    assert len(catalog.splits["train"].rows) == OFFICIAL_ROWS
    assert len(catalog.splits["train"]) == OFFICIAL_FILES


@pytest.mark.slow
@pytest.mark.skipif(not can_measure_memory(), reason="needs /proc/PID/smaps_rollup")
def test_packing_the_official_csv_needs_less_than_1_5_gib_of_memory_in_all(
    tmp_path: Path,
    command_environment: dict[str, str],
    record_property: Callable[[str, object], None],
) -> None:
    """Memory is that of every process of the command together (PSS), sampled ten times a second.

    One file of 200 holds a photograph of 1600 x 1200, for the workers' sake; the others hold
    16 x 12 pixels, because they count only as entries.
    """
    large, small = (plain_jpeg(width=100 * scale) for scale in (16, 0.16))

    def contents(number: int) -> bytes:
        comment = b"%d" % number  # so that no two files are alike
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        jpeg = small if number % 200 else large
        return jpeg[:2] + segment + jpeg[2:]

    write_official_layout(tmp_path / "photos", contents=contents)
    peak, samples = 0, 0
    with subprocess.Popen(
        command(tmp_path / "photos", tmp_path / "set"),
        env=command_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None:
            peak, samples = max(peak, tree_pss(process.pid)), samples + 1
            time.sleep(0.1)
    assert process.returncode == 0
    assert samples > 100
    record_property("peak_mib", round(peak / 2**20))
    assert peak < 1.5 * 2**30
    assert len(ShardSet(tmp_path / "set").split("train")) == OFFICIAL_FILES


def plain_jpeg(*, width: float) -> bytes:
    """A gradient with some noise, three wide to four; from 1600 px about as large as a photograph."""
    columns, rows = round(width), round(width * 3 / 4)
    noise = np.random.default_rng(0).integers(0, 24, size=(rows, columns, 3))
    ramp = np.linspace(0, 200, columns)[None, :, None]
    encoded = io.BytesIO()
    Image.fromarray((noise + ramp).astype(np.uint8)).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()
