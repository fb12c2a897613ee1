"""Shards from elsewhere: trained on, evaluated and resumed by their URL, which is never followed
from a file."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from shards.errors import UserError
from shards.format import Manifest
from train.__main__ import main
from train.config.source import ShardSource, recorded_source, shard_source
from train.evaluate import main as evaluate

TINY = ["--image-size", "32", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]
TINY += ["--threads", "1", "--precision", "fp32", "--compile", "off"]


@pytest.fixture
def url(tiny_shards: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tiny_shards))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_run_streams_from_a_url_and_is_evaluated_from_there(
    url: str, tiny_arch: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = ["--arch", tiny_arch, "--shards", url, "--sampling", "natural", "--out", str(run)]
    trained = CliRunner().invoke(main, [*args, *TINY])
    assert trained.exit_code == 0, trained.output
    assert "loader webdataset (the shards are streamed)" in trained.output
    summary = json.loads((run / "summary.json").read_text())
    assert summary["shards"]["directory"] == url
    again = CliRunner().invoke(evaluate, [str(run), "--shards", url])
    assert again.exit_code == 0, again.output
    assert f"{summary['test']['miou']:.4f}" in again.output

    alone = CliRunner().invoke(evaluate, [str(run)])
    assert alone.exit_code == 2
    assert f"streamed its shards from {url}; name them again" in alone.output


def test_a_folder_is_opened_as_it_is(tiny_shards: Path) -> None:
    with shard_source(str(tiny_shards)) as source:
        assert source == ShardSource(tiny_shards)
    assert str(source) == str(tiny_shards.absolute())


def test_the_index_of_a_remote_set_is_fetched_and_put_away(url: str, tiny_shards: Path) -> None:
    with shard_source(url) as source:
        assert Manifest.read(source.directory) == Manifest.read(tiny_shards)
    assert not source.directory.exists()


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("https://me:secret@host/set?key=secret", "https://host/set"),
        ("https://host/get?file={name}&key=secret", "https://host/get"),
        ("pipe:fetch --key secret {name}", "pipe:fetch"),
    ],
)
def test_what_may_be_a_key_is_not_recorded(where: str, shown: str) -> None:
    assert str(ShardSource(Path("index"), where)) == shown


@pytest.mark.parametrize("recorded", ["https://host/set/", "pipe:rm"])
def test_a_url_or_command_in_a_checkpoint_is_never_followed(recorded: str) -> None:
    with pytest.raises(UserError, match="name them again with --shards"):
        recorded_source(None, recorded)
    assert recorded_source("here", recorded) == "here"
