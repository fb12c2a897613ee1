"""``python -m train.predict CKPT PHOTOS``: what is on photographs, and how sure that is."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from shards.commands import HELP, FiniteRange, run
from shards.errors import JobError, UserError
from shards.machine import human_time
from shards.writer import write_file
from train.config.shared_options import places_option, species_option
from train.runs.interrupt import importing

if TYPE_CHECKING:
    from train.inference.answer_rows import AnswerWriter
    from train.inference.answers import Answering
    from train.inference.explanation import Explainer, OverlayFiles, Pixels
    from train.inference.prediction import Predictor
    from train.inference.prior import PhotoPrior
    from train.report.answer_page import AnswerPage

FORMATS = ("table", "csv", "jsonl")


@click.command(context_settings=HELP)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--format", "layout", type=click.Choice(FORMATS), default="table", help="Of the answers."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="File to write the answers to.  [default: standard output]",
)
@click.option("--top", type=click.IntRange(1), default=3, help="Species to list for each.")
@click.option(
    "--sure",
    type=FiniteRange(0, 1),
    default=0.5,
    help="Probability from which on the species is the answer; below it the genus, then the family.",
)
@species_option
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Also write a page of thumbnails here: one HTML file that needs no network.",
)
@click.option(
    "--explain",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write a picture a photograph here, numbered as the answers: where the model looked for the "
    "most probable species (Grad-CAM). Also on the page of --html.",
)
@click.option(
    "--conformal",
    metavar="P",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    help="Also give the set of species that holds the right one with this probability, such as 0.9; "
    "`python -m train.study conformal` has to come first.",
)
@click.option(
    "--prior",
    "prior_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Multiply in where and when species are found, as `python -m train.prior` counted. Place and date of a "
    "photograph come from --places, else from its EXIF; without any its answer stays.",
)
@places_option(
    "For --prior: CSV of file (relative to it) and any of latitude, longitude, date; may be repeated."
)
@click.option("--batch-size", type=click.IntRange(1), help="Images a step.  [default: the run's]")
def main(
    checkpoint: Path,
    photos: tuple[Path, ...],
    layout: str,
    out: Path | None,
    top: int,
    sure: float,
    species: Path | None,
    html: Path | None,
    explain: Path | None,
    conformal: float | None,
    prior_file: Path | None,
    tables: tuple[Path, ...],
    batch_size: int | None,
) -> None:
    """Say what is on PHOTOS (files, folders, or - for a list of files on standard input).

    CHECKPOINT is a .pt file, or a run folder for its best one. Photographs are prepared as in an
    evaluation of its run. A file that cannot be read is reported and left out; the exit code is 1
    where none could be read.
    """
    if tables and prior_file is None:
        raise UserError("--places tells where photographs are from to a --prior, and there is none")
    if conformal is not None and prior_file is not None:
        raise UserError(
            "--conformal keeps its promise for the model's own probabilities; leave out it or --prior"
        )
    with importing():
        from train.inference.answer_rows import WRITERS
        from train.inference.answers import Answering
        from train.inference.prediction import open_predictor
        from train.inference.prior import open_prior
        from train.report.answer_page import AnswerPage
        from train.runs.writable import check_outputs, check_writable, record_of
        from train.scores.species import taxonomy_of

    if explain is not None:
        check_writable("--explain", explain)
    written = {"--out": out, "--html": html}
    check_outputs(written, [*record_of(checkpoint), *filter(None, [species, prior_file, *tables])])
    _spare_photographs(written, photos)
    predictor = open_predictor(checkpoint, batch_size)
    detector = predictor.saved.unknown
    answering = Answering(
        taxonomy_of(predictor.saved.class_names, species),
        sure,
        top,
        -math.inf if detector is None else detector.threshold,
    )
    if conformal is not None:
        predictor.check_sets()
    prior = None
    if prior_file is not None:
        prior = open_prior(prior_file, predictor.saved.class_names, tables)
    looking = None if explain is None else _looking(predictor, explain)
    listed = min(top, len(predictor.saved.class_names))
    page = AnswerPage(warns=answering.warns) if html is not None else None
    with _opened(out) as opened:
        writer = WRITERS[layout](opened, listed)
        predict(predictor, answering, photos, writer, page, looking, conformal, prior)
    if html is not None and page is not None:
        write_file(html, page.html().encode())


def _looking(predictor: Predictor, folder: Path) -> tuple[Explainer, OverlayFiles]:
    from train.inference.explanation import OverlayFiles

    explainer = predictor.explainer()
    folder.mkdir(exist_ok=True)
    return explainer, OverlayFiles(folder)


@contextmanager
def _opened(out: Path | None) -> Iterator[TextIO]:
    """The file of the answers; names that are not UTF-8 stay the bytes that they are."""
    if out is None:
        yield sys.stdout
        return
    with out.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield file


def predict(
    predictor: Predictor,
    answering: Answering,
    photos: tuple[Path, ...],
    writer: AnswerWriter,
    page: AnswerPage | None,
    looking: tuple[Explainer, OverlayFiles] | None = None,
    conformal: float | None = None,
    prior: PhotoPrior | None = None,
) -> None:
    """Answer, and report what could not be read.

    Args:
        predictor: The model.
        answering: Makes answers of what it says.
        photos: Files and folders.
        writer: Of the answers.
        page: Also takes them.
        looking: Draws where the model looked.
        conformal: Coverage of the prediction sets, where some are wanted.
        prior: By place and season, where one is wanted.

    Raises:
        UserError: There is no photograph.
        JobError: None of them could be read.
    """
    from train.inference.answer_rows import in_a_line
    from train.inference.photos import counted, find_photos
    from train.scores.danger import NOTICE

    start = time.perf_counter()
    answered = skipped = informed = 0
    for seen in predictor.seen(find_photos(_named(photos))):
        batch = seen.batch
        for path, reason in batch.bad:
            click.echo(f"skipped {in_a_line(path)}: {reason}", err=True)
        sets = None if conformal is None else predictor.sets(seen, conformal)
        probabilities, priors = seen.probabilities, None
        if prior is not None:
            probabilities, priors = prior.applied(probabilities, batch.paths)
            informed += sum(map(bool, priors))
        answers = answering.answers(probabilities, seen.known_scores, sets, priors)
        overlays: list[Pixels] | list[None] = [None] * len(answers)
        if looking is not None and answers:
            overlays = looking[0].overlays(batch.images)
        for path, answer, image, overlay in zip(
            batch.paths, answers, batch.images, overlays, strict=True
        ):
            writer.write(path, answer)
            if looking is not None and overlay is not None:
                looking[1].add(path, overlay)
            if page is not None:
                page.add(path, answer, image, overlay)
        answered += len(batch.paths)
        skipped += len(batch.bad)
    if not answered + skipped:
        places = ["standard input" if str(each) == "-" else str(each) for each in photos]
        raise UserError(f"no photograph in {', '.join(places)}")
    if not answered:
        raise JobError(f"none of {counted(skipped)} could be read")
    seconds = time.perf_counter() - start
    left_out = f", {skipped:,} skipped" if skipped else ""
    click.echo(
        f"{counted(answered)} in {human_time(seconds)} ({answered / seconds:,.0f} img/s){left_out}",
        err=True,
    )
    if prior is not None:
        click.echo(prior.summary(informed, answered), err=True)
    if answering.warns:
        click.echo(NOTICE, err=True)


def _spare_photographs(written: Mapping[str, Path | None], photos: tuple[Path, ...]) -> None:
    """Refuse to write over a photograph that was named, or over any other."""
    from preprocess.folder_layout import EXTENSIONS

    named = {each.resolve() for each in photos}
    for option, file in written.items():
        if file is not None and file.exists() and (
            file.resolve() in named or file.name.lower().endswith(EXTENSIONS)
        ):  # fmt: skip
            raise UserError(f"{option} {file} would replace a photograph; name another file")


def _named(photos: tuple[Path, ...]) -> Iterator[Path]:
    for path in photos:
        if str(path) == "-":
            yield from (Path(line.rstrip("\n")) for line in sys.stdin if line.strip())
        else:
            yield path


if __name__ == "__main__":
    run(main, "python -m train.predict")
