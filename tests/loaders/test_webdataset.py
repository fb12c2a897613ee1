"""Streaming: every sample once, the same batches as from a disk, no sample lost to a bad line."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loaders import fetch, transfer
from loaders.augment import AugmentConfig
from loaders.batch import Batch, Loader
from loaders.config import LoaderConfig
from loaders.factory import create_loader
from loaders.fetch import fetched_index
from loaders.subset import Subset
from loaders.webdataset import WebDatasetLoader
from shards.errors import ShardError, UserError
from shards.reader import SampleError, ShardSet

TRAIN, VAL, BATCH, SIZE = 200, 70, 16, 32
SHARD = "train-000001.tar"

Open = Callable[..., Loader]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(transfer, "TIMEOUT", 5.0)
    monkeypatch.setattr(transfer, "CHUNK", 16384)


@pytest.fixture
def server(several_shards: Path, serve: Callable[[Path], Any]) -> Any:
    return serve(several_shards)


@pytest.fixture
def index(server: Any) -> Iterator[Path]:
    with fetched_index(server.url) as folder:
        yield folder


@pytest.fixture
def open_loader(several_shards: Path) -> Iterator[Open]:
    opened: list[Loader] = []

    def make(**options: Any) -> Loader:
        config = LoaderConfig(
            shards=several_shards, backend="webdataset", sampling="natural", batch_size=BATCH,
            image_size=SIZE, augment=AugmentConfig(), threads=2, seed=1, shuffle_buffer=50,
        )  # fmt: skip
        opened.append(create_loader(replace(config, **options)))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def open_evaluation(open_loader: Open, **options: Any) -> Loader:
    return open_loader(
        **{"split": "val", "augment": None, "shuffle": False, "resample": "antialias"} | options
    )


def ids_of(batches: list[Batch]) -> list[list[int]]:
    return [batch.ids.tolist() for batch in batches]


def assert_same(batches: list[Batch], others: list[Batch]) -> None:
    for one, other in zip(batches, others, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.labels.tolist() == other.labels.tolist()
        assert torch.equal(one.images, other.images)


class TestWhatIsShown:
    @pytest.mark.parametrize("world_size", [1, 2, 3, 7])
    def test_every_sample_is_shown_once_over_all_ranks_in_as_many_steps(
        self, open_loader: Open, world_size: int
    ) -> None:
        ranks = [
            list(open_loader(rank=rank, world_size=world_size).epoch(2))
            for rank in range(world_size)
        ]
        assert {len(batches) for batches in ranks} == {13}
        assert sorted(chain(*chain(*map(ids_of, ranks)))) == list(range(TRAIN))
        together = [sum(map(len, shares)) for shares in zip(*ranks, strict=True)]
        assert together == [BATCH] * 12 + [8]

    def test_dropping_the_last_batch_leaves_each_rank_whole_ones(self, open_loader: Open) -> None:
        ranks = [
            open_loader(rank=rank, world_size=2, drop_last=True, batch_size=48) for rank in (0, 1)
        ]
        batches = [list(loader.epoch(0)) for loader in ranks]
        assert [[len(batch) for batch in each] for each in batches] == [[24] * 4] * 2
        shown = list(chain(*chain(*map(ids_of, batches))))
        assert len(set(shown)) == len(shown) == ranks[0].samples_per_epoch == 192

    def test_labels_and_ids_are_those_of_the_sample_table(
        self, open_loader: Open, several_shards: Path
    ) -> None:
        with ShardSet(several_shards).split("train") as split:
            for batch in open_loader().epoch(0):
                assert batch.labels.tolist() == split.labels[batch.ids.numpy()].tolist()

    def test_a_subset_is_shown_alone_and_shards_without_it_are_not_read(
        self, open_loader: Open, server: Any, index: Path, several_shards: Path
    ) -> None:
        with ShardSet(several_shards).split("train") as split:
            wanted = np.flatnonzero(split.labels == 1)
        loader = open_loader(
            shards=index, url=server.url, subset=Subset(classes=("Boletus",)), shuffle=False
        )
        assert list(chain(*ids_of(list(loader.epoch(0))))) == wanted.tolist()
        half = open_loader(shards=index, url=server.url, world_size=4, rank=0, shuffle=False)
        server.requests.clear()
        list(half.epoch(0))
        assert [name for name, _ in server.requests] == ["train-000000.tar"]

    def test_order_mixes_shards_and_changes_with_epoch_and_seed(self, open_loader: Open) -> None:
        loader = open_loader(shuffle_buffer=150)
        orders = [
            list(chain(*ids_of(list(each.epoch(epoch)))))
            for each, epoch in ((loader, 0), (loader, 1), (open_loader(seed=2), 0))
        ]
        assert len({tuple(order) for order in orders}) == 3
        assert len({id_ // 64 for id_ in orders[0][:64]}) > 1

    def test_images_are_those_of_the_opencv_loader_where_the_order_is(
        self, open_loader: Open
    ) -> None:
        """Unshuffled they agree in order, so in draws, so in every pixel."""
        planned = list(open_loader(backend="opencv", shuffle=False).epoch(3))
        assert_same(list(open_loader(shuffle=False).epoch(3)), planned)

    def test_arrays_stream_as_jpegs_do(
        self,
        open_loader: Open,
        tiny_dataset: Path,
        tmp_path: Path,
        pack_set: Callable[..., Any],
    ) -> None:
        pack_set(tiny_dataset, tmp_path / "mixed", raw_share=0.5)
        options = {"shards": tmp_path / "mixed", "batch_size": 7, "shuffle": False}
        planned = list(open_loader(backend="opencv", **options).epoch(0))
        assert_same(list(open_loader(**options).epoch(0)), planned)

    def test_evaluation_shows_every_sample_once_in_stored_order(
        self, open_loader: Open, server: Any, index: Path
    ) -> None:
        planned = list(open_evaluation(open_loader, backend="opencv").epoch(0))
        streamed = list(open_evaluation(open_loader, shards=index, url=server.url).epoch(0))
        assert list(chain(*ids_of(streamed))) == list(range(VAL))
        assert_same(streamed, planned)

    def test_ranks_may_get_none_of_the_last_batch(self, open_loader: Open) -> None:
        options = {"world_size": 4, "batch_size": 66}
        ranks = [list(open_evaluation(open_loader, rank=r, **options).epoch(0)) for r in range(4)]
        assert [len(batches[-1]) for batches in ranks] == [1, 1, 1, 1]
        options["batch_size"] = 69
        ranks = [list(open_evaluation(open_loader, rank=r, **options).epoch(0)) for r in range(4)]
        assert [len(batches[-1]) for batches in ranks] == [0, 0, 0, 1]
        assert ranks[0][-1].images.shape == (0, 3, SIZE, SIZE)


class TestRepeating:
    def test_url_command_and_folder_give_the_same_batches(
        self, open_loader: Open, server: Any, index: Path, several_shards: Path
    ) -> None:
        local = list(open_loader().epoch(0))
        assert_same(list(open_loader(shards=index, url=server.url).epoch(0)), local)
        command = f"pipe:cat '{several_shards}'/{{name}}"
        assert_same(list(open_loader(shards=index, url=command).epoch(0)), local)

    def test_threads_change_nothing(self, open_loader: Open) -> None:
        one, four = (list(open_loader(threads=threads).epoch(1)) for threads in (1, 4))
        assert_same(one, four)

    @pytest.mark.parametrize("first_step", [1, 7, 12])
    def test_an_epoch_from_a_later_step_on_is_the_rest_of_an_unbroken_one(
        self, open_loader: Open, first_step: int
    ) -> None:
        unbroken = list(open_loader().epoch(4))
        assert_same(list(open_loader().epoch(4, first_step)), unbroken[first_step:])

    def test_images_may_come_smaller_in_the_same_order(self, open_loader: Open) -> None:
        small = list(open_loader().epoch(1, 3, SIZE // 2))
        assert_same(small, list(open_loader(image_size=SIZE // 2).epoch(1, 3)))
        assert small[0].images.shape[-1] == SIZE // 2

    def test_two_epochs_may_be_open_at_a_time(self, open_loader: Open) -> None:
        loader = open_loader()
        expected = list(open_loader().epoch(0))
        one, other = loader.epoch(0), loader.epoch(0)
        pairs = list(zip(one, other, strict=True))
        assert_same([each for each, _ in pairs], expected)
        assert_same([each for _, each in pairs], expected)

    def test_the_order_hash_says_streaming_and_what_the_order_depends_on(
        self, open_loader: Open
    ) -> None:
        hashes = [
            open_loader(**options).order_hash
            for options in (
                {}, {"seed": 2}, {"shuffle_buffer": 51}, {"world_size": 2}, {"batch_size": 8},
                {"backend": "opencv"},
            )
        ]  # fmt: skip
        assert len(set(hashes)) == len(hashes)
        assert hashes[0] == open_loader(threads=4).order_hash
        assert [each.startswith("streaming-") for each in hashes] == [True] * 5 + [False]


class TestBadLines:
    def test_connections_that_drop_in_mid_shard_lose_no_sample(
        self, open_loader: Open, server: Any, index: Path
    ) -> None:
        for name in ("train-000000.tar", SHARD, "train-000003.tar"):
            server.faults[name] = [("drop", 9_000), ("cut", 20_000), ("flip", 40_000)]
        streamed = list(open_loader(shards=index, url=server.url).epoch(0))
        assert_same(streamed, list(open_loader().epoch(0)))
        assert server.count(SHARD) == 4

    @pytest.mark.parametrize("fault", [("status", 404), ("drop", 9_000), ("flip", 3_000)])
    def test_a_shard_that_cannot_be_had_ends_the_epoch_before_any_of_it_is_shown(
        self, open_loader: Open, server: Any, index: Path, fault: tuple[str, int]
    ) -> None:
        server.faults[SHARD] = [fault] * 10
        loader = open_loader(shards=index, url=server.url, shuffle=False)
        shown = []
        with pytest.raises(ShardError, match=f"cannot read {SHARD} from {server.url}") as caught:
            shown.extend(loader.epoch(0))
        assert "\n" not in caught.value.message
        assert all(id_ < 64 for id_ in chain(*ids_of(shown)))

    def test_a_loader_can_be_used_again_after_the_line_is_mended(
        self, open_loader: Open, server: Any, index: Path
    ) -> None:
        loader = open_loader(shards=index, url=server.url)
        server.faults[SHARD] = [("status", 404)]
        with pytest.raises(ShardError):
            list(loader.epoch(0))
        assert_same(list(loader.epoch(0)), list(open_loader().epoch(0)))

    def test_a_local_shard_cut_short_is_named(
        self, open_loader: Open, several_shards: Path, tmp_path: Path
    ) -> None:
        for file in several_shards.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / SHARD).write_bytes((several_shards / SHARD).read_bytes()[:-2048])
        with pytest.raises(ShardError, match=f"cannot read {SHARD} from {tmp_path}.*ended after"):
            list(open_loader(shards=tmp_path).epoch(0))

    def test_an_image_that_does_not_decode_names_its_shard(
        self, monkeypatch: pytest.MonkeyPatch, open_loader: Open, several_shards: Path
    ) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise ValueError("not today")

        monkeypatch.setattr("loaders.decode.simplejpeg.decode_jpeg", broken)
        with pytest.raises(
            SampleError, match=rf"sample \d+ of {several_shards}/train-.* not today"
        ):
            list(open_loader().epoch(0))


class TestLeavingEarly:
    @pytest.mark.parametrize("how", ["break", "garbage", "close"])
    def test_nothing_is_left_running_while_the_server_stalls(
        self,
        how: str,
        monkeypatch: pytest.MonkeyPatch,
        open_loader: Open,
        server: Any,
        index: Path,
    ) -> None:
        monkeypatch.setattr(transfer, "TIMEOUT", 30.0)
        before = set(threading.enumerate())
        server.faults["train-000003.tar"] = [("stall", 1000)]
        loader = open_loader(shards=index, url=server.url, shuffle=False, prefetch=1)
        epoch = loader.epoch(0)
        next(epoch)
        start = time.monotonic()
        if how == "break":
            epoch.close()
        elif how == "garbage":
            del epoch
            gc.collect()
        loader.close()
        assert time.monotonic() - start < 3
        assert not [
            each.name
            for each in threading.enumerate()
            if each not in before and each.name.startswith("hyphae")
        ]

    def test_an_epoch_that_is_open_when_its_loader_closes_says_so(
        self, monkeypatch: pytest.MonkeyPatch, open_loader: Open, server: Any, index: Path
    ) -> None:
        monkeypatch.setattr(transfer, "TIMEOUT", 30.0)
        server.faults["train-000001.tar"] = [("stall", 1000)]
        loader = open_loader(shards=index, url=server.url, shuffle=False, prefetch=1)
        epoch = loader.epoch(0)
        next(epoch)
        threading.Timer(0.2, loader.close).start()
        with pytest.raises(RuntimeError, match="the webdataset loader was closed"):
            list(epoch)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"sampling": "csv"}, r"not sampling csv; use --sampling natural"),
            ({"sampling": "balanced"}, r"not sampling balanced; use --sampling natural"),
            ({"epoch_size": 32}, r"sampling natural and epoch size 32; .* without --epoch-size"),
            ({"on_bad_sample": "skip"}, r"cannot replace a bad sample.*use --loader opencv"),
            ({"split": "valid"}, r"has no split 'valid'"),
            ({"batch_size": 201}, r"batch size 201 is larger than the train split \(200 images"),
            ({"url": "ftp://host/set"}, r"cannot read shards from 'ftp://host/set'"),
        ],
    )
    def test_what_streaming_cannot_do_is_refused(
        self, open_loader: Open, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            open_loader(**options)

    def test_a_url_with_another_loader_is_refused_and_auto_is_this_one(
        self, open_loader: Open, server: Any, index: Path
    ) -> None:
        with pytest.raises(UserError, match="opencv reads shards from a folder, not from a URL"):
            open_loader(shards=index, url=server.url, backend="opencv")
        loader = open_loader(shards=index, url=server.url, backend="auto")
        assert isinstance(loader, WebDatasetLoader)

    def test_a_table_that_names_more_samples_than_the_shards_hold_is_noticed(
        self, monkeypatch: pytest.MonkeyPatch, open_loader: Open, several_shards: Path
    ) -> None:
        loader = open_loader(shuffle=False)
        assert isinstance(loader, WebDatasetLoader)
        keys = loader._planned.split.samples["key"]
        keys[150] = 999_999_999  # a table that does not fit its tars
        with pytest.raises(
            ShardError, match=r"lack 1 or more of the samples that .*train\.samples\.npy lists"
        ):
            list(loader.epoch(0))

    def test_a_buffer_of_no_image_is_refused(self, open_loader: Open) -> None:
        with pytest.raises(ValueError, match="shuffle_buffer must be at least 1, got 0"):
            open_loader(shuffle_buffer=0)
