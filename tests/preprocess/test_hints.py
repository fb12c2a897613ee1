"""What the commands say where a user could take a wrong turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shards.format import shard_name


def test_an_audit_is_not_written_among_the_photographs(
    dataset_copy: Path, run_command: Any
) -> None:
    done = run_command("preprocess", "audit", dataset_copy, "--out", dataset_copy / "audit")
    assert done.returncode == 2
    assert "lies inside" in done.stderr
    assert "choose a folder outside" in done.stderr
    assert not (dataset_copy / "audit").exists()


def test_a_shard_that_was_made_again_is_told(
    dataset_copy: Path, tmp_path: Path, run_command: Any
) -> None:
    out = tmp_path / "set"
    args = ("preprocess", dataset_copy, "--out", out, "--max-rejected", "100", "--workers", "1")
    first = run_command(*args)
    assert first.returncode == 0, first.stderr
    (out / shard_name("train", 0)).unlink()
    again = run_command(*args)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"{out} lacked 1 of its shards; made again\n")
    assert "complete already" in run_command(*args).stdout


def test_a_misspelt_option_points_to_the_help_that_has_it(run_command: Any) -> None:
    done = run_command("preprocess", "data", "--qualty", "90")
    assert done.returncode == 2
    assert "(see python -m preprocess pack --help)" in done.stderr
