"""A shard set of several shards, and a server on loopback that hands it out, well or badly."""

from __future__ import annotations

import csv
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CLASSES = ("Agaricus", "Boletus", "Russula")
FILES = {"train": 200, "val": 70, "test": 3}  # 64 a shard: 4, 2 and 1 of them


@pytest.fixture(scope="session")
def several_shards(
    tmp_path_factory: pytest.TempPathFactory,
    photo: Callable[..., Any],
    jpeg: Callable[..., bytes],
    pack_set: Callable[..., Any],
) -> Path:
    """200 small photographs in four train shards, 70 in two val shards; to read, not to change.

    Each class has rows that repeat, as many as the published train.csv has on average.
    """
    data = tmp_path_factory.mktemp("many photographs")
    rng = np.random.default_rng(3)
    for split, count in FILES.items():
        rows = []
        for number in range(count):
            name = f"{CLASSES[number % 3]}/{split} {number:03d}.jpg"
            path = data / "merged_dataset" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            width, height = (int(each) for each in rng.integers(40, 90, 2))
            path.write_bytes(jpeg(photo(rng, width, height)))
            repeats = 1 + number % 3 if split == "train" else 1
            rows += [[f"/kaggle/working/merged_dataset/{name}", CLASSES[number % 3]]] * repeats
        with (data / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["image_path", "label"], *rows])
    out = tmp_path_factory.mktemp("several shards") / "set"
    pack_set(data, out)
    return Path(out)


class ShardServer:
    """Serves a folder over HTTP/1.0; ``faults[name]`` is what goes wrong, request by request.

    ``("drop", n)`` closes after n bytes of the announced size, ``("stall", n)`` sends no more after
    them, ``("status", code)`` refuses, ``("flip", n)`` inverts byte n, ``("cut", n)`` announces and
    sends n bytes as if they were all, ``("silent", 0)`` does not answer.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        self.ranges = False
        self.requests: list[tuple[str, str | None]] = []
        """Name and Range header of each."""
        self.released = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/set/"

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def count(self, name: str) -> int:
        return sum(each == name for each, _ in self.requests)

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.partition("?")[0].rpartition("/")[2]
                asked = self.headers.get("Range")
                server.requests.append((name, asked))
                kind, size = server.faults[name].pop(0) if server.faults[name] else ("none", 0)
                path = server.folder / name
                if kind == "silent":
                    server.released.wait(30)
                elif kind == "status":
                    self.send_error(size)
                elif not path.is_file():
                    self.send_error(404)
                else:
                    self._send(path.read_bytes(), asked, kind, size)

            def _send(self, content: bytes, asked: str | None, kind: str, size: int) -> None:
                start = int(asked[6:-1]) if asked and server.ranges else 0
                if kind == "flip":
                    content = content[:size] + bytes([content[size] ^ 255]) + content[size + 1 :]
                elif kind == "cut":
                    content = content[:size]
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/*")
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                whole = kind not in ("drop", "stall")
                self.wfile.write(content[start:] if whole else content[start : start + size])
                if kind == "stall":
                    self.wfile.flush()
                    server.released.wait(30)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


@pytest.fixture
def serve() -> Iterator[Callable[[Path], ShardServer]]:
    """``serve(folder)``: a server that ends with the test."""
    started: list[ShardServer] = []

    def start(folder: Path) -> ShardServer:
        started.append(ShardServer(folder))
        return started[-1]

    yield start
    for each in started:
        each.close()
