"""Where paths come from: command line, then environment, then local.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards import settings
from shards.errors import UserError
from shards.settings import CODE_ROOT, path_setting, refuse_code_folder, require_path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a test, with neither variables nor this machine's own local.toml."""
    for key in settings.KEYS:
        monkeypatch.delenv(f"HYPHAE_{key.upper()}", raising=False)
    monkeypatch.setattr(settings, "CODE_ROOT", tmp_path / "code")
    (tmp_path / "code").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_the_environment_wins_over_local_toml(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "local.toml").write_text('data_dir = "/from/toml"\nshards_dir = "/other"\n')
    monkeypatch.setenv("HYPHAE_DATA_DIR", "/from/env")
    assert path_setting("data_dir") == Path("/from/env")
    assert path_setting("shards_dir") == Path("/other")


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPHAE_DATA_DIR", "/from/env")
    assert require_path("data_dir", Path("given"), "DATA") == Path("given")
    assert require_path("data_dir", None, "DATA") == Path("/from/env")


def test_an_empty_variable_counts_as_unset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "local.toml").write_text('data_dir = "/from/toml"\n')
    monkeypatch.setenv("HYPHAE_DATA_DIR", "")
    assert path_setting("data_dir") == Path("/from/toml")


def test_the_current_folders_local_toml_wins_over_that_beside_the_packages(folder: Path) -> None:
    (folder.parent / "code" / "local.toml").write_text('data_dir = "/beside/packages"\n')
    assert path_setting("data_dir") == Path("/beside/packages")
    (folder / "local.toml").write_text('data_dir = "/here"\n')
    assert path_setting("data_dir") == Path("/here")


def test_a_relative_path_in_local_toml_is_relative_to_that_file(folder: Path) -> None:
    (folder.parent / "code" / "local.toml").write_text('shards_dir = "data/my shards"\n')
    assert path_setting("shards_dir") == folder.parent / "code" / "data/my shards"


def test_a_tilde_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("HYPHAE_LOG_DIR", "~/runs")
    (folder / "local.toml").write_text('data_dir = "~/photos"\n')
    assert path_setting("log_dir") == Path("/home/someone/runs")
    assert path_setting("data_dir") == Path("/home/someone/photos")


def test_an_unknown_key_gets_the_nearest_name(folder: Path) -> None:
    (folder / "local.toml").write_text('shard_dir = "/x"\n')
    message = r"local\.toml: unknown setting 'shard_dir'; did you mean 'shards_dir'\?"
    with pytest.raises(UserError, match=message):
        path_setting("data_dir")


def test_a_value_that_is_no_path_is_refused(folder: Path) -> None:
    (folder / "local.toml").write_text("data_dir = 3\n")
    with pytest.raises(UserError, match="data_dir must be a path in quotes, got 3"):
        path_setting("data_dir")


@pytest.mark.parametrize("content", [b"data_dir = /unquoted", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_refused(folder: Path, content: bytes) -> None:
    (folder / "local.toml").write_bytes(content)
    with pytest.raises(UserError, match=r"local\.toml is not valid TOML"):
        path_setting("data_dir")


def test_without_any_the_one_line_names_the_three_ways() -> None:
    with pytest.raises(UserError) as caught:
        require_path("shards_dir", None, "--out SHARDS")
    assert caught.value.message == (
        "no shard folder given: pass --out SHARDS, or set HYPHAE_SHARDS_DIR, "
        'or write shards_dir = "..." in local.toml'
    )


class TestRefuseCodeFolder:
    @pytest.fixture(autouse=True)
    def real_code_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(settings, "CODE_ROOT", CODE_ROOT)

    @pytest.mark.parametrize("inside", ["shards", "loaders/a/b", "x/../train/y", "tests/out"])
    def test_output_among_the_code_is_refused_with_a_better_place(self, inside: str) -> None:
        name = Path(inside).name
        with pytest.raises(UserError, match=rf"lies inside the code folder .*data/{name}$"):
            refuse_code_folder(CODE_ROOT / inside, "output folder")

    def test_a_link_into_the_code_is_refused(self, folder: Path) -> None:
        (folder / "link").symlink_to(CODE_ROOT / "preprocess")
        with pytest.raises(UserError, match="inside the code folder"):
            refuse_code_folder(folder / "link" / "out", "output folder")

    @pytest.mark.parametrize("outside", ["data/shards", "runs", "shards-2", "."])
    def test_output_beside_the_code_is_allowed(self, outside: str) -> None:
        refuse_code_folder(CODE_ROOT / outside, "output folder")

    def test_a_folder_of_the_same_name_elsewhere_is_allowed(self, folder: Path) -> None:
        refuse_code_folder(folder / "shards", "output folder")

    def test_links_in_a_circle_are_not_the_code(self, folder: Path) -> None:
        (folder / "circle").symlink_to(folder / "circle")
        refuse_code_folder(folder / "circle" / "out", "output folder")
