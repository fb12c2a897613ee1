"""The GPU back end: DALI decodes only the crop, resizes, colours and mirrors, all on the device.

The same graph runs on the CPU as ``dali-cpu``, for tests and as the link between the GPU and the
other back ends. DALI draws nothing at random: what happens to an image comes with its bytes.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from loaders.augment import ERASE_FILL
from loaders.batch import Batch
from loaders.config import LoaderConfig
from loaders.decode import decode
from loaders.plan import PlannedBatch
from loaders.planned import PlannedLoader, PlannedSplit
from loaders.threads import Call, Threads
from shards.errors import ShardError, UserError
from shards.machine import allowed_cores
from shards.reader import SampleError, view_array

try:
    from nvidia import dali
    from nvidia.dali import fn, types
except (ImportError, OSError) as error:
    raise UserError(
        f"the loaders dali and dali-cpu need NVIDIA DALI, which does not import here ({error}); "
        "`make setup` installs it on Linux, and --loader opencv works without it"
    ) from error

GraphDevice = Literal["cpu", "gpu"]
Feed = list[Any]
"""One batch for :func:`graph`: the arrays of :func:`_inputs`, in that order."""

COLOR_FACTORS = ("brightness", "contrast", "saturation", "hue")
"""The columns of ``Transforms.colors``, by the names of ``color_twist``'s arguments."""

MAX_GPU_THREADS = 16
"""Beside a GPU the threads only undo Huffman coding; each also holds 16 MiB of device memory and
16 MiB of pinned memory (the decoder's default padding), so 64 cores are not all put to it."""


