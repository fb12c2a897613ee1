"""The shard set on disk: names, index, manifest, writer, random-access reader.

Needs neither torch nor an image decoder. As the lowest package it also holds what every command
shares: errors with exit codes, per-machine settings, and what the machine allows.
"""

from shards.errors import Interrupted, JobError, ShardError, UserError
from shards.format import FORMAT_VERSION, SAMPLE_DTYPE, Manifest
from shards.reader import ShardSet, Split

__all__ = [
    "FORMAT_VERSION",
    "SAMPLE_DTYPE",
    "Interrupted",
    "JobError",
    "Manifest",
    "ShardError",
    "ShardSet",
    "Split",
    "UserError",
]
