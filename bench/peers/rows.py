"""The rows of ``bench peers``: which loader, run how, and what is not as in the others."""

from __future__ import annotations

from dataclasses import dataclass

from loaders.augment import AugmentConfig
from loaders.config import Resample

COLOR = AugmentConfig()
PLAIN = AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """The ``opencv`` loader, in one of its settings."""

    name: str
    resample: Resample
    augment: AugmentConfig
    differs: str
    raw: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another project's loader."""

    name: str
    module: str
    """Of :mod:`bench.peers.scripts`."""
    environment: str | None
    """A name of :data:`~bench.peers.environments.ENVIRONMENTS`; None is the one at hand."""
    differs: str
    shows: tuple[str, ...] = ()
    """Packages whose versions stand behind it."""
    store: str = "jpeg"
    originals: bool = False


OWN = (
    Own(
        name="hyphae, colour",
        resample="linear",
        augment=COLOR,
        differs="threads; linear; colour as one matrix",
    ),
    Own(
        name="hyphae, colour, antialias",
        resample="antialias",
        augment=COLOR,
        differs="threads; antialiased; colour as one matrix",
    ),
    Own(name="hyphae, no colour", resample="linear", augment=PLAIN, differs="threads; linear"),
    Own(
        name="hyphae raw, colour",
        resample="linear",
        augment=COLOR,
        differs="threads; linear; colour as one matrix; stored pixels",
        raw=True,
    ),
    Own(
        name="hyphae raw, no colour",
        resample="linear",
        augment=PLAIN,
        differs="threads; linear; stored pixels",
        raw=True,
    ),
)

TRANSFORMS = "workers; torchvision's transforms, antialiased"
PEERS = (
    Peer(
        name="torchvision, original files",
        module="with_torchvision",
        environment="torchvision",
        differs=f"{TRANSFORMS}; the files as photographed",
        shows=("pillow",),
        originals=True,
    ),
    Peer(
        name="torchvision, original files, PIL of here",
        module="with_torchvision",
        environment=None,
        differs=f"{TRANSFORMS}; the files as photographed",
        shows=("pillow",),
        originals=True,
    ),
    Peer(
        name="webdataset, colour",
        module="with_webdataset",
        environment="webdataset",
        differs=f"{TRANSFORMS}; our shards in sequence",
        shows=("webdataset", "pillow"),
    ),
    Peer(
        name="litdata, colour",
        module="with_litdata",
        environment="litdata",
        differs=f"{TRANSFORMS}, on tensors; the same JPEGs in its chunks",
        shows=("litdata",),
    ),
    Peer(
        name="streaming, colour",
        module="with_streaming",
        environment="streaming",
        differs=f"{TRANSFORMS}; the same JPEGs in its shards",
        shows=("mosaicml-streaming", "pillow"),
    ),
    Peer(
        name="ffcv jpeg, no colour",
        module="with_ffcv",
        environment="ffcv",
        differs="threads; area; JPEGs encoded anew by its writer, fast DCT",
        shows=("ffcv",),
    ),
    Peer(
        name="ffcv raw, no colour",
        module="with_ffcv",
        environment="ffcv",
        differs="threads; area; stored pixels",
        shows=("ffcv",),
        store="raw",
    ),
    Peer(
        name="spdl, no colour",
        module="with_spdl",
        environment="spdl",
        differs="threads; FFmpeg decodes and resizes; the same JPEGs as files",
        shows=("spdl",),
    ),
)


def note_of(peer: Peer, versions: dict[str, str]) -> str:
    """What differs, and the versions that it depends on."""
    shown = [f"{_title(name, versions[name])}" for name in peer.shows if name in versions]
    return "; ".join([peer.differs, *shown])


def _title(name: str, version: str) -> str:
    if name == "pillow":
        name = "Pillow-SIMD" if ".post" in version else "Pillow"
    return f"{name} {version}"