class DaliLoader(PlannedLoader):
    """Batches on the GPU (``dali``), or made on the CPU by the same graph (``dali-cpu``).

    ``prefetch`` batches are in work ahead of the consumer, and one more is being read and drawn by
    a thread, so that neither the disk nor the crc32 holds up the training loop.

    Pipelines are kept from one epoch to the next. Closing an epoch early waits for the batches in
    work (at most ``prefetch``), drops them and resets the pipeline; after a failure in DALI the
    pipeline is of no further use, and the next epoch builds a new one.

    Raises:
        UserError: From the constructor, where the device does not go with the back end.
        ShardError: From the constructor, where the shard set is missing or damaged; from an epoch,
            where a sample is damaged or does not decode, once the batches before it are consumed.
    """

    def __init__(self, config: LoaderConfig) -> None:
        self._graph_device: GraphDevice = "gpu" if config.backend == "dali" else "cpu"
        if self._graph_device == "gpu":
            check_cuda(config.device)
        super().__init__(config)
        self.name = config.backend
        self._device = torch.device(config.device)
        self._arrays = _stored_as_arrays(self._planned)
        self._idle: list[_Runner] = []

    def epoch(
        self, epoch: int, first_step: int = 0, image_size: int | None = None
    ) -> Generator[Batch]:
        """The batches of an epoch, in the order of the plan whatever runs ahead inside DALI."""
        side = self.side(image_size)
        batches = list(self._planned.plan.batches(epoch, first_step))
        # DALI has no empty batches; a rank's share of the last global batch can be one.
        runs = [batch for batch in batches if len(batch.ids)]
        fed: dict[int, PlannedBatch] = {}
        with self._runner(self._feeds(epoch, runs, fed, side)) as runner:
            for at, batch in enumerate(batches):
                if len(batch.ids):
                    ahead = batches[at : at + self._config.prefetch + 1]
                    with self._named_failure(ahead, fed):
                        images = runner.next_images()
                    batch = fed.pop(batch.step)
                else:
                    images = torch.empty((0, side, side, 3), dtype=torch.uint8)
                # Pageable, but too small for the copy to wait: the driver stages up to 64 kB.
                labels, ids = (
                    each.to(self._device, non_blocking=True)
                    for each in self._planned.labels_and_ids(batch)
                )
                yield Batch(images.permute(0, 3, 1, 2).to(self._device), labels, ids)

    def close(self) -> None:
        """Free the pipelines, release the shards."""
        self._idle.clear()
        gc.collect()  # a pipeline's graph refers to itself, and memory of the GPU cannot wait
        super().close()

    @contextmanager
    def _runner(self, feeds: Generator[Feed]) -> Iterator[_Runner]:
        """An idle pipeline or a new one, so that two epochs may be open at a time."""
        runner = (
            self._idle.pop()
            if self._idle
            else _Runner(self._config, self._graph_device, self._arrays)
        )
        runner.start(feeds)
        try:
            yield runner
        finally:
            if runner.stop():
                self._idle.append(runner)

    def _feeds(
        self, epoch: int, batches: Sequence[PlannedBatch], fed: dict[int, PlannedBatch], side: int
    ) -> Generator[Feed]:
        """What the graph reads, prepared one batch ahead by a thread.

        ``fed`` receives, by step, the batches with what stands in for damaged samples.
        """
        with closing(Threads(1, "hyphae-feed")) as pool:
            ready: Call[Feed] | None = None
            for batch in batches:
                following = pool.submit(self._feed, epoch, batch, fed, side)
                if ready is not None:
                    yield ready.result()
                ready = following
            if ready is not None:
                yield ready.result()

    def _feed(
        self, epoch: int, batch: PlannedBatch, fed: dict[int, PlannedBatch], side: int
    ) -> Feed:
        batch, payloads = self._read(epoch, batch)
        fed[batch.step] = batch
        transforms = self._planned.transforms(epoch, batch, side)
        start, shape = np.split(transforms.crops.astype(np.int32), 2, axis=1)
        arrays = {
            # Views of the memory map: DALI's threads read the page cache, nothing is copied.
            "payload": [
                view_array(payload) if self._arrays else np.frombuffer(payload, np.uint8)
                for payload in payloads
            ],
            "start": start,
            "shape": shape,
            "size": transforms.sizes.astype(np.float32),
            "window": transforms.windows.astype(np.int32),
            "side": np.full((len(batch.ids), 2), transforms.image_size, np.int32),
            "flip": transforms.flips.astype(np.int32),
        }
        if transforms.colors is not None:
            arrays |= dict(zip(COLOR_FACTORS, transforms.colors.T, strict=True))
        if transforms.erasures is not None:
            at, size = np.split(transforms.erasures.astype(np.float32), 2, axis=1)
            arrays |= {"erase_at": at, "erase_size": size}
        return [
            arrays[name] if name == "payload" else np.ascontiguousarray(arrays[name])
            for name in _inputs(self._config, self._arrays)
        ]

    def _read(self, epoch: int, batch: PlannedBatch) -> tuple[PlannedBatch, list[memoryview]]:
        """The stored bytes of a batch, and the batch with what stands in for damaged samples."""
        payload_of = self._planned.split.payload
        ids, payloads = batch.ids.copy(), []
        for at, sample in enumerate(batch.ids.tolist()):
            try:
                payload = payload_of(sample)
            except SampleError as error:
                ids[at], payload = self._bad.replace(
                    epoch, batch.first_position + at, sample, error,
                    lambda other, _: payload_of(other),
                )  # fmt: skip
            payloads.append(payload)
        return replace(batch, ids=ids), payloads

    @contextmanager
    def _named_failure(
        self, batches: Sequence[PlannedBatch], fed: dict[int, PlannedBatch]
    ) -> Iterator[None]:
        """DALI does not say which image it could not decode: find it among those in work."""
        try:
            yield
        except RuntimeError as error:
            if "decoders" not in str(error):
                raise
            split = self._planned.split
            in_work = [fed[batch.step].ids for batch in batches if batch.step in fed]
            for sample in np.concatenate(in_work).tolist():
                try:
                    decode(split, sample)
                except SampleError as named:
                    if not self._bad.skips:
                        raise
                    raise ShardError(
                        f"{named.message}; DALI skips damaged samples, but not one whose bytes are "
                        "as packed and do not decode: use --loader opencv"
                    ) from None
            reason = str(error).partition("encountered:")[2].split("Current pipeline")[0].strip()
            raise ShardError(
                f"DALI could not decode an image of step {batches[0].step} of {split.directory}, "
                f"split {split.name} ({reason}), though OpenCV's loader can; "
                "check the set with `python -m shards verify`, or use --loader opencv"
            ) from error


