"""Slices and clusters make the same bytes as one machine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from preprocess.__main__ import main
from preprocess.demo_data import draw_demo_data
from tests.preprocess.test_pack_crashes import command, differences, pack_unbroken

SLICES = 3
PORT = 18_786
ADDRESS = f"tcp://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    draw_demo_data(folder, train_files=20, eval_files=6, size=96)
    return folder


@pytest.fixture(scope="module")
def unbroken(
    photos: Path, tmp_path_factory: pytest.TempPathFactory, command_environment: dict[str, str]
) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "set"
    pack_unbroken(photos, out, command_environment)
    return out


def run(
    arguments: list[str], environment: dict[str, str], expect: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stderr
    return done


def test_slices_merge_to_the_bytes_of_one_machine(
    tiny_dataset: Path, tmp_path: Path, command_environment: dict[str, str]
) -> None:
    photos, unbroken, out = tiny_dataset, tmp_path / "unbroken", tmp_path / "set"
    pack_unbroken(photos, unbroken, command_environment)
    merge = [sys.executable, "-m", "shards", "merge", str(out)]
    for index in (2, 0):
        run([*command(photos, out), "--task", f"{index}/{SLICES}"], command_environment)
    early = run(merge, command_environment, expect=2)
    assert "shards are not packed yet" in early.stderr
    assert "run the packing command again with --task 1/3, it makes those alone" in early.stderr
    done = run([*command(photos, out), "--task", f"1/{SLICES}"], command_environment)
    assert f'once all {SLICES} are: python -m shards merge "{out}"' in done.stdout
    run(merge, command_environment)
    assert differences(unbroken, out) == []
    again = run(merge, command_environment)  # so does a job that a scheduler puts back in its queue
    assert f"{out} is published already; nothing to merge" in again.stdout
    late = run([*command(photos, out), "--task", f"1/{SLICES}"], command_environment)
    assert f"{out} is published already, made of the same; nothing to do" in late.stdout
    assert "python -m shards merge" not in late.stdout
    assert differences(unbroken, out) == []


@pytest.mark.parametrize("task", ["3/3", "-1/3", "1", "a/b", "0/0"])
def test_a_slice_that_does_not_exist_is_refused(
    task: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    done = CliRunner().invoke(main, [str(tiny_dataset), "--out", str(out), "--task", task])
    assert done.exit_code == 2
    assert "is not I/N with I from 0 to N-1" in done.stderr
    assert not (tmp_path / "set").exists()


@pytest.fixture
def cluster(
    tmp_path: Path, command_environment: dict[str, str]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A real scheduler and two workers on loopback; yields the workers."""
    pytest.importorskip("distributed")
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker"]
    quiet = {"env": command_environment, "stdout": subprocess.DEVNULL, "cwd": tmp_path}
    started: list[subprocess.Popen[bytes]] = []
    try:
        with (tmp_path / "cluster.log").open("wb") as log:
            scheduler = [*dask, "--host", "127.0.0.1", "--port", str(PORT), "--no-dashboard"]
            started.append(subprocess.Popen(scheduler, stderr=log, **quiet))
            started += [
                subprocess.Popen(
                    [*worker, ADDRESS, "--nthreads", "1", "--no-nanny", "--no-dashboard"],
                    stderr=log,
                    **quiet,
                )
                for _ in range(2)
            ]
            wait_for_workers(2)
            yield started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def wait_for_workers(count: int) -> None:
    from distributed import Client

    with Client(ADDRESS, timeout=30) as client:
        client.wait_for_workers(count, timeout=60)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Dask's own
def test_a_dask_cluster_that_loses_a_worker_makes_the_bytes_of_one_machine(
    photos: Path,
    unbroken: Path,
    tmp_path: Path,
    command_environment: dict[str, str],
    cluster: list[subprocess.Popen[bytes]],
) -> None:
    out = tmp_path / "set"
    with subprocess.Popen(
        [*command(photos, out), "--dask", ADDRESS],
        env=command_environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    ) as packing:  # fmt: skip
        while packing.poll() is None and not list(out.glob("*.tar*")):
            time.sleep(0.005)
        cluster[0].kill()
        _, errors = packing.communicate(timeout=120)
    assert packing.returncode == 0, errors
    assert differences(unbroken, out) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_no_scheduler_is_one_line(
    photos: Path, tmp_path: Path, command_environment: dict[str, str]
) -> None:
    pytest.importorskip("distributed")
    done = run(
        [*command(photos, tmp_path / "set"), "--dask", "tcp://127.0.0.1:9"],
        command_environment,
        expect=2,
    )
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in done.stderr
    assert done.stderr.endswith("; expected an address as in tcp://host:8786\n")
    assert "Traceback" not in done.stderr
