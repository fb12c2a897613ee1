"""``python -m train``: what it prints, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import pytest

from shards.format import MANIFEST_NAME, WORK_NAME
from train.__main__ import main
from train.config.recipes import RECIPES, create_recipe
from train.config.settings import FIELDS, as_text, flatten
from train.method.models import list_archs, list_timm_archs
from train.runs.log import CONFIG, SUMMARY

REPO = Path(__file__).resolve().parents[2]
ROWS = 36  # of the tiny shards
TrainCommand = Callable[..., Any]


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture
def refused(train_command: TrainCommand, tmp_path: Path) -> Callable[..., str]:
    """``refused("--epochs", 0)``: the one line of the refusal, after which all is as before."""

    def call(*args: object, **options: Any) -> str:
        before = tree(tmp_path)
        ended = train_command(*args, **options)
        assert ended.code == 2, ended
        assert ended.out == ""
        assert ended.err.startswith("error: ")
        assert ended.err.endswith("\n")
        assert ended.err.count("\n") == 1, ended.err
        assert tree(tmp_path) == before
        return str(ended.err.removeprefix("error: ").removesuffix("\n"))

    return call


def test_an_unknown_arch_is_refused_with_the_nearest_name(refused: Any) -> None:
    assert refused("--arch", "resnet5O") == (
        "unknown arch 'resnet5O'; did you mean 'resnet50'? (`python -m train --list-archs` shows "
        f"all {len(list_archs()) + len(list_timm_archs()):,})"
    )


def test_an_unknown_recipe_is_refused_with_the_nearest_name(refused: Any) -> None:
    assert refused("--recipe", "base") == "unknown recipe 'base'; did you mean 'baseline'?"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--image-size", 0),
        ("--image-size", -5),
        ("--image-size", "large"),
        ("--image-size", 10**6),
        ("--epochs", 0),
        ("--epochs", 10**12),
        ("--batch-size", 0),
        ("--batch-size", 10**9),
        ("--lr", 0),
        ("--lr", -1),
        ("--patience", 0),
        ("--label-smoothing", 1),
        ("--precision", "fp8"),
        ("--loader", "magic"),
        ("--sampling", "random"),
        ("--threads", 0),
        ("--threads", 10**5),
        ("--epoch-size", 10**12),
        ("--mini", 0),
        ("--seed", -1),
        ("--lr", "nan"),
    ],
)
def test_a_value_out_of_range_is_refused_by_option_and_value(
    refused: Any, option: str, value: object
) -> None:
    message = refused(option, value)
    assert option in message
    assert str(value) in message
    assert message.endswith("(see python -m train --help)")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--lr", "1e-7"], "min_lr 1e-06 is above lr 1e-07"),
        (["--eval-resize", "31"], "eval_resize 31 is below image_size 32"),
        (["--warmup", "0.1"], "warmup 0.1 needs a schedule that moves with every step, not "
                              "cosine-epoch; choose cosine, linear or constant"),
        (["--overfit-batches", "1", "--fast-dev-run"], "overfit_batches and fast_dev_run exclude "
                                                       "each other; give one of them"),
        (["--weights", "imagenet", "--finetune-from", "run"],
         "weights and finetune_from both say where to start; give one of them"),
        (["--head", "fitted"], "head fitted needs weights or finetune_from: features of a random "
                               "network say nothing"),
        (["--recipe", "probe", "--ema", "0.9"], "head only makes no training step, and ema is "
                                                "about those"),
        (["--mean", "nan,0,0"], "mean must be a finite number in each channel, got nan,0.0,0.0"),
        (["--device", "gpu"], "unknown device 'gpu'; known: auto, cpu, cuda, cuda:N, mps"),
        (["--precision", "fp16"], "fp16 is not for CPUs: use --precision bf16 or fp32"),
        (["--batch-size", "37"], "batch size 37 is larger than the train split (36 images an "
                                 "epoch); choose at most 36"),
        (["--mini", "1"], "batch size 5 is larger than the train split (3 images an epoch); "
                          "choose at most 3"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_or_cannot_work_is_refused_before_anything_is_written(
    refused: Any, options: list[str], named: str
) -> None:
    assert refused(*options) == named


def test_a_batch_of_the_whole_split_is_accepted(
    train_command: TrainCommand, tmp_path: Path
) -> None:
    ended = train_command("--batch-size", ROWS, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err


def test_without_shards_one_line_names_the_three_ways_to_give_them(refused: Any) -> None:
    message = refused(shards=None)
    assert message.startswith("no shard folder given: pass --shards SHARDS")
    assert "HYPHAE_SHARDS_DIR" in message
    assert "local.toml" in message


def test_a_missing_shard_folder_is_named(refused: Any, tmp_path: Path) -> None:
    assert refused(shards=tmp_path / "none").startswith(f"no shard folder {tmp_path / 'none'}")


def test_a_folder_without_a_manifest_is_refused(refused: Any, shards_copy: Path) -> None:
    (shards_copy / MANIFEST_NAME).unlink()
    message = refused(shards=shards_copy)
    assert message == f"{shards_copy} is not a shard set: it has no {MANIFEST_NAME}"


def test_an_unfinished_shard_set_is_refused(refused: Any, shards_copy: Path) -> None:
    (shards_copy / MANIFEST_NAME).unlink()
    (shards_copy / WORK_NAME).mkdir()
    assert refused(shards=shards_copy).startswith(f"{shards_copy} is an unfinished shard set; ")


def test_a_shard_set_of_another_version_is_refused(refused: Any, shards_copy: Path) -> None:
    path = shards_copy / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))
    message = refused(shards=shards_copy)
    assert message.startswith(f"{path} has format version 2, this hyphae reads 1; ")


def test_a_damaged_shard_set_is_refused(refused: Any, shards_copy: Path) -> None:
    table = shards_copy / "val.samples.npy"
    table.write_bytes(table.read_bytes()[:-8])
    message = refused(shards=shards_copy)
    assert message.startswith(f"{table} is damaged: sha256 does not match")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_shard_that_was_lost_is_named_before_anything_is_made(
    refused: Any, shards_copy: Path, split: str
) -> None:
    tar = shards_copy / f"{split}-000000.tar"
    size = tar.stat().st_size
    tar.write_bytes(tar.read_bytes()[:-512])
    assert refused(shards=shards_copy) == (
        f"{tar} has {size - 512:,} bytes, the manifest says {size:,}; pack the set again"
    )
    tar.unlink()
    message = refused(shards=shards_copy)
    assert message == (f"cannot read shard {tar}: No such file or directory; pack the set again")


def test_a_batch_that_exceeds_the_memory_is_refused(
    refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.method.models.available_memory", lambda: 5 * 32 * 32 * 3 - 1)
    assert refused() == (
        "a batch of 5 images of 32 px takes 15.4 kB, and 15.4 kB of memory are free; choose a "
        "smaller --batch-size or --image-size"
    )


def test_an_output_folder_that_is_a_file_is_refused(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    assert refused("--out", tmp_path / "run").startswith(f"output folder {tmp_path / 'run'} is a ")
    assert (tmp_path / "run").read_text() == "mine"


def test_an_output_folder_that_holds_something_is_refused(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    message = refused("--out", tmp_path / "run")
    assert message == (
        f"output folder {tmp_path / 'run'} holds something already; choose another, or --resume "
        "a run"
    )


def test_an_empty_output_folder_is_accepted(train_command: TrainCommand, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert train_command("--out", tmp_path / "run").code == 0
    assert (tmp_path / "run" / SUMMARY).is_file()


@pytest.mark.parametrize("package", ["shards", "preprocess", "loaders", "train", "bench", "tests"])
def test_an_output_folder_among_the_code_is_refused(refused: Any, package: str) -> None:
    for out in (REPO / package, REPO / package / "new" / "one"):
        message = refused("--out", out)
        assert f"lies inside the code folder {REPO / package};" in message
    assert not (REPO / package / "new").exists()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--arch", "squeezenet1_1", "--image-size", "16"], id="too small"),
        pytest.param(
            ["--arch", "vit_b_32", "--image-size", "64"], id="fixed", marks=pytest.mark.slow
        ),
    ],
)
def test_an_image_size_that_the_network_cannot_take_is_refused(
    refused: Any, options: list[str], tmp_path: Path
) -> None:
    message = refused(*options, "--out", tmp_path / "run")
    assert options[1] in message
    assert options[3] in message


def test_a_last_batch_of_one_image_at_32_px_ends_in_one_line_or_trains(
    train_command: TrainCommand, tmp_path: Path
) -> None:
    # A ResNet's last stage is 1x1 there, and batch norm takes no variance of one number.
    ended = train_command("--arch", "resnet18", "--batch-size", ROWS - 1, "--out", tmp_path / "run")
    assert ended.code in (0, 2)
    assert ended.code == 0 or ended.err.count("\n") == 1


def test_a_seed_too_large_is_refused(refused: Any) -> None:
    assert str(2**64) in refused("--seed", 2**64)


@pytest.mark.parametrize("loader", ["opencv", "dali-cpu", "torchvision", "synthetic"])
def test_every_loader_trains_with_the_seed_of_the_recipe(
    train_command: TrainCommand, tmp_path: Path, loader: str
) -> None:
    if loader == "dali-cpu":
        pytest.importorskip("nvidia.dali")
    ended = train_command("--loader", loader, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert f"loader {loader} (asked for)" in ended.out


def test_every_choice_is_printed_with_its_reason(
    train_command: TrainCommand, tmp_path: Path
) -> None:
    ended = train_command("--threads", "1", "--out", tmp_path / "run")
    assert (ended.code, ended.err) == (0, "")
    line = next(line for line in ended.out.splitlines() if line.startswith("device "))
    names = [part.split(" ")[0] for part in line.split("; ") if "(" in part]
    assert names == [
        *("device", "precision", "channels_last", "compile"),
        *("loader", "threads", "prefetch", "micro_batch"),
    ]
    assert "loader opencv (fastest decoder on a CPU)" in line
    assert "threads 1 (asked for)" in line
    assert re.search(r"order [0-9a-f]{16}; run ", ended.out)


def test_a_finished_run_prints_its_test_row_last(
    train_command: TrainCommand, tmp_path: Path
) -> None:
    ended = train_command("--out", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / SUMMARY).read_text())
    row = next(line for line in ended.out.splitlines() if line.startswith("test: "))
    assert row.startswith(
        f"test: mIoU {summary['test']['miou']:.4f}  mF1 {summary['test']['mf1']:.4f}  "
        f"OA {summary['test']['oa']:.4f}"
    )
    assert f'python -m train.evaluate "{tmp_path / "run" / "best.pt"}"' in ended.out


@pytest.mark.parametrize(("size", "warned"), [(96, False), (97, True)])
def test_an_image_size_beyond_the_stored_side_is_warned_of(
    train_command: TrainCommand, tmp_path: Path, size: int, warned: bool
) -> None:
    ended = train_command("--image-size", size, "--out", tmp_path / "run")
    assert ended.code == 0
    assert ("warning: image size" in ended.out) == warned
    if warned:
        assert f"warning: image size {size} exceeds the shorter side that " in ended.out
        assert f"stores (96); images will be blurred up: pack again with --short-side {size}" in (
            ended.out
        )


def test_the_architectures_are_listed_one_a_line_in_groups(command_line: Any) -> None:
    ended = command_line(main, "--list-archs")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == ["torchvision:", *list_archs(), "timm:", *list_timm_archs()]


def test_options_override_the_recipe_and_the_rest_stays(
    train_command: TrainCommand, tmp_path: Path
) -> None:
    given = {
        "batch_size": 6, "image_size": 48, "eval_resize": 50, "lr": 0.01, "weight_decay": 0.5,
        "label_smoothing": 0.2, "seed": 7, "patience": 3, "sampling": "natural", "mini": 6,
        "resample": "linear", "compile": "off", "loader": "opencv", "threads": 1,
    }  # fmt: skip
    options = [
        part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)
    ]
    ended = train_command(*options, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    config = json.loads((tmp_path / "run" / CONFIG).read_text())["config"]
    assert {name: config[name] for name in given} == given
    assert (config["min_lr"], config["amp"], config["recipe"]) == (1e-6, "fp16", "baseline")


def test_the_environment_gives_defaults_and_the_command_line_wins(
    train_command: TrainCommand,
    tiny_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HYPHAE_SHARDS_DIR", str(tiny_shards))
    monkeypatch.setenv("HYPHAE_LOG_DIR", str(tmp_path / "my logs"))
    assert train_command(shards=None).code == 0
    (folder,) = (tmp_path / "my logs").iterdir()
    assert re.fullmatch(r"tinynet-baseline-\d{8}-\d{6}", folder.name)
    assert (folder / SUMMARY).is_file()
    monkeypatch.setenv("HYPHAE_SHARDS_DIR", str(tmp_path / "elsewhere"))
    assert train_command("--out", tmp_path / "run").code == 0


def test_local_toml_gives_defaults_and_the_environment_wins(
    train_command: TrainCommand,
    tiny_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "local.toml").write_text(f'shards_dir = "{tiny_shards}"\nlog_dir = "logs"\n')
    assert train_command(shards=None).code == 0
    assert len(list((tmp_path / "logs").iterdir())) == 1
    monkeypatch.setenv("HYPHAE_SHARDS_DIR", str(tmp_path / "elsewhere"))
    ended = train_command("--out", tmp_path / "run", shards=None)
    assert ended.code == 2
    assert "elsewhere" in ended.err


def test_without_a_log_folder_runs_go_below_runs(
    train_command: TrainCommand, tmp_path: Path
) -> None:
    assert train_command().code == 0
    assert len(list((tmp_path / "runs").glob("tinynet-baseline-*"))) == 1


def test_help_shows_every_option_with_its_text(command_line: Any) -> None:
    ended = command_line(main, "--help")
    assert ended.code == 0
    for parameter in main.params:
        assert getattr(parameter, "help", None)
        assert parameter.opts[0] in ended.out


def shown_default(option: click.Option) -> str | None:
    with click.Context(main, show_default=True) as context:
        return option.get_help_extra(context).get("default")


def test_help_shows_the_value_of_the_recipe_beside_each_option() -> None:
    values = flatten(create_recipe("fast"))
    for option in main.params:
        assert isinstance(option, click.Option)
        if option.name in values and values[option.name] != ():
            assert shown_default(option) == as_text(option.name, values[option.name])


def test_help_shows_the_values_of_the_recipe_that_was_asked_for(
    command_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "quick", lambda: replace(create_recipe("fast"), epochs=3))
    baseline = command_line(main, "--recipe", "baseline", "--help")
    assert re.search(r"--epochs .*\[default:\s+20;", baseline.out, re.DOTALL)
    quick = command_line(main, "--recipe", "quick", "--help")
    assert re.search(r"--epochs .*\[default:\s+3;", quick.out, re.DOTALL)


def test_help_names_every_recipe_and_every_choice_of_a_field(command_line: Any) -> None:
    out = command_line(main, "--help").out
    assert all(name in out for name in RECIPES)
    for field in FIELDS.values():
        if get_origin(field.kind) is Literal:
            assert f"[{'|'.join(get_args(field.kind))}]" in out


def test_one_epoch_is_not_one_epochs(train_command: TrainCommand, tmp_path: Path) -> None:
    assert "1 epoch of 36 images" in train_command("--out", tmp_path / "run").out


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--recipe", "basline", "unknown recipe 'basline'; did you mean 'baseline'?"),
        pytest.param(  # which takes the import of all networks
            "--arch", "resnet5O", "unknown arch 'resnet5O'; did you mean 'resnet50'?",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_a_mistake_shows_no_traceback_in_a_real_program(
    run_command: Any, tmp_path: Path, option: str, value: str, message: str
) -> None:
    done = run_command("train", option, value, "--out", tmp_path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_mistake_shows_before_the_networks_are_imported(
    command_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "train.engine.run", None)  # whoever imports it fails
    ended = command_line(main, "--lr", "1e-7")
    assert (ended.code, ended.err) == (2, "error: min_lr 1e-06 is above lr 1e-07\n")
    ended = command_line(main, "--resume", "run", "--lr", "1")
    assert (ended.code, ended.err) == (
        2, "error: --resume goes on with the run's own configuration; drop --lr, or start a new run\n"
    )  # fmt: skip
