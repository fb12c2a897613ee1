"""`bench pack`: what it compares, and what it says where something cannot be measured."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import PIL
import pytest
from click.testing import CliRunner

from bench import pack_blocks
from bench.__main__ import cli
from bench.memory import can_measure_memory, tree_pss
from bench.pack_blocks import PackBlocks, PackRequest, sampled_catalog
from bench.result import Report, Result, Section
from bench.stock_pillow import last_line, stock_pillow
from shards.errors import JobError, UserError

LINUX = pytest.mark.skipif(not can_measure_memory(), reason="Linux alone counts shared pages")


@pytest.fixture(scope="module", autouse=True)
def few_photographs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_blocks, "PHOTOS", 60)
        patch.setattr(pack_blocks, "LOOP_PHOTOS", 10)
        patch.setattr(pack_blocks, "WARM_UP_PHOTOS", 2)
        yield


@pytest.fixture(scope="module")
def measured(
    tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory, few_photographs: None
) -> tuple[str, Report]:
    """What the command prints and writes."""
    file = tmp_path_factory.mktemp("bench pack") / "pack.json"
    args = ["pack", str(tiny_dataset), "--short-side", "24", "--workers", "1", "--repeats", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.pack.stock_pillow", lambda: Path(PIL.__file__).parents[1])
        result = CliRunner().invoke(cli, [*args, "--json", str(file)])
    assert result.exit_code == 0, result.output
    return result.output, Report.from_json(file.read_text())


def row(section: Section, name: str) -> Result:
    found = section.find(name)
    assert found is not None, [each.name for each in section.results]
    return found


def test_packing_is_set_beside_the_loops_and_beside_decoding(
    measured: tuple[str, Report],
) -> None:
    resized, passed, memory = measured[1].sections
    for name in (pack_blocks.PACKING, pack_blocks.COMMAND, pack_blocks.STOCK, pack_blocks.OWN):
        assert len(row(resized, name).repeats) == 2
        assert min(row(resized, name).repeats) > 0
    ratio = row(resized, "hyphae / stock loop")
    own, stock = row(resized, pack_blocks.PACKING), row(resized, pack_blocks.STOCK)
    assert ratio.repeats == tuple(
        each / other for each, other in zip(own.repeats, stock.repeats, strict=True)
    )
    assert own.details["stored"].get("resized", 0) > 0
    assert row(passed, pack_blocks.PASSED).details["stored"].get("resized", 0) == 0
    assert row(memory, pack_blocks.MEMORY).unit == "MiB"


def test_without_a_package_index_the_stock_loop_is_left_out_with_the_reason(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/none")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(UserError, match="pip cannot install pillow"):
        stock_pillow()
    assert list((tmp_path / "hyphae").iterdir()) == []


def test_the_loop_writes_every_photograph_of_its_share_into_a_tar(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    catalog, data = sampled_catalog(tiny_dataset, tmp_path)
    blocks = PackBlocks(PackRequest(data=tiny_dataset, workers=1), catalog, data, tmp_path)
    kept: list[list[str]] = []
    unlink = Path.unlink

    def keep_names(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                kept.append(tar.getnames())
        unlink(path, missing_ok=missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", keep_names)
        assert blocks.loop("loop", Path(PIL.__file__).parents[1])(0) > 0
    assert len(kept[0]) == 3 * len(blocks.files[:: -(-len(blocks.files) // 10)])
    assert {name.split(".")[1] for name in kept[0]} == {"jpg", "cls", "json"}


def test_a_loop_that_imports_another_pillow_than_it_was_told_is_an_error(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    catalog, data = sampled_catalog(tiny_dataset, tmp_path)
    blocks = PackBlocks(PackRequest(data=tiny_dataset, workers=1), catalog, data, tmp_path)
    with pytest.raises(JobError, match="No module named 'PIL'"):
        blocks.loop("loop", tmp_path / "empty")(0)


@pytest.mark.parametrize("wanted", [7, 200])
def test_large_sets_are_sampled_evenly_and_small_ones_repeated(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int
) -> None:
    monkeypatch.setattr(pack_blocks, "PHOTOS", wanted)
    sampled_catalog(tiny_dataset, tmp_path)
    links = [path for path in (tmp_path / "sample").rglob("*") if path.is_symlink()]
    assert len(links) == wanted
    times = Counter(link.resolve() for link in links)
    assert max(times.values()) - min(times.values()) <= 1


def test_a_folder_without_photographs_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["pack", str(tmp_path), "--repeats", "2"])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].startswith("error: ")


def test_the_command_prints_and_writes_json(measured: tuple[str, Report]) -> None:
    output, report = measured
    assert "bare decode" in output
    assert [each.name for each in report.sections] == ["pack_resize", "pack_through", "pack_memory"]


@LINUX
def test_memory_counts_all_processes_below_and_shared_pages_once() -> None:
    size = 64 << 20
    shared = mmap.mmap(-1, size)
    shared.write(b"x" * size)
    before = tree_pss(os.getpid())
    code = "import sys; x = b'x' * (64 << 20); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.05)
        grown = tree_pss(os.getpid()) - before
        child.communicate()
    assert size * 0.9 < grown < size * 1.6


def test_the_last_line_that_says_anything_is_the_message() -> None:
    assert last_line("Traceback\n  x\nValueError: no\n\n") == "ValueError: no"
    assert last_line("") == "no message"
