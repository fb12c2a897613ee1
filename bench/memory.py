"""Memory of a process and of all that it started, from Linux's own accounts."""

from __future__ import annotations

import re
from pathlib import Path

PROC = Path("/proc")


def can_measure_memory() -> bool:
    """Whether this system tells the proportional share (PSS) of shared pages: Linux does."""
    return (PROC / "self" / "smaps_rollup").exists()


def tree_pss(pid: int) -> int:
    """Memory of a process and all below it [bytes]; what they share counts once."""
    children: dict[int, list[int]] = {}
    for stat in PROC.glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold anything.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # it has ended
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    total, todo = 0, [pid]
    while todo:
        each = todo.pop()
        todo += children.get(each, [])
        total += _pss(each)
    return total


def _pss(pid: int) -> int:
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:  # it has ended
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0
