"""Evaluation repeats the test row of a run, covers a split once, and refuses what does not fit."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import train.scores.published
from loaders.batch import Batch
from shards.errors import JobError
from shards.format import MANIFEST_NAME, Manifest
from train.checkpoints.checkpoint import BEST, LAST, load_checkpoint, model_from_checkpoint
from train.config.resolve import resolve
from train.evaluate import main
from train.method.batches import eval_loader
from train.runs.interrupt import Stopped
from train.runs.log import LOG, METRICS, SUMMARY
from train.scores.evaluation import evaluate, published_lines


def log_line(folder: Path, start: str) -> str:
    lines = (folder / LOG).read_text().splitlines()
    return next(line for line in lines if line.startswith(start))


@pytest.mark.parametrize("name", [BEST, ""], ids=["checkpoint", "run folder"])
def test_the_best_checkpoint_repeats_the_test_row_exactly(
    finished_run: Path, command_line: Any, tmp_path: Path, name: str
) -> None:
    ended = command_line(main, finished_run / name, "--json", tmp_path / "row.json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[0] == log_line(finished_run, "test: ")
    summary = json.loads((finished_run / SUMMARY).read_text())
    row = json.loads((tmp_path / "row.json").read_text())
    assert {key: row[key] for key in ("oa", "mf1", "miou")} == summary["test"]
    assert (row["images"], row["split"]) == (summary["test_images"], "test")


def test_the_row_says_how_many_of_the_listed_rows_could_be_evaluated(
    finished_run: Path, command_line: Any, dataset_copy: Path, tmp_path: Path, pack_set: Any
) -> None:
    photo = next((dataset_copy / "merged_dataset").rglob("test*.jpg"))
    photo.write_bytes(photo.read_bytes()[:-200])
    pack_set(dataset_copy, tmp_path / "set", max_rejected=0.1)
    options = ("--shards", tmp_path / "set", "--json", tmp_path / "row.json")
    ended = command_line(main, finished_run, *options)
    assert (ended.code, ended.err) == (0, "")
    (line,) = [each for each in ended.out.splitlines() if each.startswith("test: ")]
    assert "  5 images of 6 listed rows" in line
    row = json.loads((tmp_path / "row.json").read_text())
    assert (row["images"], row["listed_rows"]) == (5, 6)


def test_the_last_checkpoint_repeats_the_val_metrics_of_the_last_epoch(
    finished_run: Path, command_line: Any, tmp_path: Path
) -> None:
    ended = command_line(
        main, finished_run / LAST, "--split", "val", "--json", tmp_path / "row.json"
    )
    assert ended.code == 0
    assert "published" not in ended.out
    row = json.loads((tmp_path / "row.json").read_text())
    recorded = json.loads((finished_run / METRICS).read_text().splitlines()[-1])
    for name in ("oa", "mf1", "miou", "loss"):
        assert row[name] == recorded[f"val/{name}"]


def contents(folder: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_evaluation_leaves_a_run_as_it_was(finished_run: Path, command_line: Any) -> None:
    before = contents(finished_run)
    assert command_line(main, finished_run).code == 0
    assert contents(finished_run) == before


def test_a_split_that_is_not_there_is_refused(
    finished_run: Path, tiny_shards: Path, command_line: Any
) -> None:
    ended = command_line(main, finished_run, "--split", "tset")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (f"error: {tiny_shards} has no split 'tset' (it has: train, val, test)\n")


def rewrite_manifest(shards: Path, **fields: Any) -> None:
    path = shards / MANIFEST_NAME
    manifest = Manifest.from_json(path.read_text(), path)
    path.write_text(replace(manifest, **fields).to_json())


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")])
def test_shards_of_other_classes_are_refused(
    finished_run: Path, shards_copy: Path, command_line: Any, names: tuple[str, ...]
) -> None:
    rewrite_manifest(shards_copy, class_names=names)
    ended = command_line(main, finished_run, "--shards", shards_copy)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        f"error: {shards_copy} has {len(names)} classes, the checkpoint was trained on 3 others; "
        "pass the shard set of its run with --shards\n"
    )


def test_shards_that_are_gone_are_named(
    finished_run: Path, command_line: Any, tmp_path: Path
) -> None:
    ended = command_line(main, finished_run, "--shards", tmp_path / "gone")
    assert ended.code == 2
    assert ended.err.startswith(f"error: no shard folder {tmp_path / 'gone'}")


def test_another_set_of_the_same_classes_is_noted(
    finished_run: Path, shards_copy: Path, command_line: Any
) -> None:
    rewrite_manifest(shards_copy, fingerprint="0" * 64)
    ended = command_line(main, finished_run, "--shards", shards_copy)
    assert ended.code == 0
    assert f"note: {shards_copy} is not the shard set of the run" in ended.out


def no_writing(path: str | Path, mode: int) -> bool:
    """By mode alone, root may write everywhere."""
    return mode != os.W_OK or "locked" not in Path(path).name


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("folder", "is a directory"),
        ("no/row.json", "no folder "),
        ("locked", "is a directory"),
        ("locked/row.json", "cannot be written"),
        ("locked.json", "is not writable"),
    ],
)
def test_a_json_file_that_cannot_be_written_is_refused_before_the_work(
    command_line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, named: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked.json").touch()
    monkeypatch.setattr(os, "access", no_writing)
    ended = command_line(main, "no checkpoint", "--json", tmp_path / file)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert "--json" in ended.err
    assert str(tmp_path / file) in ended.err
    assert ended.err.count("\n") == 1
    assert named in ended.err


def test_a_missing_checkpoint_is_named(command_line: Any, tmp_path: Path) -> None:
    ended = command_line(main, tmp_path / "none.pt")
    assert (ended.code, ended.err) == (2, f"error: no checkpoint {tmp_path / 'none.pt'}\n")


# The function behind the command.


@pytest.fixture
def parts(finished_run: Path, tiny_shards: Path) -> Generator[tuple[Any, Any, Any]]:
    """Model, val loader (batches of five and one), and how they run."""
    saved = load_checkpoint(finished_run / BEST)
    model = model_from_checkpoint(saved, finished_run / BEST)
    resolved = resolve(saved.config)
    with closing(eval_loader(saved.config, resolved, tiny_shards, "val")) as loader:
        yield model, loader, resolved


def test_padding_short_batches_to_one_shape_changes_no_result(
    parts: tuple[Any, Any, Any],
) -> None:
    model, loader, resolved = parts
    shapes = []
    model.register_forward_pre_hook(lambda _module, inputs: shapes.append(len(inputs[0])))
    plain = evaluate(model, loader, resolved, 3)
    padded = evaluate(model, loader, resolved, 3, pad_to=5)
    assert shapes == [5, 1, 5, 5]
    assert torch.equal(padded.confusion, plain.confusion)
    assert padded.loss == pytest.approx(plain.loss, rel=1e-6)


def test_the_loss_is_the_mean_over_images_not_batches(parts: tuple[Any, Any, Any]) -> None:
    model, loader, resolved = parts
    result = evaluate(model, loader, resolved, 3)
    with torch.no_grad():
        losses = torch.cat(
            [
                torch.nn.functional.cross_entropy(
                    model.eval()(batch.images), batch.labels, reduction="none"
                )
                for batch in loader.epoch(0)
            ]
        )
    assert len(losses) == result.images == 6
    assert result.loss == pytest.approx(float(losses.mean()), rel=1e-6)


def test_evaluation_puts_the_model_into_evaluation_mode(parts: tuple[Any, Any, Any]) -> None:
    model, loader, resolved = parts
    state = {name: each.clone() for name, each in model.state_dict().items()}
    losses = {evaluate(model.train(), loader, resolved, 3).loss for _ in range(2)}
    assert len(losses) == 1  # dropout is off
    assert all(torch.equal(state[name], each) for name, each in model.state_dict().items())


class Losing:
    """A loader that drops its last batch."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self.samples_per_epoch = loader.samples_per_epoch

    def epoch(
        self, epoch: int, first_step: int = 0, image_size: int | None = None
    ) -> Generator[Batch]:
        yield from list(self._loader.epoch(epoch, first_step, image_size))[:-1]


