"""Per-machine defaults: environment variables and ``local.toml``.

Precedence: command line, then ``HYPHAE_DATA_DIR``, ``HYPHAE_SHARDS_DIR`` and ``HYPHAE_LOG_DIR``,
then ``local.toml`` (the current folder's, else the one beside the packages). Relative paths in
``local.toml`` are relative to that file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from shards.errors import UserError, unknown_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = {
    "data_dir": "folder of photographs",
    "shards_dir": "shard folder",
    "log_dir": "folder for runs",
}
TABLES = ("train",)
"""Tables of ``local.toml`` that a command reads by itself."""
CODE_ROOT = Path(__file__).resolve().parents[1]
CODE_PACKAGES = ("shards", "preprocess", "loaders", "train", "bench", "tests")


def path_setting(key: str) -> Path | None:
    """The per-machine default of ``key`` (one of :data:`KEYS`), or None where none is set."""
    from_environment = os.environ.get(f"HYPHAE_{key.upper()}")
    if from_environment:
        return Path(from_environment).expanduser()
    file = _local_toml()
    if file is None:
        return None
    value = _read_local_toml(file).get(key)
    return None if value is None else file.parent / Path(value).expanduser()


def local_table(name: str) -> tuple[dict[str, Any], Path | None]:
    """A table of ``local.toml`` (one of :data:`TABLES`), empty where there is none, and the file."""
    file = _local_toml()
    return ({} if file is None else _read_local_toml(file).get(name, {})), file


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        UserError: It cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid TOML: {error}") from None


def require_path(key: str, given: Path | None, on_command_line: str) -> Path:
    """``given``, else the per-machine default.

    Raises:
        UserError: Neither is there; the one line names the three ways to give the path.
    """
    path = given or path_setting(key)
    if path is None:
        raise UserError(
            f"no {KEYS[key]} given: pass {on_command_line}, or set HYPHAE_{key.upper()}, "
            f'or write {key} = "..." in local.toml'
        )
    return path


def refuse_code_folder(path: Path, what: str) -> None:
    """Raise :class:`UserError` where output would land among the project's own code."""
    resolved = Path(os.path.realpath(path))  # which, unlike Path.resolve, bears links in a circle
    for package in CODE_PACKAGES:
        code = CODE_ROOT / package
        if code.is_dir() and (resolved == code or code in resolved.parents):
            raise UserError(
                f"{what} {path} lies inside the code folder {code}; choose a folder outside it, "
                f"such as data/{resolved.name}"
            )


def _local_toml() -> Path | None:
    for folder in (Path.cwd(), CODE_ROOT):
        file = folder / "local.toml"
        if file.is_file():
            return file
    return None


def _read_local_toml(file: Path) -> dict[str, Any]:
    content = read_toml(file)
    for key, value in content.items():
        if key in TABLES:
            if not isinstance(value, dict):
                raise UserError(f"{file}: {key} must be a table, [{key}]; got {value!r}")
        elif key not in KEYS:
            raise UserError(f"{file}: {unknown_name('setting', key, [*KEYS, *TABLES])}")
        elif not isinstance(value, str):
            raise UserError(f"{file}: {key} must be a path in quotes, got {value!r}")
    return content
