"""The one dependency rule: shards < preprocess < loaders < train < bench, and the same among the parts of train."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
ORDER = ("shards", "preprocess", "loaders", "train", "bench")
OURS = {*ORDER, "tests"}
PARTS = (
    "config",
    "method",
    "scores",
    "checkpoints",
    "runs",
    "engine",
    "sweeps",
    "inference",
    "report",
    "novelty",
    "studies",
)  # of train; its commands, `train/*.py`, come last
FOREIGN_TO_TORCH = ("shards", "preprocess")


def python_files(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def imported(tree: ast.AST, package: str = "") -> Iterator[str]:
    """Dotted names that a piece of code imports, those inside functions included.

    A relative import counts from ``package``, the dotted name of the file's own package.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(parts if node.level else []), *([node.module] * bool(node.module))])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            name = function.id if isinstance(function, ast.Name) else function
            if name in ("import_module", "__import__"):
                yield str(node.args[0].value)


def dotted(path: Path, root: Path) -> str:
    """``loaders/dali.py -> loaders.dali``; a package's own name for its ``__init__.py``."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, root: Path, *, module_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if module_level:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                node.body = [ast.Pass()] if isinstance(node.body, list) else ast.Constant(0)
    package = ".".join(path.relative_to(root).parent.parts)
    return set(imported(tree, package))


def layering_violations(root: Path, package: str) -> list[str]:
    allowed = ORDER[: ORDER.index(package) + 1]
    violations = []
    for path in python_files(root / package):
        tops = {name.partition(".")[0] for name in imports_of(path, root)}
        if bad := sorted(tops & OURS - set(allowed)):
            violations.append(f"{path.relative_to(root)} imports {bad}; allowed: {sorted(allowed)}")
    return violations


def part_violations(root: Path) -> list[str]:
    """Modules in a part of train that import a later part, or a command."""
    violations = []
    for part in PARTS:
        allowed = PARTS[: PARTS.index(part) + 1]
        for path in python_files(root / "train" / part):
            names = [name.split(".") for name in imports_of(path, root)]
            used = {parts[1] for parts in names if parts[0] == "train" and len(parts) > 1}
            if bad := sorted(used - set(allowed)):
                violations.append(f"{path.relative_to(root)} imports train's {bad}")
    return violations


def loaded_by(root: Path, module: str) -> set[str]:
    """Every name that importing ``module`` imports, its own modules' imports followed."""
    files = {dotted(path, root): path for each in ORDER for path in python_files(root / each)}
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in files:
            todo += imports_of(files[name], root, module_level=True)
        if "." in name:
            todo.append(name.rpartition(".")[0])
    return seen


def commands(root: Path) -> set[str]:
    """Modules that ``python -m`` runs."""
    return {
        dotted(path, root)
        for each in ORDER
        for path in python_files(root / each)
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_those_before_it(package: str) -> None:
    assert not layering_violations(REPO, package)


def test_the_parts_of_train_have_an_order_of_their_own() -> None:
    folders = {path.parent.name for path in (REPO / "train").glob("*/__init__.py")}
    assert folders == set(PARTS)
    assert not part_violations(REPO)


def test_a_part_of_train_that_imports_a_later_one_is_found(tmp_path: Path) -> None:
    for name, text in (
        ("config/good.py", "from train.config import device\n"),
        ("scores/bad.py", "from train.engine.loop import fit\n"),
        ("runs/worse.py", "from train import evaluate\n"),
    ):
        (tmp_path / "train" / name).parent.mkdir(parents=True)
        (tmp_path / "train" / name).write_text(text)
    assert part_violations(tmp_path) == [
        "train/scores/bad.py imports train's ['engine']",
        "train/runs/worse.py imports train's ['evaluate']",
    ]


@pytest.mark.parametrize("package", ORDER)
def test_importing_a_package_loads_no_command(package: str) -> None:
    found = commands(REPO)
    assert {"shards.__main__", "preprocess.__main__"} <= found
    assert not loaded_by(REPO, package) & found


@pytest.mark.parametrize("package", ORDER)
def test_importing_a_package_does_not_load_dali(package: str) -> None:
    assert not [name for name in loaded_by(REPO, package) if name.startswith("nvidia")]


@pytest.mark.parametrize("package", FOREIGN_TO_TORCH)
def test_shards_and_preprocess_name_torch_nowhere(package: str) -> None:
    users = [
        str(path)
        for path in python_files(REPO / package)
        if {"torch", "torchvision"} & {name.partition(".")[0] for name in imports_of(path, REPO)}
    ]
    assert not users


@pytest.mark.parametrize("module", ["plan", "augment"])
def test_plan_and_augmentation_are_numpy_alone(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports_of(REPO / f"loaders/{module}.py", REPO)}
    assert not tops & {"torch", "torchvision", "nvidia", "cv2", "PIL"}


def test_shards_and_preprocess_run_without_torch(command_environment: dict[str, str]) -> None:
    modules = [
        dotted(path, REPO) for package in FOREIGN_TO_TORCH for path in python_files(REPO / package)
    ]
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=command_environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "line",
    [
        "import train",
        "from train.models import create_model",
        "def late():\n    from train import models",
        "from ..train import models",
        'importlib.import_module("train.models")',
    ],
)
def test_a_forbidden_import_is_found_and_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "loaders").mkdir()
    (tmp_path / "loaders" / "bad.py").write_text(line)
    assert layering_violations(tmp_path, "loaders") == [
        "loaders/bad.py imports ['train']; allowed: ['loaders', 'preprocess', 'shards']"
    ]


@pytest.mark.parametrize("line", ["import os", "import shards.format", "from . import plan"])
def test_an_allowed_import_is_no_violation(tmp_path: Path, line: str) -> None:
    (tmp_path / "loaders").mkdir()
    (tmp_path / "loaders" / "good.py").write_text(line)
    assert not layering_violations(tmp_path, "loaders")


def test_a_command_loaded_through_another_module_is_found(tmp_path: Path) -> None:
    package = tmp_path / "train"
    package.mkdir()
    (package / "__init__.py").write_text("from train.loop import fit\n")
    (package / "loop.py").write_text("from train import evaluate\n")
    (package / "evaluate.py").write_text('if __name__ == "__main__":\n    pass\n')
    assert loaded_by(tmp_path, "train") & commands(tmp_path) == {"train.evaluate"}
