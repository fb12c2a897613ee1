"""Files from a URL, a command or a folder: whole and checked, or one line that says why not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from loaders import fetch, transfer
from loaders.fetch import Source, SourceClosed, fetched_index, is_remote
from shards.errors import ShardError, UserError
from shards.format import FileInfo, Manifest
from shards.reader import ShardSet

SHARD = "train-000001.tar"

Serve = Callable[[Path], Any]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(transfer, "TIMEOUT", 0.3)
    monkeypatch.setattr(transfer, "CHUNK", 4096)


@pytest.fixture
def expected(several_shards: Path) -> FileInfo:
    return Manifest.read(several_shards).files[SHARD]


@pytest.fixture
def server(several_shards: Path, serve: Serve) -> Any:
    return serve(several_shards)


@pytest.fixture
def source(server: Any) -> Iterator[Source]:
    with closing(Source(server.url)) as opened:
        yield opened


@pytest.mark.parametrize(
    "where", ["{url}", "{url}{{name}}?key=secret", "pipe:cat '{folder}'/{{name}}", "{folder}"]
)
def test_a_file_comes_whole_from_a_url_a_template_a_command_and_a_folder(
    where: str, server: Any, several_shards: Path, expected: FileInfo
) -> None:
    given = where.format(url=server.url, folder=several_shards)
    with closing(Source(given if is_remote(given) else Path(given))) as source:
        assert source.fetch(SHARD, expected) == (several_shards / SHARD).read_bytes()


def test_a_server_without_ranges_is_read_again_from_its_beginning(
    server: Any, source: Source, several_shards: Path, expected: FileInfo
) -> None:
    server.faults[SHARD] = [("drop", 10_000), ("drop", 30_000)]
    assert source.fetch(SHARD, expected) == (several_shards / SHARD).read_bytes()
    assert server.count(SHARD) == 3


def test_a_server_with_ranges_goes_on_where_the_connection_broke(
    server: Any, source: Source, several_shards: Path, expected: FileInfo
) -> None:
    server.ranges = True
    server.faults[SHARD] = [("drop", 10_000), ("drop", 30_000)]
    assert source.fetch(SHARD, expected) == (several_shards / SHARD).read_bytes()
    assert server.requests == [(SHARD, None), (SHARD, "bytes=10000-"), (SHARD, "bytes=40000-")]


@pytest.mark.parametrize("fault", [("flip", 5000), ("cut", 5000), ("stall", 5000), ("status", 503)])
def test_a_passing_fault_costs_an_attempt_and_nothing_else(
    fault: tuple[str, int],
    server: Any,
    source: Source,
    several_shards: Path,
    expected: FileInfo,
) -> None:
    server.faults[SHARD] = [fault]
    assert source.fetch(SHARD, expected) == (several_shards / SHARD).read_bytes()
    assert server.count(SHARD) == 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (("drop", 0), r"the connection broke off \(4 attempts\)"),
        (("cut", 5000), r"it ended after 5,000 of [\d,]+ bytes \(4 attempts\)"),
        (("flip", 5000), r"not what the manifest says \(sha256\) \(4 attempts\)"),
        (("stall", 100), r"nothing came for 0.3 s \(4 attempts\)"),
        (("silent", 0), r"nothing came for 0.3 s \(4 attempts\)"),
        (("status", 503), r"HTTP 503 Service Unavailable \(4 attempts\)"),
        (("status", 404), r"HTTP 404 Not Found; "),
        (("status", 403), r"HTTP 403 Forbidden; "),
    ],
)
def test_a_lasting_fault_ends_in_one_line_with_name_and_url(
    fault: tuple[str, int], reason: str, server: Any, source: Source, expected: FileInfo
) -> None:
    server.faults[SHARD] = [fault] * 10
    with pytest.raises(ShardError, match=reason) as caught:
        source.fetch(SHARD, expected)
    message = caught.value.message
    assert message.startswith(f"cannot read {SHARD} from {server.url}{SHARD}: ")
    assert "\n" not in message
    assert server.count(SHARD) == (1 if fault[1] in (404, 403) else 4)


def test_a_file_longer_than_the_manifest_says_is_refused(
    source: Source, expected: FileInfo
) -> None:
    short = FileInfo(bytes=expected.bytes - 1, sha256=expected.sha256)
    with pytest.raises(ShardError, match=r"it is longer than the [\d,]+ bytes of the manifest"):
        source.fetch(SHARD, short)


def test_a_host_that_is_not_there_is_named(expected: FileInfo) -> None:
    with pytest.raises(
        ShardError, match=r"from http://127\.0\.0\.1:1/set/train.*: Connection refused"
    ):
        Source("http://127.0.0.1:1/set").fetch(SHARD, expected)


def test_a_missing_file_of_a_folder_is_named(tmp_path: Path, expected: FileInfo) -> None:
    with pytest.raises(ShardError, match=f"cannot read {SHARD} from {tmp_path}.*No such file"):
        Source(tmp_path).fetch(SHARD, expected)


def test_a_failing_command_is_named_with_its_last_line(expected: FileInfo) -> None:
    with pytest.raises(ShardError, match=r"ended with 3: no such bucket \(4 attempts\)"):
        Source("pipe:echo {name} >/dev/null; echo no such bucket >&2; exit 3").fetch(
            SHARD, expected
        )


def test_a_key_in_a_url_is_not_printed(server: Any) -> None:
    source = Source(server.url + "{name}?signature=secret")
    assert source.address(SHARD) == server.url + SHARD


def test_a_name_is_one_word_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "a $(b) 'c'").write_bytes(b"content")
    assert Source(f"pipe:cat {tmp_path}/{{name}}").fetch("a $(b) 'c'") == b"content"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("pipe:cat set/train.tar", r"does not say which file it reads; write \{name\}"),
        ("https:///set", r"cannot read shards from 'https:///set'; give a folder, http"),
        ("s3://bucket/set", r"cannot read shards from 's3://bucket/set'; give a folder, http"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused(where: str, message: str) -> None:
    assert is_remote(where)
    with pytest.raises(UserError, match=message):
        Source(where)


def test_closing_ends_a_transfer_that_stalls_in_another_thread(
    monkeypatch: pytest.MonkeyPatch, server: Any, source: Source, expected: FileInfo
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", 30)
    server.faults[SHARD] = [("stall", 8192)]
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(source.fetch, SHARD, expected)
        while not server.requests:
            time.sleep(0.01)
        time.sleep(0.1)
        start = time.monotonic()
        source.close()
        assert isinstance(fetching.exception(timeout=5), SourceClosed)
        assert time.monotonic() - start < 2


def test_closing_kills_a_command_with_all_that_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, expected: FileInfo
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", 30)
    noted = tmp_path / "pids"
    script = f"echo {{name}}; (sleep 60 & echo $! >{noted}.part; mv {noted}.part {noted}; wait)"
    source = Source(f"pipe:{script}; sleep 60")
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(source.fetch, SHARD, expected)
        while not noted.exists():
            time.sleep(0.01)
        source.close()
        assert isinstance(fetching.exception(timeout=5), SourceClosed)
    deadline = time.monotonic() + 5
    while alive(int(noted.read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(int(noted.read_text()))


def test_the_index_of_a_remote_set_opens_without_its_shards(
    server: Any, several_shards: Path
) -> None:
    with fetched_index(server.url) as index:
        assert not list(index.glob("*.tar"))
        here, there = ShardSet(index), ShardSet(several_shards)
        assert here.manifest == there.manifest
        for name in here.manifest.splits:
            one, other = here.split(name), there.split(name)
            assert one.samples.tolist() == other.samples.tolist()
            assert one.rows.tolist() == other.rows.tolist()
    assert not index.exists()
    assert {name.rpartition(".")[2] for name, _ in server.requests} == {"json", "npy"}


def test_a_place_without_a_shard_set_is_named(serve: Serve, tmp_path: Path) -> None:
    server = serve(tmp_path)
    url = f"{server.url}manifest.json"
    with pytest.raises(ShardError, match=f"cannot read manifest.json from {url}: HTTP 404"):
        with fetched_index(server.url):
            pass


def test_a_page_in_place_of_a_manifest_is_named(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("<html>please log in</html>")
    server = serve(tmp_path)
    with pytest.raises(ShardError) as refused, fetched_index(server.url):
        pass
    assert refused.value.message == (
        f"{server.url}manifest.json is damaged: not a manifest; check that this is where the shard "
        "set lies, and that no page to log in answers in its place"
    )


def test_a_command_that_writes_no_manifest_is_named_and_nothing_of_ours() -> None:
    with pytest.raises(ShardError) as refused, fetched_index("pipe:echo garbage {name}"):
        pass
    assert refused.value.message.startswith(
        "pipe:echo garbage manifest.json is damaged: not a manifest; check that this is where "
    )


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"  # a zombie waits for whoever adopted it
