"""The packing command: bad input gets one clear line, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from preprocess.__main__ import audit_command, main
from preprocess.copies import DEFAULT_THRESHOLD
from shards import settings
from shards.reader import ShardSet

REPO = settings.CODE_ROOT


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def set_csv(data: Path, text: str) -> None:
    (data / "train.csv").write_text(text)


BAD_DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "no such folder": (shutil.rmtree, r"error: no such folder: .*photographs"),
    "an empty folder": (
        lambda data: (shutil.rmtree(data), data.mkdir()),
        r"error: .*photographs holds neither train\.csv, val\.csv, test\.csv nor class folders .*",
    ),
    "no label column": (
        lambda data: set_csv(data, "image_path,kind\na/1.jpg,a\n"),
        r"error: cannot pack .*\n  - train\.csv has no label column: its header is "
        r"'image_path,kind', expected .*",
    ),
    "a path that leaves the folder": (
        lambda data: set_csv(data, (data / "train.csv").read_text() + "../../x,Boletus edulis\n"),
        r"error: cannot pack .*\n  - 1 train\.csv: paths that leave the data folder: '\.\./\.\./x'",
    ),
    "a file with two labels": (
        lambda data: set_csv(
            data,
            (data / "train.csv").read_text() + "Boletus edulis/train 02.jpg,Amanita muscaria\n",
        ),
        r"error: cannot pack .*\n  - 1 train\.csv: files with two labels: 'Boletus edulis/train "
        r"02\.jpg' \('Boletus edulis' and 'Amanita muscaria'\)",
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_in_clear_words_and_leaves_nothing(
    case: str, dataset_copy: Path, tmp_path: Path, run_command: Any
) -> None:
    spoil, message = BAD_DATA[case]
    spoil(dataset_copy)
    before = tree(tmp_path)
    done = run_command("preprocess", dataset_copy, "--out", tmp_path / "set")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(message + r"\n", done.stderr), done.stderr
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--short-side", "0"], r"error: short side must be at least 16 px, got 0"),
        (["--quality", "101"], r"error: JPEG quality must be 1 to 100, got 101"),
        (["--workers", "0"], r"error: Invalid value for '--workers': 0 is not in the range x>=1.*"),
        (["--max-rejected", "101"], r"error: Invalid value for '--max-rejected': 101.*"),
        (["--max-rejected", "nan"], r"error: Invalid value for '--max-rejected': nan .*"),
        (["--dask", ""], r"error: Invalid value for '--dask': the address is empty .*"),
        (["--exclude", ""], r"error: Invalid value for '--exclude': the path is empty .*"),
        (["--add", "/dev/null"], r"error: /dev/null is a pipe or a device, expected a file"),
        (["--exclude", "/dev/null"], r"error: /dev/null is a pipe or a device, expected a file"),
        (["--shortside", "96"], r"error: No such option.*--short-side.*"),
    ],
)
def test_a_bad_option_is_one_line_and_leaves_nothing(
    options: list[str], message: str, tiny_dataset: Path, tmp_path: Path, run_command: Any
) -> None:
    done = run_command("preprocess", tiny_dataset, "--out", tmp_path / "set", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(message + r"\n", done.stderr), done.stderr
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_file_is_refused_and_kept(
    tiny_dataset: Path, tmp_path: Path, run_command: Any
) -> None:
    (tmp_path / "set").write_text("precious")
    done = run_command("preprocess", tiny_dataset, "--out", tmp_path / "set")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {tmp_path}/set is a file, expected a folder for the shard set\n"
    )
    assert (tmp_path / "set").read_text() == "precious"


def test_a_detour_by_a_folder_to_be_made_does_not_lead_into_the_photographs(
    dataset_copy: Path, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    detour = tmp_path / "new" / ".." / dataset_copy.name
    result = CliRunner().invoke(main, [str(dataset_copy), "--out", str(detour)])
    assert result.exit_code == 2
    refused = f"{dataset_copy} is not empty and holds no shard set; choose another folder"
    assert refused in result.output
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["manifest.json", ".pack"])
def test_an_audit_is_not_written_into_a_shard_set(
    name: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "set"
    (shards / name).mkdir(parents=True)
    for out in (shards, tmp_path / "new" / ".." / "set"):
        result = CliRunner().invoke(main, ["audit", str(tiny_dataset), "--out", str(out)])
        assert result.exit_code == 2
        assert f"--out {out} is a shard set, which takes no other files" in result.output
    assert tree(shards) == {name}


def test_an_output_below_a_file_is_refused(
    tiny_dataset: Path, tmp_path: Path, run_command: Any
) -> None:
    (tmp_path / "file").write_text("precious")
    done = run_command("preprocess", tiny_dataset, "--out", tmp_path / "file" / "set")
    assert done.returncode == 2
    assert re.fullmatch(r"error: [^\n]*file[^\n]*\n", done.stderr), done.stderr


@pytest.mark.parametrize("data", ["", "photographs"])
def test_an_empty_path_is_not_the_current_folder(
    data: str, dataset_copy: Path, tmp_path: Path, run_command: Any
) -> None:
    done = run_command("preprocess", data, "--out", "set" if not data else "")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: [^\n]*: the path is empty [^\n]*\n", done.stderr), done.stderr
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("option", ["--add", "--exclude"])
def test_a_pipe_given_for_a_file_is_refused_and_not_waited_for(
    option: str, tiny_dataset: Path, tmp_path: Path, run_command: Any
) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    arguments = ["--out", "set", option, "pipe.csv"]
    done = run_command("preprocess", tiny_dataset, *arguments, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: pipe.csv is a pipe or a device, expected a file\n"


@pytest.mark.parametrize("command", ["pack", "adopt", "audit", "demo-data"])
def test_an_output_that_cannot_be_is_refused_before_the_work(
    command: str, tiny_dataset: Path, tmp_path: Path, run_command: Any
) -> None:
    (tmp_path / "precious").write_text("x")
    for out, what in (
        ("precious", "error: precious is a file, expected a folder for "),
        ("precious/below", f"error: {tmp_path}/precious is a file, expected a folder for "),
        ("/proc/set", "error: cannot write to /proc/set: /proc takes no files ("),
    ):
        arguments = [out] if command == "demo-data" else [tiny_dataset, "--out", out]
        done = run_command("preprocess", command, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(what), done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "precious").read_text() == "x"


def test_output_inside_a_code_folder_is_refused(tiny_dataset: Path, run_command: Any) -> None:
    target = REPO / "shards" / "packed"
    done = run_command("preprocess", tiny_dataset, "--out", target)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"error: output folder {target} lies inside the code folder .*; choose a folder outside "
        r"it, such as data/packed\n",
        done.stderr,
    )
    assert not target.exists()


def test_a_disk_too_full_is_refused_before_anything_is_written(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocess.pack_job.free_disk", lambda path: 1000)
    arguments = [str(tiny_dataset), "--out", str(tmp_path / "set"), "--short-side", "96"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert re.fullmatch(
        r"error: the disk of .*set is too full: up to [\d.]+ kB needed, 1\.0 kB free; free some "
        r"room, or choose a smaller --short-side\n",
        done.output,
    ), done.output
    assert not list(tmp_path.iterdir())


def test_without_paths_one_line_names_the_three_ways(run_command: Any, tmp_path: Path) -> None:
    (tmp_path / "local.toml").touch()  # an empty one here hides one beside the packages
    done = run_command("preprocess")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: no folder of photographs given: pass DATA, or set HYPHAE_DATA_DIR, "
        'or write data_dir = "..." in local.toml\n'
    )


def test_too_many_rejected_is_a_failed_job_that_publishes_nothing(
    gappy_dataset: Path, tmp_path: Path, run_command: Any
) -> None:
    arguments = ["--out", tmp_path / "set", "--workers", "1", "--max-rejected", "5"]
    done = run_command("preprocess", gappy_dataset, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 2 of 36 photographs were rejected (1 ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_one_bad_file_does_not_stop_a_small_set(
    gappy_dataset: Path, tmp_path: Path, run_command: Any
) -> None:
    done = run_command("preprocess", gappy_dataset, "--out", tmp_path / "set", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "  rejected 1: not an image\n" in done.stdout


def test_copies_of_test_photographs_in_train_are_counted_in_the_summary(
    dataset_copy: Path, tmp_path: Path, run_command: Any
) -> None:
    photos = dataset_copy / "merged_dataset" / "Boletus edulis"
    for name in ("test 00.jpg", "val 01.jpg"):
        shutil.copy(photos / "train 03.jpg", photos / name)
    done = run_command("preprocess", dataset_copy, "--out", "set", "--workers", "1")
    assert (
        "leakage: 2 val and test photographs are in train, too, byte for byte; see "
        '`python -m preprocess audit "set"`\n'
    ) in done.stdout


def test_packing_prints_what_repetition_and_resizing_did(
    tiny_dataset: Path, tmp_path: Path, run_command: Any
) -> None:
    out = tmp_path / "shard set"
    arguments = ["--out", out, "--short-side", "96", "--workers", "1"]
    done = run_command("preprocess", tiny_dataset, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    text = re.sub(r" +", " ", done.stdout)
    assert f"packing {tiny_dataset}: 36 photographs of 3 classes (csv)" in text
    assert "train 36 rows from 24 files (x1.50), 0 rejected" in text
    assert re.search(r"val 6 rows from 6 files, 0 rejected, \S+ kB in 1 shard\n", text)
    assert "(1.50x less than packing every training row)" in text
    assert "photographs: 2.8% passed through, 97.2% resized, 0.0% rejected" in text
    assert "leakage" not in text
    assert len((out / "pack.log").read_text().splitlines()) == 1

    again = run_command("preprocess", tiny_dataset, *arguments)
    assert again.returncode == 0
    assert again.stdout.startswith(f"{out} is complete already, made of the same; nothing to do\n")
    assert len((out / "pack.log").read_text().splitlines()) == 1


def test_paths_from_the_environment_make_the_bare_command_work(
    tiny_dataset: Path, tmp_path: Path, run_command: Any
) -> None:
    out = tmp_path / "set"
    environment = {"HYPHAE_DATA_DIR": str(tiny_dataset), "HYPHAE_SHARDS_DIR": str(out)}
    done = run_command("preprocess", "--workers", "1", env=environment)
    assert done.returncode == 0, done.stderr
    assert ShardSet(out).manifest.splits["train"].samples == 24


def test_class_names_that_are_not_utf8_are_packed_and_noted(
    dataset_copy: Path, tmp_path: Path, run_command: Any
) -> None:
    val = dataset_copy / "val.csv"
    val.write_bytes(val.read_bytes() + b"Boletus edulis/train 07.jpg,C\xe8pe\n")
    train = dataset_copy / "train.csv"
    lines = [line for line in train.read_text().splitlines() if "edulis/train 07" not in line]
    train.write_text("\n".join(lines))
    arguments = ["--out", tmp_path / "set", "--short-side", "96", "--workers", "1"]
    # As in a UTF-8 locale; the C locale would print such bytes as they are.
    done = run_command(
        "preprocess", dataset_copy, *arguments, env={"PYTHONIOENCODING": "utf-8:strict"}
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_help_shows_every_option_with_its_default(run_command: Any) -> None:
    done = run_command("preprocess", "pack", "--help")
    assert done.returncode == 0
    for expected in ("--short-side", "440", "--quality", "90", "--max-rejected", "allowed cores"):
        assert expected in done.stdout


@pytest.mark.parametrize("package", ["preprocess", "shards"])
def test_the_list_of_commands_cuts_no_sentence(package: str, run_command: Any) -> None:
    done = run_command(package, "--help", env={"COLUMNS": "80"})
    commands = done.stdout.partition("Commands:\n")[2].splitlines()
    assert len(commands) >= 4
    assert all(line.endswith(".") and not line.endswith("...") for line in commands), done.stdout


@pytest.mark.parametrize("package", ["preprocess", "shards"])
def test_help_loads_nothing_heavy(package: str, command_environment: dict[str, str]) -> None:
    # A worker process begins by importing the same module.
    code = f"import sys, {package}.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=command_environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    heavy = {"numpy", "cv2", "PIL", "tqdm", "imagesize", "simplejpeg", "tarfile", "multiprocessing"}
    assert not heavy & set(done.stdout.split())


def test_the_threshold_shown_is_the_one_that_was_measured() -> None:
    (threshold,) = (each for each in audit_command.params if each.name == "threshold")
    assert threshold.default == DEFAULT_THRESHOLD
