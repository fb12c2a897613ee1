"""`bench peers`: other projects' loaders beside ours; one that fails is a row and stops nothing."""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.__main__ import cli
from bench.peers import blocks, environments, measure
from bench.peers.data import copy_photographs
from bench.peers.environments import ENVIRONMENTS, build, environment_python, why_it_failed
from bench.peers.measure import measure_peers
from bench.peers.process import PeerProcess
from bench.peers.rows import PEERS, Peer, note_of
from bench.peers.scripts import serve
from bench.peers.scripts.random_crop import random_crop
from bench.request import Request
from bench.result import Section, render
from shards.errors import JobError, UserError
from shards.reader import ShardSet

FAKE = Path(__file__).with_name("fake_peer.py")
SCRIPTS = Path(serve.__file__).parent
REFUSED = "ModuleNotFoundError: No module named 'warp_drive'"


@pytest.fixture
def request_tiny(tiny_shards: Path) -> Request:
    return Request(
        shards=tiny_shards,
        image_size=32,
        batch_size=4,
        threads=1,
        repeats=2,
        block_s=0.01,
        device="cpu",
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hyphae" / "peers"


def fake(behaviour: str, tmp_path: Path) -> PeerProcess:
    return PeerProcess([sys.executable, "-I", str(FAKE), behaviour], tmp_path / "log")


def peer(name: str, environment: str | None = None) -> Peer:
    return Peer(name=name, module=name, environment=environment, differs="all", shows=("fake",))


def notes(section: Section) -> dict[str, str]:
    return {each.name: each.note for each in section.results}


# The rows


def test_a_peer_that_fails_is_a_row_with_its_reason_and_stops_no_other(
    request_tiny: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviours = ("refuses", "leaves", "works", "crashes later", "hangs", "babbles", "counts wrong")
    rows = (*(peer(each) for each in behaviours), peer("absent", "ffcv"))
    monkeypatch.setattr(measure, "PEERS", rows)
    monkeypatch.setattr(measure, "OWN", measure.OWN[:1])
    monkeypatch.setattr(blocks, "SERVE", FAKE)
    monkeypatch.setattr(blocks, "BLOCK_TIMEOUT_S", 1.0)
    section = measure_peers(request_tiny)
    assert [each.name for each in section.results if each.measured] == [
        "bare decode",
        "hyphae, colour",
        "works",
    ]
    works = section.find("works")
    assert works is not None
    assert works.repeats == (200.0, 200.0)
    assert works.note == "all; fake 1.0"
    found = notes(section)
    assert found["refuses"] == f"not measured: {REFUSED}"
    assert found["leaves"] == "not measured: ended with exit code 1: no photographs for me"
    assert found["crashes later"] == (
        "not measured: ended with killed by SIGSEGV: fatal: the decoder fell over"
    )
    assert found["hangs"] == "not measured: no answer within 1 s"
    assert found["babbles"] == ("not measured: answered 'Epoch 1: 100%', expected a JSON object")
    assert "expected images and seconds" in found["counts wrong"]
    assert found["absent"] == "not measured: not installed: `bench peers setup ffcv`"
    assert "200 images/s" in render(section)


def test_loaders_of_files_are_left_out_where_the_originals_are_not_named(
    request_tiny: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "PEERS", PEERS[1:2])
    monkeypatch.setattr(measure, "OWN", ())
    found = notes(measure_peers(request_tiny))
    assert found[PEERS[1].name].endswith("name the folder of the photographs with --originals")


@pytest.mark.slow
def test_what_is_installed_here_is_measured_through_the_real_protocol(
    request_tiny: Request, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (PEERS[1], Peer(name="w", module="with_webdataset", environment=None, differs=""))
    monkeypatch.setattr(measure, "PEERS", rows)
    section = measure_peers(request_tiny, tiny_dataset)
    assert all(each.measured for each in section.results), notes(section)
    assert all(value > 0 for each in section.results for value in each.repeats)
    torchvision = section.find(PEERS[1].name)
    assert torchvision is not None
    assert {"torch", "torchvision", "pillow"} <= set(torchvision.details["versions"])


def test_the_note_names_the_pillow_that_decoded() -> None:
    row = PEERS[0]
    assert note_of(row, {"pillow": "13.0.0"}).endswith("; Pillow 13.0.0")
    assert note_of(row, {"pillow": "12.1.1.post0"}).endswith("; Pillow-SIMD 12.1.1.post0")


# The photographs


def test_every_form_holds_the_same_photographs(
    tiny_shards: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    data = copy_photographs(tiny_shards, tiny_dataset, tmp_path / "work", workers=1)
    with ShardSet(tiny_shards).split("train") as split:
        stored = [bytes(split.payload(sample)) for sample in range(len(split))]
        assert data.labels == split.labels.tolist()
        sources = [str(split.metadata(sample)["path"]) for sample in range(len(split))]
    assert [file.read_bytes() for file in data.files] == stored
    with ShardSet(data.jpeg_shards).split("train") as split:
        assert sorted(bytes(split.payload(sample)) for sample in range(len(split))) == sorted(
            stored
        )
    with ShardSet(data.raw_shards).split("train") as split:
        assert len(split) == len(stored)
        assert set(np.unique(split.labels)) == set(data.labels)
    assert data.tars
    assert data.originals == [tiny_dataset / "merged_dataset" / source for source in sources]


def test_a_set_of_pixels_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    data = copy_photographs(tiny_shards, None, tmp_path / "work", workers=1)
    with pytest.raises(UserError, match=r"stores pixels; name a set packed with --store jpeg"):
        copy_photographs(data.raw_shards, None, tmp_path / "again", workers=1)


# The protocol


def test_a_process_and_its_threads_stand_still_between_requests(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    with fake("runs on", tmp_path) as process:
        process.ask({"do": "open", "settings": {"work": str(counter)}}, 10)
        process.ask({"do": "block"}, 10)
        time.sleep(0.1)  # the signal is sent, and comes when the kernel finds the time
        before = counter.stat().st_size
        time.sleep(0.1)
        assert counter.stat().st_size == before
        process.ask({"do": "block"}, 10)
        assert counter.stat().st_size > before


def test_closing_ends_a_process_that_hangs(tmp_path: Path) -> None:
    process = fake("hangs", tmp_path)
    process.ask({"do": "open", "settings": {}}, 10)
    with pytest.raises(JobError, match="no answer within 0 s"):
        process.ask({"do": "block"}, 0.1)
    start = time.monotonic()
    process.close(patience_s=0)
    assert time.monotonic() - start < 5
    assert process._process.returncode is not None


def test_peers_do_not_outlive_a_bench_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from bench.peers.process import PeerProcess\n"
        f"peer = PeerProcess([sys.executable, '-I', {str(FAKE)!r}, 'works'],"
        f" pathlib.Path({str(tmp_path / 'log')!r}))\n"
        "peer.ask({'do': 'open', 'settings': {}}, 10)\n"
        "print(peer._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    # In a session of its own, as under a terminal.
    bench = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    pid = int(bench.stdout)
    for _ in range(1500):  # half a minute: other tests may keep the cores busy
        if not is_running(pid):
            return
        time.sleep(0.02)
    os.kill(pid, 9)
    pytest.fail("the peer still stands there")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def epochs(batches: int) -> serve.Epochs:
    def epoch(number: int) -> Iterator[int]:
        for _ in range(batches):
            time.sleep(0.001)
            yield 8

    return epoch


def test_a_block_drops_the_warm_up_and_stops_at_a_multiple_of_the_workers() -> None:
    whole = serve.measure(epochs(20), epoch=0, min_s=10, warm_up=4, round_to=2)
    assert whole["images"] == 16 * 8
    assert whole["seconds"] >= 16 * 0.001
    short = serve.measure(epochs(20), epoch=0, min_s=0, warm_up=4, round_to=3)
    assert short["images"] == 3 * 8


def test_a_block_without_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="no images: the epoch ended within the warm-up"):
        serve.measure(epochs(4), epoch=0, min_s=1, warm_up=4, round_to=1)


def test_what_a_loader_prints_does_not_reach_the_answers(tmp_path: Path) -> None:
    code = (
        f"import runpy, sys, types; sys.argv[1:] = ['loud']; m = types.ModuleType('loud')\n"
        "def open_loader(settings):\n"
        "    print('hello from C', flush=True)\n"
        "    return lambda epoch: iter([settings['size']] * 3)\n"
        "m.open_loader = open_loader; sys.modules['bench.peers.scripts.loud'] = m\n"
        f"runpy.run_path({str(SCRIPTS / 'serve.py')!r}, run_name='__main__')"
    )
    with PeerProcess([sys.executable, "-I", "-c", code], tmp_path / "log") as process:
        assert process.ask({"do": "open", "settings": {"size": 5}}, 10) == {"versions": {}}
        block = {"do": "block", "epoch": 0, "min_s": 1.0, "warm_up": 1, "round_to": 1}
        assert process.ask(block, 10)["images"] == 10
        with pytest.raises(JobError, match=r"^ValueError: no images"):
            process.ask(block | {"warm_up": 3}, 10)
    assert "hello from C" in (tmp_path / "log").read_text()


def test_scripts_import_nothing_of_this_project_but_each_other() -> None:
    for file in SCRIPTS.glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {each.module for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)}
        names |= {
            alias.name for each in ast.walk(tree) if isinstance(each, ast.Import)
            for alias in each.names
        }  # fmt: skip
        ours = {
            n
            for n in names
            if n and n.split(".")[0] in {"shards", "preprocess", "loaders", "train", "bench"}
        }
        assert all(name.startswith("bench.peers.scripts.") for name in ours), (file.name, ours)


@given(
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    seed=st.integers(0, 2**32),
)
def test_a_random_crop_lies_inside_the_image(width: int, height: int, seed: int) -> None:
    random.seed(seed)
    left, top, w, h = random_crop(width, height, (0.08, 1.0), (0.7, 1.33))
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height
    assert w > 0
    assert h > 0
    if min(width, height) > 100:  # else rounding to pixels weighs
        assert 0.68 < w / h < 1.36


# The environments


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("WARNING: old\nERROR: No matching distribution found for x\nWARNING: upgrade", "No matching distribution found for x"),
        (
            "error: subprocess-exited-with-error\n  ╰─> [2 lines of output]\n      Traceback:\n"
            "      RuntimeError: Could not find required package: opencv.\n"
            "      [end of output]\nhint: See above for details.",
            "RuntimeError: Could not find required package: opencv.",
        ),
        ("Traceback:\nImportError: no libfoo.so\n", "ImportError: no libfoo.so"),
        ("", "no message"),
    ],
)  # fmt: skip
def test_the_reason_is_the_line_that_says_it(printed: str, reason: str) -> None:
    assert why_it_failed(printed) == reason


def test_an_environment_that_does_not_build_goes_away_and_keeps_its_reason(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path, environment: object) -> None:
        folder.mkdir(parents=True)
        raise UserError("RuntimeError: Could not find required package: opencv.")

    monkeypatch.setattr(environments, "_install", refuse)
    with pytest.raises(UserError, match=r"opencv\.; it needs a C\+\+ compiler"):
        build("ffcv")
    assert not (own_cache / "ffcv").exists()
    with pytest.raises(UserError, match="does not install: RuntimeError: Could not find"):
        environment_python("ffcv")


def test_setup_goes_on_after_a_failure_and_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_some(name: str) -> bool:
        if name == "spdl":
            raise UserError("no FFmpeg")
        return name != "litdata"

    monkeypatch.setattr("bench.peers.command.build", build_some)
    done = CliRunner().invoke(cli, ["peers", "setup"])
    lines = done.output.splitlines()
    assert "spdl: no FFmpeg" in lines
    assert "litdata: there already" in lines
    assert "streaming: built" in lines
    assert done.exit_code == 1
    assert lines[-1] == "error: not built: spdl"


def test_setup_names_the_peer_that_was_meant() -> None:
    done = CliRunner().invoke(cli, ["peers", "setup", "fcv"])
    assert done.exit_code == 2
    assert "unknown peer 'fcv'; did you mean 'ffcv'?" in done.output


def test_every_environment_of_a_row_can_be_set_up() -> None:
    assert {each.environment for each in PEERS if each.environment} == set(ENVIRONMENTS)
    assert all((SCRIPTS / f"{each.module}.py").is_file() for each in PEERS)


@pytest.mark.slow
def test_an_environment_shares_torch_and_is_used_until_something_else_is_asked_for(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip is there already, so nothing is fetched
    pillow = tmp_path / "pillow" / "PIL"
    pillow.mkdir(parents=True)
    (pillow / "__init__.py").write_text("__version__ = 'stock'")
    monkeypatch.setattr(environments, "stock_pillow", lambda: pillow.parent)
    monkeypatch.setitem(ENVIRONMENTS, "torchvision", environments.Environment(
        requirements=("pip",), check="import PIL; assert PIL.__version__ == 'stock'",
    ))  # fmt: skip
    assert build("torchvision")
    assert not build("torchvision")
    python = environment_python("torchvision")
    code = "import importlib.util as u, json; print(json.dumps(u.find_spec('torch').origin))"
    found = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert Path(json.loads(found.stdout)).is_relative_to(environments._own_packages()[0])
    monkeypatch.setitem(
        ENVIRONMENTS, "torchvision", environments.Environment(requirements=("x",), check="")
    )
    with pytest.raises(UserError, match="not installed: `bench peers setup torchvision`"):
        environment_python("torchvision")
    shutil.rmtree(own_cache)