def define_graph(
    config: LoaderConfig,
    device: GraphDevice,
    source: Callable[[], Feed] | None = None,
    *,
    arrays: bool = False,
) -> Any:
    """A pipeline with the graph in it, checked for types and devices but not built.

    Building needs a GPU where ``device`` is ``gpu``; defining does not.

    Args:
        config: Batch size, threads, prefetch, and which operators the graph has.
        device: Where it will run.
        source: Called for each batch; raises StopIteration at the end of an epoch.
        arrays: Whether images come as arrays, not as JPEGs.
    """
    pipeline = empty_pipeline(config, device)
    with pipeline:
        pipeline.set_outputs(graph(config, device, source, arrays))
    return pipeline


def empty_pipeline(config: LoaderConfig, device: GraphDevice, seed: int | None = None) -> Any:
    """A pipeline without a graph; ``seed`` is for graphs that draw at random."""
    on_gpu = device == "gpu"
    cores = allowed_cores()
    return dali.Pipeline(
        batch_size=-(-config.batch_size // config.world_size),
        num_threads=config.threads or (min(cores, MAX_GPU_THREADS) if on_gpu else cores),
        # None: no GPU at all for the CPU graph, torch's current one for plain "cuda".
        device_id=torch.device(config.device).index if on_gpu else None,
        seed=seed,
        prefetch_queue_depth=config.prefetch,
        # The executor that allocates each output anew and hands it over: without it the buffers
        # are used again, and a batch that the caller keeps would change.
        exec_dynamic=True,
    )


def graph(
    config: LoaderConfig,
    device: GraphDevice,
    source: Callable[[], Feed] | None,
    arrays: bool = False,
) -> Any:
    """Bytes -> ``(B, S, S, 3)`` uint8; sizes come with the data, so any size runs through it."""
    inputs = _inputs(config, arrays)
    nodes = fn.external_source(
        source=source or _no_data,
        num_outputs=len(inputs),
        dtype=[dtype for dtype, _ in inputs.values()],
        ndim=[ndim for _, ndim in inputs.values()],
        layout=["HWC" if ndim == 3 else "" for _, ndim in inputs.values()],
        no_copy=True,  # DALI holds a reference to each array until the batch is done
    )
    data = dict(zip(inputs, nodes, strict=True))
    images = _regions(data, config, device, arrays)
    images = fn.resize(
        images,
        size=data["size"],
        interp_type=types.INTERP_LINEAR,
        antialias=config.resample == "antialias",
        device=device,
    )
    if "window" in data:
        images = fn.slice(
            images, start=data["window"], shape=data["side"], axis_names="HW", device=device
        )
    if "hue" in data:
        images = fn.color_twist(
            images,
            brightness=data["brightness"],
            contrast=data["contrast"],
            saturation=data["saturation"],
            hue=data["hue"],
            device=device,
        )
    if "flip" in data:
        images = fn.flip(images, horizontal=data["flip"], vertical=0, device=device)
    if "erase_at" in data:
        images = fn.erase(
            images,
            anchor=data["erase_at"],
            shape=data["erase_size"],
            axis_names="HW",
            fill_value=ERASE_FILL,
            device=device,
        )
    return images


def _regions(data: dict[str, Any], config: LoaderConfig, device: GraphDevice, arrays: bool) -> Any:
    """The part of each image that is used; of a JPEG, only that part is decoded."""
    if arrays:
        pixels = data["payload"].gpu() if device == "gpu" else data["payload"]
        return fn.slice(
            pixels, start=data["start"], shape=data["shape"], axis_names="HW", device=device
        )
    return fn.decoders.image_slice(
        data["payload"],
        start=data["start"],
        shape=data["shape"],
        axis_names="HW",
        output_type=types.RGB,
        adjust_orientation=False,  # packing did; the sizes that the crops are drawn from say so
        jpeg_fancy_upsampling=True,  # chroma as libjpeg's, so that pixels equal PIL's and OpenCV's
        hw_decoder_load=config.hw_decoder_load,
        device="mixed" if device == "gpu" else "cpu",
    )


def _inputs(config: LoaderConfig, arrays: bool) -> dict[str, tuple[Any, int]]:
    """Name -> type and dimensions (without the batch) of what the graph of a config reads."""
    inputs = {
        "payload": (types.UINT8, 3 if arrays else 1),
        "start": (types.INT32, 1),
        "shape": (types.INT32, 1),
        "size": (types.FLOAT, 1),
    }
    if config.augment is None:
        return inputs | {"window": (types.INT32, 1), "side": (types.INT32, 1)}
    if config.augment.has_color:
        inputs |= dict.fromkeys(COLOR_FACTORS, (types.FLOAT, 0))
    if config.augment.hflip_prob > 0:
        inputs |= {"flip": (types.INT32, 0)}
    if config.augment.erase_prob > 0:
        inputs |= {"erase_at": (types.FLOAT, 1), "erase_size": (types.FLOAT, 1)}
    return inputs


class _Runner:
    """A pipeline and the source that it pulls from, good for one epoch after another."""

    def __init__(self, config: LoaderConfig, device: GraphDevice, arrays: bool) -> None:
        self._feeds: Generator[Feed] | None = None
        self._source_error: Exception | None = None
        self._usable = True
        self._pipeline = define_graph(config, device, self._next_feed, arrays=arrays)
        self._pipeline.build()

    def start(self, feeds: Generator[Feed]) -> None:
        """Begin an epoch: the first call fills the queue."""
        self._feeds, self._source_error = feeds, None
        self._pipeline.schedule_run()

    def next_images(self) -> torch.Tensor:
        """``(B, S, S, 3)``, owned by the caller.

        Order of streams: ``share_outputs`` without a stream waits on the host until this batch is
        done (the later ones run on), and ``from_dlpack`` passes torch's current stream to
        DALI's ``__dlpack__``, which would add the wait if one were missing. When torch frees the
        tensor, DALI keeps its memory until the device has finished all work issued until then,
        so a kernel that still reads it is safe. DALI's own PyTorch iterator does the same.
        """
        try:
            (output,) = self._pipeline.share_outputs()
        except StopIteration:  # within an epoch this means that the source failed
            assert self._source_error is not None
            raise self._source_error from None
        except RuntimeError:
            self._usable = False
            raise
        images = from_dlpack(output.as_tensor())
        self._advance()
        return images

    def stop(self) -> bool:
        """End the epoch, wherever it is; True if the pipeline can run another one."""
        if sys.is_finalizing():  # DALI has ended its pipelines before the interpreter gets here
            return False
        if self._feeds is not None:
            self._feeds.close()  # what it has begun ends, and it yields no more
        try:
            while self._usable:
                self._pipeline.share_outputs()
                self._advance()
        except StopIteration:
            self._pipeline.reset()
        except RuntimeError:  # an image that nobody asked for did not decode
            self._usable = False
        return self._usable

    def _advance(self) -> None:
        self._pipeline.release_outputs()
        self._pipeline.schedule_run()

    def _next_feed(self) -> Feed:
        """Called by DALI in the consumer's thread; a failure waits for its turn in the order."""
        assert self._feeds is not None
        try:
            return next(self._feeds)
        except StopIteration:
            raise
        except Exception as error:
            self._source_error = error
            raise StopIteration from None


def _stored_as_arrays(planned: PlannedSplit) -> bool:
    """Whether all images are arrays; a mixture is refused, as one DALI node has one kind of input.

    Both kinds could run through two branches of the graph on part of the batch each; that doubles
    the graph for a form of which the CPU back end makes better use.
    """
    share = planned.split.manifest.options.get("raw_share", 0.0)
    if 0 < share < 1:
        raise UserError(
            f"{planned.split.directory} mixes JPEGs and arrays (--store mix), which DALI cannot "
            "take in one batch; use --loader opencv, or pack with --store jpeg or raw"
        )
    return bool(share)


def _no_data() -> Feed:
    raise StopIteration


def check_cuda(device: str) -> None:
    """Refuse a device on which DALI cannot decode."""
    if torch.device(device).type != "cuda":
        raise UserError(
            f"loader dali decodes on a CUDA device, but the device is {device}; "
            "use --loader opencv, or dali-cpu"
        )
    if not torch.cuda.is_available():
        raise UserError(
            f"device {device} is not available to torch; `python -m bench doctor` says why. "
            "--loader opencv --device cpu works without a GPU"
        )
