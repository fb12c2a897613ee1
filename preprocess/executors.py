"""Who packs: processes on this machine, or the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

import click

from preprocess.pack import codec_versions
from shards.errors import UserError
from shards.workers import process_pool

CONNECT_TIMEOUT_S = 10
RETRIES = 3
"""How often Dask tries a shard again; a shard whose worker died is moved to another by itself."""


@contextmanager
def local_executor(workers: int) -> Iterator[Executor]:
    """Processes on this machine; what they have begun when asked to stop, they finish."""
    with process_pool(workers) as executor:
        try:
            yield executor
        except KeyboardInterrupt:  # the pool waits next, for seconds
            click.echo("stopping: finishing what is under way", err=True)
            raise


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """The workers of a running Dask cluster, which see the same folders under the same names.

    Raises:
        UserError: Dask is not installed, no scheduler answers, there are no workers, or their codec
            versions differ from those here.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UserError("--dask needs Dask: pip install 'dask[distributed]'") from None
    try:
        client = Client(address, timeout=CONNECT_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Dask scheduler answers at {address}: {error}; expected an address as in "
            "tcp://host:8786"
        ) from None
    with client:
        _check_workers(address, client.run(codec_versions))
        yield client.get_executor(retries=RETRIES, pure=False)


def _check_workers(address: str, versions: dict[str, dict[str, str]]) -> None:
    if not versions:
        raise UserError(f"the Dask scheduler at {address} has no workers; start some and try again")
    for worker, found in versions.items():
        if found != codec_versions():
            raise UserError(
                f"Dask worker {worker} has {found}, here is {codec_versions()}: other versions, "
                "other bytes; install the same on all"
            )
