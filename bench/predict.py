"""Prediction from photographs beside evaluation from shards: the same model, in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from bench.result import Result, Section
from bench.timing import WARM_UP, Subject, in_turns
from shards.errors import UserError
from train.inference.photos import find_photos
from train.inference.prediction import open_predictor
from train.inference.trained import open_trained

EVALUATION, PREDICTION = "evaluation", "prediction"


def measure_prediction(
    run: Path, photos: Sequence[Path], split: str, repeats: int, shards: str | None
) -> Section:
    """Evaluate a split, answer for as many photographs, and so on; each turn takes others.

    Args:
        run: A checkpoint or run folder.
        photos: Files and folders.
        split: To evaluate.
        repeats: Turns.
        shards: Shard set; None for that of the run.

    Raises:
        UserError: There are too few photographs.
    """
    predictor = open_predictor(run)
    with open_trained(run, shards) as trained:
        images = trained.evaluate(split)[0].images
        found = list(islice(find_photos(photos), repeats * images))
        if len(found) < repeats * images:
            raise UserError(
                f"{repeats} turns of {images:,} images need {repeats * images:,} photographs, got "
                f"{len(found):,}; fewer --repeats"
            )

        def evaluate(_repeat: int) -> float:
            result, _ = trained.evaluate(split)
            return result.images / result.seconds

        def predict(repeat: int) -> float:
            turn = 0 if repeat == WARM_UP else repeat
            start = time.perf_counter()
            answered = sum(
                len(batch.paths)
                for batch, _ in predictor.probabilities(found[turn * images : (turn + 1) * images])
            )
            return answered / (time.perf_counter() - start)

        values = in_turns([Subject(EVALUATION, evaluate), Subject(PREDICTION, predict)], repeats)
    return Section(
        name="predict",
        title=f"{trained.saved.config.arch}: {len(found):,} photographs, and {split} as often",
        results=tuple(Result(name=name, repeats=each) for name, each in values.items()),
        reference=EVALUATION,
        settings={"run": str(run), "split": split, "images": images, "photographs": len(found)},
    )