def test_a_loader_that_loses_images_is_found_out(parts: tuple[Any, Any, Any]) -> None:
    model, loader, resolved = parts
    with pytest.raises(JobError, match=r"^evaluated 5 images, expected 6$"):
        evaluate(model, Losing(loader), resolved, 3)


def test_an_evaluation_that_is_asked_to_stop_has_no_result(parts: tuple[Any, Any, Any]) -> None:
    model, loader, resolved = parts

    def stop() -> None:
        raise Stopped(143)

    with pytest.raises(Stopped):
        evaluate(model, loader, resolved, 3, after_batch=stop)


# The published row.


def test_the_published_row_stands_beside_published_data_alone(
    tiny_shards: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(arch="resnet101", image_size=384)
    manifest = Manifest.read(tiny_shards)
    assert published_lines(manifest, config) == [
        "published resnet101: different data, not comparable (other classes than the published set)"
    ]
    assert published_lines(manifest, replace(config, arch="resnext50_32x4d")) == []
    monkeypatch.setattr(
        train.scores.published, "published_class_names", lambda: manifest.class_names
    )
    monkeypatch.setattr(train.scores.published, "TEST_COUNT", manifest.splits["test"].samples)
    assert published_lines(manifest, config) == [
        "published resnet101: mIoU 0.7520  mF1 0.8510  OA 0.8840"
    ]
