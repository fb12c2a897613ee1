"""``python -m loaders.preview`` shows what training sees, and says what it was given wrongly."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from loaders.augment import AugmentConfig
from loaders.config import LoaderConfig
from loaders.preview import CAPTION_PX, GAP_PX, augmented, changed, main, stored_photographs
from shards.errors import UserError

SIDE = 32
ROW = CAPTION_PX + GAP_PX + SIDE


def preview(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def config_of(shards: Path, augment: AugmentConfig) -> LoaderConfig:
    return LoaderConfig(
        shards=shards, batch_size=4, shuffle=False, sampling="natural", image_size=SIDE,
        augment=augment, threads=1,
    )  # fmt: skip


def read(file: Path) -> np.ndarray:
    picture = cv2.imread(str(file))
    assert picture is not None
    return picture


@pytest.mark.parametrize("name", ["picture.jpg", "new folder/picture.png"])
def test_the_picture_has_a_column_a_photograph_and_a_row_a_version(
    tiny_shards: Path, tmp_path: Path, name: str
) -> None:
    done = preview(
        tiny_shards, "--out", tmp_path / name, "--images", 5, "--versions", 2, "--image-size", SIDE
    )
    assert done.exit_code == 0, done.output
    assert read(tmp_path / name).shape == (7 * ROW, 5 * (GAP_PX + SIDE), 3)
    assert f"5 photographs, 2 versions each: {tmp_path / name}" in done.output
    for way in ("hyphae antialias", "hyphae linear", "torchvision"):
        assert f"\n{way}" in f"\n{done.output}"


def test_a_set_smaller_than_the_picture_is_shown_whole(tiny_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    done = preview(tiny_shards, "--out", out, "--images", 32, "--versions", 1, "--image-size", 16)
    assert done.exit_code == 0, done.output
    assert "24 photographs" in done.output


def test_without_a_set_it_draws_mushrooms(tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    done = preview("--out", out, "--images", 2, "--versions", 1, "--image-size", SIDE)
    assert done.exit_code == 0, done.output
    assert read(out).std() > 20


def test_strengths_can_be_set(tiny_shards: Path) -> None:
    augment = changed(AugmentConfig(), ["grayscale_prob=1", "crop_scale=0.5,1"])
    assert augment.crop_scale == (0.5, 1)
    (grey,) = augmented(config_of(tiny_shards, augment), "opencv", 1, "linear")
    assert np.ptp(grey.astype(int), axis=-1).max() <= 1


def test_mixing_shows_in_ours(tiny_shards: Path) -> None:
    plain = config_of(tiny_shards, AugmentConfig())
    mixed = config_of(tiny_shards, AugmentConfig(mixup_prob=1, mixup_alpha=20))
    (alone,) = augmented(plain, "opencv", 1, "linear")
    (blended,) = augmented(mixed, "opencv", 1, "linear")
    neighbours = alone[[1, 0, 3, 2]].astype(float)
    # Beta(20, 20) lies near one half.
    assert np.abs(blended - (alone + neighbours) / 2).mean() < np.abs(blended - alone).mean()


def test_stored_photographs_are_shown_whole_on_paper(tiny_shards: Path) -> None:
    tiles = stored_photographs(config_of(tiny_shards, AugmentConfig()))
    assert tiles.shape == (4, SIDE, SIDE, 3)
    assert (tiles == 255).all(axis=-1).any(axis=(1, 2)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("hue", "--set hue expects a number, got ''"),
        ("hue=much", "--set hue expects a number, got 'much'"),
        ("hue=0.1,0.2", "--set hue expects a number, got '0.1,0.2'"),
        ("crop_scale=0.5", "--set crop_scale expects two numbers, LOW,HIGH, got '0.5'"),
        ("hue=0.6", r"--set: hue must lie in \[0, 0.5\], got 0.6"),
        ("erase_probe=1", "unknown augmentation 'erase_probe'; did you mean 'erase_prob'?"),
    ],
)
def test_a_strength_that_makes_no_sense_is_refused(change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed(AugmentConfig(), [change])


def test_mistakes_end_in_one_line(tiny_shards: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((tiny_shards, "--out", tmp_path / "a.gif"), "must end with one of .jpg, .jpeg, .png"),
        ((tmp_path / "nowhere", "--out", tmp_path / "a.jpg"), "nowhere"),
        ((tiny_shards, "--out", Path(__file__).with_name("a.jpg")), "lies inside the code folder"),
    ):
        done = preview(*arguments)
        assert done.exit_code == 2
        assert message in done.output
        assert len(done.output.strip().splitlines()) == 1


def test_the_command_runs_and_its_help_names_every_strength(run_command) -> None:
    done = run_command("loaders.preview", "--help")
    assert done.returncode == 0, done.stderr
    page = " ".join(done.stdout.split())
    for name in AugmentConfig.__dataclass_fields__:
        assert name in page
