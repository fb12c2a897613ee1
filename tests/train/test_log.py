"""What a run records, read back from the files it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer import event_file_writer

import train.engine.loop
from shards.errors import Interrupted
from train.runs.log import CONFIG, FIGURES, METRICS, STEPS, SUMMARY, RunLog, flat

ROWS = 36  # of the tiny shards
MetricsOf = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _first_event_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files are counted from 0, as in a new process.

    TensorBoard orders files of one second by that number as text, and 10 before 9; sessions of a real run
    are further apart.
    """
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def events_of(folder: Path) -> EventAccumulator:
    """What TensorBoard itself would show of a run folder."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    return events.Reload()


def curve(events: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in events.Scalars(name)]


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def events(finished_run: Path) -> EventAccumulator:
    return events_of(finished_run)


def test_tensorboard_has_every_promised_curve(events: EventAccumulator) -> None:
    assert set(events.Tags()["scalars"]) >= {
        "step/loss", "step/lr", "step/image_size",
        "train/loss", "train/lr", "train/image_size", "train/images_per_s", "train/data_wait",
        "val/loss", "val/oa", "val/mf1", "val/miou", "val/seconds",
        "memory/host_gib",
        "best/val_miou", "best/test_loss", "best/test_oa", "best/test_mf1", "best/test_miou",
    }  # fmt: skip


def test_curves_and_json_lines_say_the_same_over_the_images_seen(
    finished_run: Path, events: EventAccumulator, metrics_of: MetricsOf
) -> None:
    for lines in (metrics_of(finished_run), json_lines(finished_run / STEPS)):
        assert [each["samples_seen"] for each in lines] == [ROWS, 2 * ROWS, 3 * ROWS]
        for name in set(lines[0]) - {"epoch", "samples_seen"}:
            written = [(each["samples_seen"], each[name]) for each in lines]
            assert curve(events, name) == [(step, pytest.approx(value)) for step, value in written]


def test_steps_are_recorded_where_the_loss_is_read(
    tmp_path: Path, train_tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.engine.loop, "READ_STEPS", 3)
    train_tiny(tmp_path / "run", epochs=1)
    lines = json_lines(tmp_path / "run" / STEPS)
    assert [each["samples_seen"] for each in lines] == [15, 30, 36]  # steps 3, 6 and the last


def test_memory_is_what_this_process_needs(finished_run: Path, metrics_of: MetricsOf) -> None:
    used = [each["memory/host_gib"] for each in metrics_of(finished_run)]
    assert 0.1 < used[0] <= used[1] <= used[2] < 100


def test_tensorboard_shows_training_images_and_confusion(
    finished_run: Path, events: EventAccumulator
) -> None:
    shown = {name: [each.step for each in events.Images(name)] for name in events.Tags()["images"]}
    assert shown == {
        "train/images": [0],
        "val/confusion": [ROWS, 2 * ROWS, 3 * ROWS],
        "best/test_confusion": [3 * ROWS],
    }
    for name in shown:
        in_events = cv2.imdecode(
            np.frombuffer(events.Images(name)[-1].encoded_image_string, np.uint8), cv2.IMREAD_COLOR
        )
        as_file = cv2.imread(str(finished_run / FIGURES / f"{name.replace('/', '-')}.png"))
        assert as_file is not None
        assert np.array_equal(in_events, as_file)


def test_hyperparameters_stand_beside_the_final_scores(
    finished_run: Path, events: EventAccumulator
) -> None:
    tags = events.summary_metadata
    content = HParamsPluginData.FromString(tags["_hparams_/session_start_info"].plugin_data.content)
    fields = content.session_start_info.hparams
    assert fields["arch"].string_value == "tinynet"
    assert fields["lr"].number_value == 1e-3
    assert fields["augment.hflip_prob"].number_value == 0.5
    assert fields["resolved.device"].string_value == "cpu"
    experiment = HParamsPluginData.FromString(tags["_hparams_/experiment"].plugin_data.content)
    shown = {each.name.tag for each in experiment.experiment.metric_infos}
    summary = json.loads((finished_run / SUMMARY).read_text())
    assert shown == {
        "best/val_miou",
        "best/test_loss",
        *(f"best/test_{n}" for n in summary["test"]),
    }
    for name, value in summary["test"].items():
        assert events.Scalars(f"best/test_{name}")[-1].value == pytest.approx(value)


def test_a_resumed_run_has_each_point_once(
    tmp_path: Path, train_tiny: Any, stop_after: Any, resume: Any, metrics_of: MetricsOf
) -> None:
    run = tmp_path / "run"
    stop_after(13)  # in the second epoch: eight steps and two batches of val each
    with pytest.raises(Interrupted):
        train_tiny(run, epochs=2)
    resume(run)
    assert [each["epoch"] for each in metrics_of(run)] == [1, 2]
    after = events_of(run)
    assert [step for step, _ in curve(after, "val/miou")] == [ROWS, 2 * ROWS]
    assert [each.step for each in after.Images("train/images")] == [0]


def test_what_was_recorded_after_the_checkpoint_is_forgotten(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for seen in (10, 20, 30):
        log.step(seen, {"step/loss": 1.0})
        log.metrics(seen // 10, seen, {"val/miou": 0.5})
    log.close()
    with (tmp_path / STEPS).open("a") as file:
        file.write('{"samples_seen": 3')  # the line that a kill cut off
    again = RunLog(tmp_path, samples_seen=20)
    again.metrics(3, 30, {"val/miou": 0.7})
    again.close()
    assert [each["samples_seen"] for each in json_lines(tmp_path / STEPS)] == [10, 20]
    assert [each["samples_seen"] for each in json_lines(tmp_path / METRICS)] == [10, 20, 30]
    assert curve(events_of(tmp_path), "val/miou") == [
        (10, 0.5), (20, 0.5), (30, pytest.approx(0.7)),
    ]  # fmt: skip


def test_an_entry_in_record_is_a_curve_everywhere(
    tmp_path: Path, train_tiny: Any, metrics_of: MetricsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What docs/logging.md says of adding a metric and a picture."""
    values, pictures = train.engine.loop.epoch_values, train.engine.loop.epoch_pictures
    monkeypatch.setattr(
        train.engine.loop, "epoch_values",
        lambda *given, **named: values(*given, **named) | {"val/of_mine": 0.75},
    )  # fmt: skip
    monkeypatch.setattr(
        train.engine.loop, "epoch_pictures",
        lambda *given: pictures(*given) | {"val/my_picture": np.full((9, 9, 3), 7, np.uint8)},
    )  # fmt: skip
    train_tiny(tmp_path / "run", epochs=1)
    assert metrics_of(tmp_path / "run")[0]["val/of_mine"] == 0.75
    events = events_of(tmp_path / "run")
    assert curve(events, "val/of_mine") == [(ROWS, 0.75)]
    assert [each.step for each in events.Images("val/my_picture")] == [ROWS]
    shown = cv2.imread(str(tmp_path / "run" / FIGURES / "val-my_picture.png"))
    assert shown is not None
    assert (shown == 7).all()


def test_nested_fields_are_named_by_their_path_and_lists_are_text() -> None:
    config = {"lr": 0.1, "augment": {"hue": 36.0, "crop": (0.1, 1.0)}, "mini": None, "ema": True}
    assert flat(config) == {
        "lr": 0.1, "augment.hue": 36.0, "augment.crop": "(0.1, 1.0)", "mini": "None", "ema": True,
    }  # fmt: skip


def test_the_configuration_is_written_before_the_first_step(
    tmp_path: Path, train_tiny: Any, stop_after: Any
) -> None:
    stop_after(1)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run")
    assert json.loads((tmp_path / "run" / CONFIG).read_text())["config"]["arch"] == "tinynet"
