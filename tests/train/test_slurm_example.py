"""The SLURM script of the documentation, with an srun and an scontrol of the test."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs" / "interruption.md"
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
[ "$(basename "$0")" = scontrol ] || exit "$ENDS_WITH"
"""


@pytest.mark.parametrize(
    ("restarts", "ends_with", "requeued"),
    [("", 0, False), ("0", 1, False), ("", 124, True), ("2", 124, True), ("0", 143, True)],
)
def test_a_job_that_was_stopped_goes_back_into_the_queue_and_resumes(
    tmp_path: Path, restarts: str, ends_with: int, requeued: bool
) -> None:
    script = re.search(r"```sh\n(#!/bin/bash\n#SBATCH.*?)```", DOCS.read_text(), re.DOTALL)
    assert script is not None
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(tmp_path / "calls"),
        "ENDS_WITH": str(ends_with), "SLURM_JOB_ID": "77", "HYPHAE_SHARDS_DIR": "my shards",
        "SLURM_RESTART_COUNT": restarts,
    }  # fmt: skip
    done = subprocess.run(["bash", "-c", script[1]], env=environment, check=False)
    assert done.returncode == ends_with  # the queue must not call a failed training complete
    calls = (tmp_path / "calls").read_text().splitlines()
    resumed = restarts == "2"
    assert calls[0] == (
        "srun python -m train --arch resnet50 --shards my shards --time-limit 3h55m"
        + " --resume" * resumed
    )
    assert calls[1:] == ["scontrol requeue 77"] * requeued
