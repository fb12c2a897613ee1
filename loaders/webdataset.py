"""The streaming back end: shards at a URL, from a command or on a slow disk, read from end to end.

The ``webdataset`` library takes the tars apart and holds the shuffle buffer; images are decoded and
augmented as the ``opencv`` back end does it. The set's sample tables are small and come first, so
that ids, labels, sizes and counts are exact. The epoch's shards in shuffled order, end to end, are
one row of samples; each rank takes its own part of it, to the sample::

    shards        train-000002        train-000000        train-000001
    ranks         0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 1 1 1 1 1 1 1 1 1 1 1 1

So every sample is shown once an epoch, and all ranks have as many steps; a shard on a border is read
by two of them. ``docs/streaming.md``.
"""

from __future__ import annotations

import hashlib
import io
import random
import weakref
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import webdataset
from webdataset.filters import pipelinefilter
from webdataset.tariterators import group_by_keys, tar_file_expander

from loaders.batch import Batch
from loaders.buffers import Pixels
from loaders.config import LoaderConfig
from loaders.decode import RegionDecoder
from loaders.draws import Ids
from loaders.fetch import Source, SourceClosed
from loaders.opencv import OpenCVLoader, instructions
from loaders.plan import PlannedBatch
from loaders.stream import Stream, check_natural
from loaders.threads import Call, CancelledError, Threads
from shards.errors import ShardError
from shards.format import key_name, samples_name, shard_name
from shards.reader import Split

SHARDS_AHEAD = 2
"""Shards that are fetched at a time, beside the one that is being read."""
IMAGE_EXTENSIONS = ("jpg", "npy")


