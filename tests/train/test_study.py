"""Studies are found by name, keep every result, and go on after a stop or a kill."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from shards.errors import Interrupted, UserError
from train.checkpoints.folder import held
from train.studies.cells import CELLS, Cells, Result, Values, run_cells, study_folder
from train.study import STUDIES, main

POINTS = [{"score": name, "run": run} for name in ("energy", "knn") for run in range(3)]
GO_ON = "python -m train.study unknown RUN"


def squared(values: Values) -> Result:
    return {"square": values["run"] ** 2}


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    return Cells(folder=tmp_path / "study", facts={"checkpoint": "abc", "seed": 1})


def test_results_come_in_the_order_of_the_points_and_each_has_a_file(cells: Cells) -> None:
    assert [each["square"] for each in run_cells(cells, POINTS, squared, GO_ON)] == [0, 1, 4] * 2
    files = sorted((cells.folder / CELLS).iterdir())
    assert len(files) == len(POINTS)
    assert json.loads(cells.file(POINTS[5]).read_text()) == {
        "facts": {"checkpoint": "abc", "seed": 1},
        "values": {"score": "knn", "run": 2},
        "result": {"square": 4},
    }


def test_what_is_there_is_not_made_again(cells: Cells, capsys: pytest.CaptureFixture[str]) -> None:
    run_cells(cells, POINTS[:4], squared, GO_ON)
    made = []

    def noting(values: Values) -> Result:
        made.append(values)
        return squared(values)

    run_cells(cells, POINTS, noting, GO_ON)
    assert made == POINTS[4:]
    assert f"6 cells, 4 done; {cells.folder}\n" in capsys.readouterr().out


def test_no_result_is_taken_for_that_of_another_checkpoint(cells: Cells) -> None:
    run_cells(cells, POINTS, squared, GO_ON)
    other = Cells(folder=cells.folder, facts={"checkpoint": "abd", "seed": 1})
    assert all(other.read(each) is None for each in POINTS)


def test_a_stopped_study_says_how_to_go_on_and_keeps_what_is_done(cells: Cells) -> None:
    def interrupted(values: Values) -> Result:
        if values == POINTS[2]:
            signal.raise_signal(signal.SIGTERM)
        return squared(values)

    with pytest.raises(
        Interrupted, match=f"study stopped, 2 of 6 cells done; go on with: {GO_ON}"
    ) as stopped:
        run_cells(cells, POINTS, interrupted, GO_ON)
    assert stopped.value.exit_code == 143
    assert [cells.read(each) is not None for each in POINTS] == [True] * 2 + [False] * 4


def test_a_killed_study_loses_the_cell_that_it_was_at(cells: Cells) -> None:
    pid = os.fork()
    if pid == 0:

        def killed(values: Values) -> Result:
            if values == POINTS[3]:
                os.kill(os.getpid(), signal.SIGKILL)
            return squared(values)

        run_cells(cells, POINTS, killed, GO_ON)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert sum(cells.read(each) is not None for each in POINTS) == 3
    assert [each["square"] for each in run_cells(cells, POINTS, squared, GO_ON)] == [0, 1, 4] * 2


@pytest.mark.parametrize("content", ["", "{}", '{"result": 3}', "\xff"])
def test_a_damaged_result_is_named(cells: Cells, content: str) -> None:
    run_cells(cells, POINTS[:1], squared, GO_ON)
    file = cells.file(POINTS[0])
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match="is damaged; remove it, and the study makes it again"):
        run_cells(cells, POINTS, squared, GO_ON)


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with held(folder):
            os.write(write, b"held")
            signal.pause()
    assert os.read(read, 4) == b"held"
    try:
        with pytest.raises(UserError, match="is in use by another process"), study_folder(folder):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_the_folder_of_a_study_is_not_among_the_code(tmp_path: Path) -> None:
    code = Path(__file__).resolve().parents[2] / "train" / "study"
    with pytest.raises(UserError, match="lies inside the code folder"), study_folder(code):
        pass
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="cannot create output folder"),
        study_folder(tmp_path / "file"),
    ):
        pass


def test_every_registered_study_is_a_command_with_help(command_line: Any) -> None:
    for name in STUDIES:
        ended = command_line(main, name, "--help")
        assert (ended.code, ended.err) == (0, "")
        assert "--out" in ended.out
    listed = command_line(main, "--help").out
    assert all(f"\n  {name} " in listed for name in STUDIES)


def test_an_unknown_study_is_refused(command_line: Any) -> None:
    ended = command_line(main, "nonsense")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: No such command 'nonsense'")
