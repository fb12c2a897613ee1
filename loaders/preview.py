"""``python -m loaders.preview``: a picture of augmented training photographs, to judge by eye."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import cv2
import numpy as np
import numpy.typing as npt

from loaders.augment import AugmentConfig
from loaders.config import Backend, LoaderConfig, Resample
from loaders.factory import create_loader
from loaders.mixing import draw_mixing, mix
from loaders.opencv import decode
from preprocess.demo_data import draw_demo_data
from preprocess.discover import read_catalog
from preprocess.image import ImageOptions
from preprocess.pack import pack
from shards.commands import HELP, run
from shards.errors import UserError, unknown_name
from shards.reader import ShardSet
from shards.settings import refuse_code_folder
from shards.writer import write_file

Pixels = npt.NDArray[np.uint8]

SUFFIXES = (".jpg", ".jpeg", ".png")
GAP_PX, CAPTION_PX = 4, 20
PAPER, INK = 255, (0, 0, 0)
QUALITY = 85
DEMO_PHOTOS_A_FILE = 6
"""Demo photographs, at least, for each training file of the largest class."""

BASELINE = ", ".join(
    f"{name}={','.join(f'{each:g}' for each in np.atleast_1d(value))}"
    for name, value in asdict(AugmentConfig()).items()
)


@click.command(context_settings=HELP)
@click.argument("shards", type=click.Path(path_type=Path), required=False)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The picture, .jpg or .png."
)
@click.option("--images", type=click.IntRange(1, 32), default=6, help="Photographs, a column each.")
@click.option(
    "--versions",
    type=click.IntRange(1, 32),
    default=2,
    help="Rows of each way: of epochs 0, 1, ...",
)
@click.option(
    "--image-size", type=click.IntRange(16, 384), default=128, help="Side of a crop [px]."
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Of the augmentation.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help=f"Another strength than the baseline's ({BASELINE}).  [repeatable]",
)
def main(
    shards: Path | None,
    out: Path,
    images: int,
    versions: int,
    image_size: int,
    seed: int,
    changes: tuple[str, ...],
) -> None:
    """Draw training photographs of SHARDS, augmented by hyphae and by torchvision.

    The first row shows the photographs as they are stored; then come the versions that training
    sees, antialiased and linear, mixed with one another where MixUp or CutMix are set, and those of
    torchvision's own transforms at the same strengths. Mean, standard deviation and the share of
    clamped values are printed for each. Without SHARDS, it draws mushrooms of its own.
    """
    augment = changed(AugmentConfig(), changes)
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out {out} must end with one of {', '.join(SUFFIXES)}")
    refuse_code_folder(out, "--out")
    with drawn_shards(images) if shards is None else nullcontext(shards) as directory:
        with ShardSet(directory).split("train") as split:
            images = min(images, len(split))
        config = LoaderConfig(
            shards=directory,
            batch_size=images,
            shuffle=False,  # the same photographs in each epoch
            sampling="natural",
            seed=seed,
            image_size=image_size,
            augment=augment,
            threads=1,
            prefetch=1,
        )
        ways = {
            "hyphae antialias": augmented(config, "opencv", versions, "antialias"),
            "hyphae linear": augmented(config, "opencv", versions, "linear"),
            "torchvision": augmented(config, "torchvision", versions, "antialias"),
        }
        picture = grid({"stored": [stored_photographs(config)]} | ways)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, encode(picture, out.suffix))
    for name, each in ways.items():
        click.echo(f"{name:16} {statistics(each)}")
    click.echo(f"{images} photographs, {versions} versions each: {out}")


def changed(augment: AugmentConfig, changes: Sequence[str]) -> AugmentConfig:
    """Some strengths replaced, each given as ``name=value`` or ``name=low,high``.

    Raises:
        UserError: An unknown name, or a value that is no number or out of its range.
    """
    known = asdict(augment)
    values: dict[str, float | tuple[float, ...]] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in known:
            raise UserError(unknown_name("augmentation", name, known))
        is_range = isinstance(known[name], tuple)
        try:
            numbers = tuple(float(each) for each in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != (2 if is_range else 1):
            expected = "two numbers, LOW,HIGH" if is_range else "a number"
            raise UserError(f"--set {name} expects {expected}, got {text!r}")
        values[name] = numbers if is_range else numbers[0]
    try:
        return AugmentConfig(**known | values)
    except ValueError as error:
        raise UserError(f"--set: {error}") from None


@contextmanager
def drawn_shards(images: int) -> Iterator[Path]:
    """A shard set of at least so many drawn training photographs, for as long as it is needed."""
    with TemporaryDirectory(prefix="hyphae-preview-") as folder:
        data, out = Path(folder, "photographs"), Path(folder, "shards")
        draw_demo_data(data, train_files=-(-images // DEMO_PHOTOS_A_FILE), eval_files=1)
        with ThreadPoolExecutor(1) as executor:
            pack(read_catalog(data), out, ImageOptions(), executor)
        yield out


def stored_photographs(config: LoaderConfig) -> Pixels:
    """``(B, S, S, 3)`` the first of the split, whole, on paper."""
    side = config.image_size
    tiles = np.full((config.batch_size, side, side, 3), PAPER, np.uint8)
    with ShardSet(config.shards).split(config.split) as split:
        for sample, tile in enumerate(tiles):
            photo = decode(split, sample)
            scale = side / max(photo.shape[:2])
            height, width = (max(1, round(scale * each)) for each in photo.shape[:2])
            top, left = (side - height) // 2, (side - width) // 2
            tile[top : top + height, left : left + width] = cv2.resize(
                photo, (width, height), interpolation=cv2.INTER_AREA
            )
    return tiles


def augmented(
    config: LoaderConfig, backend: Backend, versions: int, resample: Resample
) -> list[Pixels]:
    """``(B, S, S, 3)`` of the first batch of each epoch; ours are mixed as in training."""
    config = replace(config, backend=backend, resample=resample)
    assert config.augment is not None
    found = []
    with closing(create_loader(config)) as loader:
        for epoch in range(versions):
            with closing(loader.epoch(epoch)) as batches:
                batch = next(batches)
            images = batch.images
            mixing = draw_mixing(
                config.augment,
                seed=config.seed,
                epoch=epoch,
                first_position=0,
                count=len(batch),
                image_size=config.image_size,
            )
            if mixing is not None and backend == "opencv":
                images = mix(images, batch.labels, mixing).images
            found.append(images.permute(0, 2, 3, 1).numpy())
    return found


def grid(rows: dict[str, list[Pixels]]) -> Pixels:
    """All rows below one another, each under its name."""
    return np.concatenate([_row(name, tiles) for name, each in rows.items() for tiles in each])


def encode(image: Pixels, suffix: str) -> bytes:
    """RGB as the file type of that suffix."""
    _, encoded = cv2.imencode(suffix.lower(), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return encoded.tobytes()


def statistics(versions: Sequence[Pixels]) -> str:
    """Mean and standard deviation of R, G and B [of 255], and the share of values 0 or 255."""
    pixels = np.stack(versions).reshape(-1, 3)
    mean, spread = (
        " ".join(f"{each:5.1f}" for each in values) for values in (pixels.mean(0), pixels.std(0))
    )
    clamped = np.isin(pixels, (0, 255)).mean()
    return f"RGB mean {mean}   standard deviation {spread}   clamped {clamped:.1%}"


def _row(name: str, tiles: Pixels) -> Pixels:
    gap = ((GAP_PX, 0), (GAP_PX, 0), (0, 0))
    row = np.hstack([np.pad(tile, gap, constant_values=PAPER) for tile in tiles])
    caption = np.full((CAPTION_PX, row.shape[1], 3), PAPER, np.uint8)
    cv2.putText(caption, name, (GAP_PX, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
    return np.concatenate([caption, row])


if __name__ == "__main__":
    run(main, "python -m loaders.preview")
