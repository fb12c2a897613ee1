"""Stock Pillow in a folder of its own, for yardsticks: here Pillow-SIMD fills its place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from shards.errors import UserError
from shards.settings import CODE_ROOT

INSTALL_TIMEOUT_S = 300


def stock_pillow() -> Path:
    """A folder that holds stock Pillow alone, at the pinned version; the first call installs it.

    Raises:
        UserError: It cannot be had, for want of the package index say.
    """
    constraints = CODE_ROOT / "constraints.txt"
    pins = constraints.read_text(encoding="utf-8") if constraints.is_file() else ""
    pin = re.search(r"^pillow==([\w.]+)", pins, re.MULTILINE)
    version = pin.group(1) if pin else "newest"
    folder = cache_folder() / f"pillow-{version}-{sys.implementation.cache_tag}"
    if (folder / "PIL").is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        target = Path(unfinished) / "pillow"
        command = [sys.executable, "-m", "pip", "--no-input", "install", "--no-deps", "--quiet"]
        # Wheels alone: what users get, and no compiler's options of this machine in it. The pin may
        # carry a marker of the Python version, so that pip is to read it.
        command += ["--only-binary", ":all:", "--target", str(target)]
        command += ["--constraint", str(constraints), "pillow"] if pin else ["pillow"]
        try:
            subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=True
            )
            target.replace(folder)
        except subprocess.CalledProcessError as error:
            raise UserError(f"pip cannot install pillow ({last_line(error.stderr)})") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"pip cannot install pillow ({error})") from None
    return folder


def cache_folder() -> Path:
    """Where what is installed beside this environment lies."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).expanduser() / "hyphae"


def last_line(text: str) -> str:
    """The last line of a text that says anything: the message of an error."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"