class WebDatasetLoader(OpenCVLoader):
    """Batches from shards that are read in order, whole, by threads.

    The order depends on seed, epoch, rank, ranks and the shuffle buffer, not on threads or timing.
    An epoch from a later step on reads the shards before it without decoding them.

    Raises:
        UserError: From the constructor, where streaming cannot do what is asked for.
        ShardError: From the constructor, where the index is missing or damaged; from an epoch,
            where a shard cannot be had as the manifest states it, before any of it is used.
        SampleError: From an epoch, where an image does not decode.
        RuntimeError: From an epoch, where the loader is closed.
    """

    name = "webdataset"

    def __init__(self, config: LoaderConfig) -> None:
        check_natural(config, "streaming (--loader webdataset)")
        super().__init__(config)
        self._where = config.shards if config.url is None else config.url
        self._stream = Stream(self._planned.split, self._planned.plan)
        self._arrived = _Arrived(self._planned.split, Source(self._where))
        self._decoder = RegionDecoder(self._arrived, self._scratch, reduced=config.reduced_decode)
        self._open_sources: set[Source] = set()
        self._fetchers = Threads(SHARDS_AHEAD, "hyphae-fetch")
        self._reader = Threads(1, "hyphae-read")

    @property
    def order_hash(self) -> str:
        """``streaming-`` and a hash of what decides the order: it depends on the ranks, too."""
        config = self._config
        facts = (config.shuffle_buffer, config.world_size, webdataset.__version__)
        stream = self._stream.order(0).astype("<i8").tobytes()
        hashed = hashlib.sha256(repr((*facts, super().order_hash)).encode() + stream)
        return f"streaming-{hashed.hexdigest()[:16]}"

    def epoch(
        self, epoch: int, first_step: int = 0, image_size: int | None = None
    ) -> Generator[Batch]:
        """The batches of an epoch; ``prefetch`` of them are in work ahead of the consumer."""
        side = self.side(image_size)
        ahead: deque[tuple[Any, _Read]] = deque()  # an image is here for as long as one holds it
        with closing(self._read(epoch, first_step)) as batches:
            try:
                for read in batches:
                    hows = instructions(self._planned.transforms(epoch, read.batch, side))
                    ahead.append((self._start(epoch, read.batch, hows, side), read))
                    if len(ahead) > self._config.prefetch:
                        pending, _ = ahead.popleft()
                        yield self._finish(pending)
                while ahead:
                    pending, _ = ahead.popleft()
                    yield self._finish(pending)
            finally:
                for pending, _ in ahead:
                    for piece in pending.pieces:
                        piece.cancel()

    def close(self) -> None:
        """End threads and transfers, release the index; an epoch that is still open raises."""
        self._closed = True
        for source in list(self._open_sources):
            source.close()
        self._fetchers.close()
        self._reader.close()
        super().close()

    def _read(self, epoch: int, first_step: int) -> Generator[_Read]:
        """The batches' bytes, each prepared by a thread while the one before it is in use."""
        self._check_open()
        with closing(Source(self._where)) as source:  # cuts what is under way
            self._open_sources.add(source)
            try:
                batches = self._batches(epoch, first_step, source)
                ready = self._reader.submit(next, batches, None)
                while (read := self._result(ready)) is not None:
                    self._check_open()
                    ready = self._reader.submit(next, batches, None)
                    yield read
            finally:
                self._open_sources.discard(source)

    def _result(self, ready: Call[_Read | None]) -> _Read | None:
        try:
            return ready.result()
        except (CancelledError, SourceClosed, RuntimeError):  # the last from closed threads
            self._check_open()
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the webdataset loader was closed while one of its epochs was open")

    def _batches(self, epoch: int, first_step: int, source: Source) -> Iterator[_Read]:
        """Group this rank's part of the stream into its shares of the global batches."""
        stream = self._stream
        part = stream.part(epoch)
        samples = iter(self._shuffled(epoch, self._samples(part, source)))
        position = stream.first_position
        for step, count in enumerate(stream.shares()):
            taken = list(islice(samples, count))
            if len(taken) < count:
                table = source.address(samples_name(self._config.split))
                raise ShardError(
                    f"the shards lack {count - len(taken)} or more of the samples that {table} "
                    "lists; pack the set again"
                )
            ids = np.array([sample for sample, _ in taken], np.int64)
            if step >= first_step:
                images = [self._arrived.put(*each) for each in taken]
                yield _Read(PlannedBatch(step, position, ids), images)
            position += count

    def _samples(self, part: Ids, source: Source) -> Iterator[tuple[int, bytes]]:
        """Id and stored bytes of the samples of a part, in the order of its shards."""
        keys = self._planned.split.samples["key"][part]
        wanted = dict(zip(keys.tolist(), part.tolist(), strict=True))
        members = webdataset.DataPipeline(
            partial(self._shards, self._stream.shards_of(part), source),
            pipelinefilter(tar_file_expander)(),
            pipelinefilter(group_by_keys)(),
        )
        for sample in members:
            found = wanted.get(int(sample["__key__"]))
            if found is not None:
                yield found, next(sample[each] for each in IMAGE_EXTENSIONS if each in sample)

    def _shards(self, shards: Iterable[int], source: Source) -> Iterator[dict[str, Any]]:
        """What ``webdataset`` calls an opened URL, for each shard; the next ones are on the way."""
        split = self._planned.split
        waiting: deque[tuple[str, Call[bytearray]]] = deque()

        def opened() -> dict[str, Any]:
            name, fetch = waiting.popleft()
            return {"url": source.address(name), "stream": io.BytesIO(fetch.result())}

        for shard in shards:
            name = shard_name(split.name, shard)
            expected = split.manifest.files[name]
            waiting.append((name, self._fetchers.submit(source.fetch, name, expected)))
            if len(waiting) > SHARDS_AHEAD:
                yield opened()
        while waiting:
            yield opened()

    def _shuffled(
        self, epoch: int, samples: Iterator[tuple[int, bytes]]
    ) -> Iterable[tuple[int, bytes]]:
        config = self._config
        if not config.shuffle:
            return samples
        rng = random.Random(f"{config.seed} {epoch} {config.rank}")
        shuffle = webdataset.shuffle(config.shuffle_buffer, rng=rng)
        shuffled: Iterable[tuple[int, bytes]] = shuffle(samples)
        return shuffled


@dataclass(frozen=True, slots=True)
class _Read:
    batch: PlannedBatch
    images: list[Pixels]
    """Their stored bytes; held, not used."""


class _Arrived(Split):
    """A split of which only those images are here that somebody holds."""

    def __init__(self, split: Split, source: Source) -> None:
        super().__init__(split.directory, split.name, split.manifest)
        self._source = source
        # Not a WeakValueDictionary: it removes entries in Python code that runs as a finalizer, and
        # Ctrl-C raised there would be dropped. A dead reference a sample is what stays instead.
        self._images: dict[int, weakref.ref[Pixels]] = {}

    def put(self, sample: int, payload: bytes) -> Pixels:
        """Take an image; it goes when the result, which a second epoch may share, is let go."""
        image = self._image(sample)
        if image is None:
            image = np.frombuffer(payload, np.uint8)
            self._images[sample] = weakref.ref(image)
        return image

    def payload(self, sample: int) -> memoryview:
        """The stored bytes of a sample that is here."""
        image = self._image(sample)
        assert image is not None
        return image.data

    def _image(self, sample: int) -> Pixels | None:
        reference = self._images.get(sample)
        return None if reference is None else reference()

    def describe(self, sample: int) -> str:
        """Key and address of the shard."""
        record = self.samples[sample]
        shard = self._source.address(shard_name(self.name, int(record["shard"])))
        return f"sample {key_name(int(record['key']))} of {shard}"
