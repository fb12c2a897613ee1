"""Prediction sees what evaluation sees, answers as narrowly as it is sure, and survives any file."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from shards.reader import ShardSet
from train.checkpoints.checkpoint import BEST, load_checkpoint
from train.inference.answers import Answering
from train.inference.photos import find_photos
from train.inference.prediction import open_predictor
from train.inference.trained import open_trained
from train.predict import main
from train.scores.danger import NOTICE
from train.scores.species import taxonomy_of

TEST = "test"


@pytest.fixture
def answered(finished_run: Path, command_line: Any) -> Any:
    """``answered(photos...)``: rows of CSV, what was said beside them, exit code."""

    def call(*args: Any, code: int = 0) -> tuple[list[dict[str, str]], str]:
        ended = command_line(main, finished_run, *args, "--format", "csv")
        assert ended.code == code, ended.err
        return list(csv.DictReader(io.StringIO(ended.out))), ended.err

    return call


def test_photographs_get_the_very_probabilities_that_evaluation_gives(
    finished_run: Path, tiny_shards: Path, tiny_dataset: Path
) -> None:
    with open_trained(finished_run) as trained:
        _, outputs = trained.evaluate(TEST)
        temperature = trained.temperature()
    with ShardSet(tiny_shards).split(TEST) as split:
        paths = [
            tiny_dataset / "merged_dataset" / split.metadata(int(sample))["path"]
            for sample in outputs.ids
        ]
    predictor = open_predictor(finished_run)
    assert predictor.temperature == temperature
    found = torch.cat([each for _, each in predictor.probabilities(paths)])
    assert torch.equal(found, outputs.probabilities(temperature))


def test_a_run_keeps_the_temperature_of_its_best_epoch(finished_run: Path) -> None:
    saved = load_checkpoint(finished_run / BEST)
    assert 0.05 <= saved.progress.temperature <= 20
    assert saved.shards.packing is not None
    assert saved.shards.packing.short_side == 96


def test_answers_come_in_the_order_of_the_files_whatever_the_batch(
    answered: Any, tiny_dataset: Path
) -> None:
    folder = tiny_dataset / "merged_dataset" / "Amanita muscaria"
    rows, said = answered(folder)
    assert [row["path"] for row in rows] == [str(each) for each in sorted(folder.iterdir())]
    one_by_one, _ = answered(folder, "--batch-size", 1)
    for row, other in zip(rows, one_by_one, strict=True):
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=1e-4)
    assert said.splitlines()[-1] == NOTICE
    assert said.splitlines()[-2].startswith(f"{len(rows)} photographs in ")


def awkward_files(folder: Path, photo: Any, jpeg: Any, rng: np.random.Generator) -> dict[str, str]:
    """Files as the packing matrix has them, and the reason for each that is none."""
    folder.mkdir()
    pixels = photo(rng, 120, 100)
    image, good = Image.fromarray(pixels), jpeg(pixels)
    for name, mode in (("grey.jpg", "L"), ("inks.jpg", "CMYK"), ("palette.png", "P"),
                       ("alpha.png", "RGBA"), ("two.png", "1")):  # fmt: skip
        image.convert(mode).save(folder / name)
    image.save(folder / "progressive.jpg", progressive=True)
    image.save(folder / "a gif called.jpg", format="GIF")
    (folder / "web.webp").write_bytes(cv2.imencode(".webp", pixels)[1].tobytes())
    image.save(folder / "map.bmp")
    image.save(folder / "scan.tif")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    Image.fromarray(pixels[:1, :1]).save(folder / "one pixel.png")
    Image.fromarray(np.repeat(pixels[:1], 2, 0)).save(folder / "flat.png")
    (folder / "line\nbreak \U0001f344.jpg").write_bytes(good)
    (folder / os.fsdecode(b"not utf8 \xff.jpg")).write_bytes(good)
    bad = {
        "empty.jpg": (b"", "empty file"),
        "page.jpg": (b"<html>", "not an image"),
        "cut.jpg": (good[: len(good) // 2], "damaged JPEG"),
        "early end.jpg": (good[:-200] + b"\xff\xd9", "damaged JPEG"),
    }
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    (folder / "broken link.jpg").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.jpg")
    return {name: reason for name, (_, reason) in bad.items()} | {
        "broken link.jpg": "No such file or directory",
        "pipe.jpg": "not a regular file",
    }


def test_any_image_is_answered_and_anything_else_is_skipped_with_the_reason(
    answered: Any, tmp_path: Path, photo: Any, jpeg: Any, rng: np.random.Generator
) -> None:
    folder = tmp_path / "photos"
    bad = awkward_files(folder, photo, jpeg, rng)
    rows, said = answered(folder)
    assert len(rows) == 16
    for name, reason in bad.items():
        assert f"skipped {folder / name}: {reason}" in said
    assert said.count("skipped ") == len(bad)
    assert f"img/s), {len(bad)} skipped" in said
    for row in rows:
        assert 0 < float(row["probability_1"]) <= 1


def test_an_upright_photograph_and_its_turned_copy_get_one_answer(
    answered: Any, tmp_path: Path, photo: Any, rng: np.random.Generator
) -> None:
    image = Image.fromarray(photo(rng, 200, 150))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    image.rotate(-90, expand=True).save(tmp_path / "upright.png")
    rows, _ = answered(tmp_path / "turned.png", tmp_path / "upright.png")
    assert rows[0]["probability"] == rows[1]["probability"]


def test_a_list_of_files_comes_from_standard_input(
    answered: Any, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = list(find_photos([tiny_dataset / "merged_dataset"]))[:3]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{each}\n" for each in paths) + "\n"))
    rows, _ = answered("-")
    assert [row["path"] for row in rows] == [str(each) for each in paths]


def test_folders_are_searched_for_photographs_and_hidden_ones_left_out(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.jpeg", "notes.txt", ".hidden/1.jpg", "b/.x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [each.relative_to(tmp_path).as_posix() for each in find_photos([tmp_path])]
    assert found == ["a.jpeg", "b/1.png", "b/2.JPG"]
    assert list(find_photos([tmp_path / "notes.txt"])) == [tmp_path / "notes.txt"]


def test_json_lines_and_the_table_say_the_same(
    finished_run: Path, command_line: Any, tiny_dataset: Path, tmp_path: Path
) -> None:
    photo = next(find_photos([tiny_dataset / "merged_dataset"]))
    out = tmp_path / "answers.jsonl"
    args = (finished_run, photo, "--sure", "0", "--top", "2")
    assert command_line(main, *args, "--format", "jsonl", "--out", out).code == 0
    (answer,) = map(json.loads, out.read_text().splitlines())
    assert answer["path"] == str(photo)
    assert answer["rank"] == "species"
    assert answer["top"][0]["species"] == answer["answer"]
    assert len(answer["top"]) == 2
    table = command_line(main, *args).out
    assert table.startswith(f"{photo}: {answer['answer']} {answer['probability']:.0%}; else ")
    assert table.endswith(f"poisonous or deadly: {answer['dangerous']:.1%}\n")


def test_a_name_with_a_line_break_stays_in_its_line(
    finished_run: Path, command_line: Any, tiny_dataset: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "new\nline.jpg"
    odd.write_bytes(next(find_photos([tiny_dataset / "merged_dataset"])).read_bytes())
    (tmp_path / "bad\n.jpg").touch()
    ended = command_line(main, finished_run, tmp_path)
    (line,) = ended.out.splitlines()
    assert line.startswith(f"{tmp_path}/new\\nline.jpg: ")
    assert f"skipped {tmp_path}/bad\\n.jpg: empty file\n" in ended.err


@pytest.mark.parametrize(
    ("probabilities", "name", "rank", "probability"),
    [
        ((0.6, 0.3, 0.1, 0, 0, 0), "A alba", "species", 0.6),
        ((0.4, 0.3, 0.2, 0.1, 0, 0), "A", "genus", 0.7),
        ((0.3, 0.19, 0.21, 0.3, 0, 0), "Aaceae", "family", 0.7),
        ((0.2, 0.1, 0.1, 0.2, 0.2, 0.2), "", "unsure", 0.2),
    ],
)
def test_where_the_species_is_unsure_the_genus_or_family_is_the_answer(
    tree: Path, tree_names: tuple[str, ...],
    probabilities: tuple[float, ...], name: str, rank: str, probability: float,
) -> None:  # fmt: skip
    answering = Answering(taxonomy_of(tree_names, tree), sure=0.5, top=3)
    (answer,) = answering.answers(torch.tensor([probabilities], dtype=torch.float64))
    assert (answer.name, answer.rank) == (name, rank)
    assert answer.probability == pytest.approx(probability)
    assert answer.dangerous == pytest.approx(probabilities[1] + probabilities[2])
    assert len(answer.top) == 3


def test_without_a_known_danger_nothing_is_said_about_it() -> None:
    answering = Answering(taxonomy_of(["Bluebell", "Crocus"]), sure=0.5, top=5)
    (answer,) = answering.answers(torch.tensor([[0.9, 0.1]], dtype=torch.float64))
    assert not answering.warns
    assert answer.dangerous is None
    assert len(answer.top) == 2


def test_no_photograph_and_only_bad_ones_are_told_apart(answered: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _, said = answered(tmp_path / "empty", code=2)
    assert said == f"error: no photograph in {tmp_path / 'empty'}\n"
    _, said = answered(tmp_path / "none.jpg", code=1)
    assert said == (
        f"skipped {tmp_path / 'none.jpg'}: No such file or directory\n"
        "error: none of 1 photograph could be read\n"
    )


def test_a_page_shows_every_answer_with_what_the_model_saw_and_names_as_text(
    answered: Any, tiny_dataset: Path, tmp_path: Path
) -> None:
    photo = next(find_photos([tiny_dataset / "merged_dataset"]))
    hostile = tmp_path / "<script>alert(1)<"
    hostile.mkdir()
    (hostile / "a.jpg").write_bytes(photo.read_bytes())
    rows, _ = answered(photo, hostile, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == len(rows) == 2
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert "<script>alert" not in page
    assert NOTICE in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_overlays_are_written_beside_the_answers_and_shown_on_the_page(
    answered: Any, tiny_dataset: Path, tmp_path: Path
) -> None:
    photos = list(find_photos([tiny_dataset / "merged_dataset"]))[:2]
    (tmp_path / "bad.jpg").touch()
    folder = tmp_path / "looked"
    rows, _ = answered(
        photos[0], tmp_path / "bad.jpg", photos[1],
        "--explain", folder, "--html", tmp_path / "page.html",
    )  # fmt: skip
    assert len(rows) == 2
    names = sorted(each.name for each in folder.iterdir())
    assert names == [
        f"0000{at}-{photo.stem.replace(' ', '_')}.jpg" for at, photo in enumerate(photos, 1)
    ]
    for name in names:
        assert simplejpeg.decode_jpeg((folder / name).read_bytes()).shape == (32, 32, 3)
    page = (tmp_path / "page.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 4
    assert "where the model looked for the most probable species (Grad-CAM)" in page


def test_overlays_change_no_answer(answered: Any, tiny_dataset: Path, tmp_path: Path) -> None:
    folder = tiny_dataset / "merged_dataset" / "Boletus edulis"
    plain, _ = answered(folder)
    explained, _ = answered(folder, "--explain", tmp_path / "looked")
    assert plain == explained


def test_a_folder_for_overlays_that_cannot_be_made_is_refused(
    finished_run: Path, command_line: Any, tiny_dataset: Path, tmp_path: Path
) -> None:
    ended = command_line(main, finished_run, tiny_dataset, "--explain", tmp_path / "no" / "folder")
    assert (ended.code, ended.out) == (2, "")
    assert (
        ended.err == f"error: --explain {tmp_path / 'no' / 'folder'}: no folder {tmp_path / 'no'}\n"
    )
