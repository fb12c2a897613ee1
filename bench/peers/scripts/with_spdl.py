"""SPDL: a pipeline of threads over files; FFmpeg decodes, crops, resizes and mirrors."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import spdl.io
from spdl.dataloader import DataLoader

from bench.peers.scripts.random_crop import random_crop


def open_loader(settings: dict[str, Any]) -> Callable[[int], Iterator[int]]:
    """The random crop of each image is an FFmpeg filter of its own."""
    files, size = settings["files"], settings["image_size"]
    scale, ratio = settings["crop_scale"], settings["crop_ratio"]

    def decode(file: str) -> Any:
        packets = spdl.io.demux_image(file)
        codec = packets.codec
        left, top, width, height = random_crop(codec.width, codec.height, scale, ratio)
        steps = f"crop={width}:{height}:{left}:{top},scale={size}:{size}:flags=bilinear"
        if random.random() < settings["hflip_prob"]:
            steps += ",hflip"
        return spdl.io.decode_packets(packets, filter_desc=f"{steps},format=pix_fmts=rgb24")

    def collate(frames: list[Any]) -> Any:
        return spdl.io.to_torch(spdl.io.convert_frames(frames))

    collate([decode(files[0])])  # now, as the pipeline leaves out what fails and goes on

    def epochs(epoch: int) -> Iterator[int]:
        loader = DataLoader(
            random.Random(epoch).choices(files, k=settings["epoch_images"]),
            preprocessor=decode,
            batch_size=settings["batch_size"],
            drop_last=True,
            aggregator=collate,
            num_threads=settings["workers"],
        )
        for images in loader:
            yield len(images)

    return epochs
