"""An environment for each loader of another project, built from the package index.

Each is a virtual environment that holds what ``pip install <project>`` brings. Behind its own
packages it sees stock Pillow and then those of this environment, so that torch (5 GB) is there once
and the same for all, while what a project wants in another version is its own.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from bench.stock_pillow import cache_folder, last_line, stock_pillow
from shards.errors import UserError, unknown_name

TIMEOUT_S = 1800
"""FFCV is compiled, and torch may be fetched."""
SHOWN = 200
"""Characters of a reason."""
COMPLETE = "hyphae.json"
SHARED = "zz_hyphae_shared.pth"
"""Read last, so that what it names is behind everything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What is installed, and how to see that it works."""

    requirements: tuple[str, ...]
    check: str
    """Python that fails where it does not."""
    needs: str = ""
    """What the package index does not give."""


ENVIRONMENTS = {
    "torchvision": Environment(requirements=("torchvision",), check="import torchvision"),
    "webdataset": Environment(requirements=("webdataset",), check="import webdataset"),
    "ffcv": Environment(
        requirements=("ffcv",),
        check="import ffcv.loader",
        needs="a C++ compiler, pkg-config, and OpenCV and libturbojpeg with their headers "
        "(Debian: g++ pkg-config libopencv-dev libturbojpeg0-dev)",
    ),
    "spdl": Environment(
        requirements=("spdl",),
        check="import spdl.io.utils; spdl.io.utils.get_ffmpeg_versions()",
        needs="the shared libraries of FFmpeg (Debian: ffmpeg)",
    ),
    "litdata": Environment(requirements=("litdata",), check="import litdata"),
    "streaming": Environment(requirements=("mosaicml-streaming",), check="import streaming"),
}


def peers_folder() -> Path:
    """Where the environments lie."""
    return cache_folder() / "peers"


def environment_python(name: str) -> Path:
    """The interpreter of an environment that is complete.

    Raises:
        UserError: There is none; says whether building it failed, and why.
    """
    folder = peers_folder() / name
    if _is_complete(folder, ENVIRONMENTS[name]):
        return _python(folder)
    reason = _reason_file(folder)
    if reason.is_file():
        raise UserError(f"does not install: {reason.read_text(encoding='utf-8')}")
    raise UserError(f"not installed: `bench peers setup {name}`")


def build(name: str) -> bool:
    """Build an environment; False where it is there already.

    Raises:
        UserError: It cannot be built; the message is the reason, which is kept beside it.
    """
    if name not in ENVIRONMENTS:
        raise UserError(unknown_name("peer", name, ENVIRONMENTS))
    environment = ENVIRONMENTS[name]
    folder = peers_folder() / name
    if _is_complete(folder, environment):
        return False
    _reason_file(folder).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        _install(folder, environment)
    except UserError as error:
        shutil.rmtree(folder, ignore_errors=True)
        needs = f"; it needs {environment.needs}" if environment.needs else ""
        message = f"{error.message[:SHOWN]}{needs}"
        _reason_file(folder).write_text(message, encoding="utf-8")
        raise UserError(message) from None
    return True


def _install(folder: Path, environment: Environment) -> None:
    shared = [stock_pillow(), *_own_packages()]
    _run([sys.executable, "-m", "venv", str(folder)])
    python = str(_python(folder))
    # Before pip runs, so that it finds torch and does not fetch it once more.
    _packages_of(folder).joinpath(SHARED).write_text(
        "".join(f"{path}\n" for path in shared), encoding="utf-8"
    )
    _run([python, "-m", "pip", "--no-input", "install", "--quiet", *environment.requirements])
    _run([python, "-I", "-c", environment.check])
    content = json.dumps(_description(environment))
    (folder / COMPLETE).write_text(content, encoding="utf-8")


def _is_complete(folder: Path, environment: Environment) -> bool:
    """Whether it was built to the end, from what is asked for now and beside this environment."""
    try:
        content = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(content == _description(environment))


def _description(environment: Environment) -> dict[str, object]:
    return {
        "python": sys.implementation.cache_tag,
        "beside": [str(path) for path in _own_packages()],
        "requirements": list(environment.requirements),
    }


def _own_packages() -> list[Path]:
    """Where the packages of this environment lie."""
    return sorted({Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")})


def _packages_of(folder: Path) -> Path:
    at = {"base": str(folder), "platbase": str(folder)}
    return Path(sysconfig.get_path("purelib", scheme="venv", vars=at))


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _reason_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.failed")


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    except subprocess.CalledProcessError as error:
        raise UserError(why_it_failed(error.stderr)) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(str(error)) from None


def why_it_failed(errors: str) -> str:
    """The line of what pip or Python printed that names the reason.

    Where a package's own build fails, pip prints that build's output and then advice, so that the
    reason is the last line of the output.
    """
    build, found, _ = errors.partition("[end of output]")
    if found:
        return last_line(build)
    named = re.findall(r"^ERROR: (.*)", errors, re.MULTILINE)
    return named[-1].strip() if named else last_line(errors)
