"""``bench ab``, ``compare`` and ``report``: what two commits or some records say."""

from __future__ import annotations

from pathlib import Path

import click

from bench.options import ARCH, IMAGE_SIZE, shards_option
from shards.commands import HELP
from shards.errors import JobError, UserError
from shards.machine import allowed_cores

BATCH_SIZE = 16
PROOF_TRIALS = 20


@click.command(context_settings=HELP)
@click.argument("base")
@click.option("--to", "new", help="The commit to compare with BASE.  [default: HEAD]")
@click.option(
    "--what", type=click.Choice(["loader", "step"]), default="loader", help="What to time."
)
@shards_option
@click.option(
    "--image-size", type=click.IntRange(16), default=IMAGE_SIZE, help="Side of the crops [px]."
)
@click.option("--batch-size", type=click.IntRange(1), default=BATCH_SIZE, help="Images a batch.")
@click.option("--threads", type=click.IntRange(1), help="[default: allowed cores]")
@click.option("--arch", default=ARCH, help="For --what step.")
@click.option(
    "--resample",
    type=click.Choice(["linear", "antialias"]),
    default="linear",
    help="For --what loader.",
)
@click.option(
    "--trials",
    type=click.IntRange(1),
    help="Do it all so many times, and count.  [default: 1; 20 with --proof]",
)
@click.option(
    "--proof",
    is_flag=True,
    help="Prove the method on this machine: BASE against itself must be undecided, and slower with "
    "a loader slowed by a tenth, each in nine of ten trials. With --json it goes on after a kill.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write JSON here.")
def ab(
    base: str,
    new: str | None,
    what: str,
    shards: Path | None,
    image_size: int,
    batch_size: int,
    threads: int | None,
    arch: str,
    resample: str,
    trials: int | None,
    proof: bool,
    json_file: Path | None,
) -> None:
    """Is one commit faster or slower than BASE, another commit, branch or tag?

    Both are checked out apart and measured in turn, in many short pairs, until the interval of their
    ratio is narrow: faster, slower or undecided. On the CPU. What is not committed is not measured.
    Exit code 1 where it is slower.
    """
    from bench.ab import AbRequest, commit_of, measure_ab
    from bench.ab_proof import failures, prove_ab
    from bench.session import BenchSession

    if proof and what != "loader":
        raise UserError(f"--proof is of the loader, which it can slow; leave out --what {what}")
    if proof and new is not None:
        raise UserError(f"--proof compares BASE with itself; leave out --to {new}")
    commit, new = commit_of(base), new or "HEAD"
    commit_of(new)  # said before shards are looked for
    failed, verdicts = [], []
    with BenchSession(
        shards=shards,
        image_size=image_size,
        batch_size=batch_size,
        threads=threads,
        device="cpu",
        repeats=2,
        json_file=json_file,
        archs=(arch,),
    ) as session:
        settings = {
            "shards": str(session.request.shards),
            "image_size": image_size,
            "batch_size": batch_size,
            "threads": threads or allowed_cores(),
            **({"resample": resample} if what == "loader" else {"arch": arch}),
        }
        if proof:
            request = AbRequest(base=commit, new=commit, what=what, settings=settings)
            section = prove_ab(request, trials or PROOF_TRIALS, session.keep, session.begun())
            session.show(section)
            failed = failures(section)
        else:
            request = AbRequest(base=base, new=new, what=what, settings=settings)
            for _ in range(trials or 1):
                section, comparison = measure_ab(request)
                session.show(section)
                verdicts.append(comparison.verdict)
    if failed:
        raise JobError(f"the verdicts of bench ab are not to be trusted here: {'; '.join(failed)}")
    if len(verdicts) > 1:
        counts = [f"{verdicts.count(each)} {each}" for each in dict.fromkeys(verdicts)]
        click.echo(f"\n{trials} trials: {', '.join(counts)}")
    elif verdicts == ["slower"]:
        raise JobError(f"{new} is slower than {base}: {comparison}")


@click.command(context_settings=HELP)
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--runs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="More records of the command of BASE, to know the spread between runs; several times.",
)
def compare(base: Path, new: Path, runs: tuple[Path, ...]) -> None:
    """Two records that --json wrote: the ratio of each rate, NEW over BASE.

    Runs at different times differ by more than their repeats do, so the interval is widened by the
    spread between runs. To decide about a change, `bench ab` is sharper.
    """
    from bench.compare import compare_records, read_record, render_comparison

    more = [read_record(each) for each in runs]
    click.echo(render_comparison(compare_records(read_record(base), read_record(new), more)))


@click.command(context_settings=HELP)
@click.argument("records", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("bench.html"),
    help="The page to write.",
)
@click.option(
    "--svg",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the ladder alone, as a picture.",
)
def report(records: tuple[Path, ...], out: Path, svg: Path | None) -> None:
    """One page of HTML of some records that --json wrote: ladder, loaders, step, table.

    It needs no network and no script, and is readable on a phone.
    """
    from bench.chart import log_chart
    from bench.compare import read_record
    from bench.page import page
    from train.runs.writable import check_outputs

    check_outputs({"--out": out, "--svg": svg}, records)
    read = [read_record(each) for each in records]
    ladders = [each for record in read for each in record.sections if each.name == "ladder"]
    if svg is not None and not ladders:
        raise UserError(f"--svg {svg}: none of the records holds a ladder; `bench ladder --json`")
    out.write_text(page(read), encoding="utf-8")
    click.echo(f"written: {out}")
    if svg is not None:
        rungs = [each for each in ladders[0].results if each.unit == "images/s"]
        svg.write_text(log_chart(rungs, ladders[0].title) + "\n", encoding="utf-8")
        click.echo(f"written: {svg}")
