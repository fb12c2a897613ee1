"""Paths that users give: what cannot be read or written is refused before any work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from shards.errors import UserError
from shards.user_paths import USER_PATH, require_output_folder, require_regular_file


def test_an_empty_path_is_refused_by_the_name_of_its_option() -> None:
    @click.command()
    @click.option("--out", type=USER_PATH)
    def command(out: Path) -> None:
        click.echo(repr(out))

    empty = CliRunner().invoke(command, ["--out", ""])
    assert (empty.exit_code, "'--out': the path is empty" in empty.output) == (2, True)
    assert CliRunner().invoke(command, ["--out", "."]).output == "PosixPath('.')\n"
    assert CliRunner().invoke(command, []).output == "None\n"


def test_a_file_may_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    assert require_regular_file(tmp_path / "link.csv") == tmp_path / "link.csv"


def test_pipes_devices_folders_and_nothing_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, what in (
        (tmp_path / "pipe", "is a pipe or a device, expected a file"),
        (Path("/dev/null"), "is a pipe or a device, expected a file"),
        (tmp_path, "is a folder, expected a file"),
        (tmp_path / "nowhere", "No such file or directory"),
    ):
        with pytest.raises(UserError, match=what) as caught:
            require_regular_file(path)
        assert str(path) in caught.value.message


@pytest.mark.parametrize("name", ["", "new", "new/deep/er"])
def test_a_folder_that_can_be_made_is_accepted_and_not_made(name: str, tmp_path: Path) -> None:
    assert require_output_folder(tmp_path / name, "x") == tmp_path / name
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["file", "file/below", "file/far/below"])
def test_a_file_is_no_output_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file, expected a folder for the set"):
        require_output_folder(tmp_path / name, "the set")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_place_that_takes_no_files_is_called_so_and_not_full(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write to /proc/x/y: /proc takes no files \("):
        require_output_folder(Path("/proc/x/y"), "the set")


def test_a_read_only_disk_is_told(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        with pytest.raises(UserError, match=r"takes no files \(Read-only file system\)"):
            require_output_folder(tmp_path / "set", "the set")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"takes no files \(Permission denied\)"):
        require_output_folder(tmp_path / "locked" / "set", "the set")
