"""What became of one shard, left in the work folder once the shard is complete."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.format import SAMPLE_DTYPE, WORK_NAME, FileInfo
from shards.sealed_json import parse_object, seal, unseal
from shards.writer import write_file


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """What became of one shard."""

    records: npt.NDArray[np.void]
    """``(N,)`` of :data:`~shards.format.SAMPLE_DTYPE`."""
    files: dict[str, FileInfo]
    stored: dict[str, int]
    """Images by outcome."""
    rejected: list[tuple[str, str]]
    """``(path, reason)``."""
    bytes_read: int
    times: npt.NDArray[np.int64]
    """``(files,)`` when each photograph was last modified [ns], those left out included."""
    moments: npt.NDArray[np.float64]
    """``(2, 2, 3)``: sums over images of (mean, mean square) of RGB, each image counted once and
    as often as the CSV names it."""
    originals: dict[str, int] = field(default_factory=dict)
    """Sums over the packed photographs as they were: ``photos``, ``width``, ``height``; ``jpegs``
    and their ``quality``."""
    sources: dict[str, int] = field(default_factory=dict)
    """Images that were added from elsewhere, by source."""

    def write(self, directory: Path, split: str, shard: int) -> None:
        """Leave the report in the work folder: from now on the shard counts as done."""
        content = asdict(self) | {
            "records": base64.b64encode(self.records.tobytes()).decode(),
            "times": self.times.tolist(),
            "moments": self.moments.tolist(),
        }
        write_file(report_path(directory, split, shard), seal(content).encode())

    @classmethod
    def read(cls, directory: Path, split: str, shard: int) -> ShardReport | None:
        """The report of a shard that is done and whole, else None."""
        try:
            content = unseal(parse_object(report_path(directory, split, shard).read_bytes()))
            report = cls(
                **content
                | {
                    "records": np.frombuffer(base64.b64decode(content["records"]), SAMPLE_DTYPE),
                    "files": {name: FileInfo(**each) for name, each in content["files"].items()},
                    "rejected": [(path, reason) for path, reason in content["rejected"]],
                    "times": np.array(content["times"], np.int64),
                    "moments": np.array(content["moments"]),
                }
            )
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None
        return report if is_whole(directory, report.files) else None


def report_path(directory: Path, split: str, shard: int) -> Path:
    """Where the report of a shard lies."""
    return directory / WORK_NAME / f"{split}-{shard:06d}.json"


def is_whole(directory: Path, files: dict[str, FileInfo]) -> bool:
    """Whether files are there with the size they should have."""
    try:
        return all((directory / name).stat().st_size == info.bytes for name, info in files.items())
    except OSError:
        return False
