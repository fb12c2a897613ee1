"""Loaders of other projects beside ours, over the same photographs, in turns: one runs at a time."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.peers.blocks import CEILING, PeerBlocks, bare_decode, batch_size, own_subject
from bench.peers.data import PeerData, copy_photographs
from bench.peers.rows import OWN, PEERS, Peer, note_of
from bench.request import Request
from bench.result import Result, Section, not_measured
from bench.timing import Subject, in_turns
from shards.errors import UserError


def measure_peers(request: Request, originals: Path | None = None) -> Section:
    """Images a second of each loader that runs here, the others with the reason.

    Args:
        request: What is asked for; ``shards`` names a set of JPEGs.
        originals: The folder that it was packed from, for the loaders that read the files.

    Raises:
        UserError: The shard set does not fit, or ``originals`` is not there.
        ShardError: The shard set is missing or damaged.
    """
    reasons: dict[str, str] = {}
    opened: dict[str, PeerBlocks] = {}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hyphae-bench-peers-")))
        data = copy_photographs(request.shards, originals, work, workers=request.num_threads)
        ours = [bare_decode(data, request, stack)]
        ours += [own_subject(own, data, request, stack) for own in OWN]
        for number, peer in enumerate(PEERS):
            try:
                blocks = PeerBlocks(peer, data, request, work / f"peer-{number}")
            except UserError as error:
                reasons[peer.name] = error.message
                continue
            stack.callback(blocks.close)
            opened[peer.name] = blocks
        theirs = [Subject(name, blocks.block) for name, blocks in opened.items()]
        values = in_turns([*ours, *theirs], request.repeats, "peers", request.budget_s)
    reasons |= {name: blocks.failed for name, blocks in opened.items() if blocks.failed}
    results = [Result(name=each.name, repeats=values[each.name], note=each.note) for each in ours]
    for peer in PEERS:
        if peer.name in reasons:
            results.append(not_measured(peer.name, reasons[peer.name]))
        else:
            results.append(_result(peer, values[peer.name], opened[peer.name].versions))
    return _section(request, data, results)


def _result(peer: Peer, repeats: tuple[float, ...], versions: dict[str, str]) -> Result:
    return Result(
        name=peer.name,
        repeats=repeats,
        note=note_of(peer, versions),
        details={"versions": versions, "environment": peer.environment or "this one"},
    )


def _section(request: Request, data: PeerData, results: list[Result]) -> Section:
    threads, batch = request.num_threads, batch_size(request)
    return Section(
        name="peers",
        title=(
            f"peers: {request.image_size} px, batch {batch}, {threads} threads or workers, "
            f"{len(data.files):,} photographs, page cache warm, {request.shards}"
        ),
        results=tuple(results),
        reference=CEILING,
        settings={
            "image_size": request.image_size,
            "batch_size": batch,
            "threads": threads,
            "block_s": request.block_s,
            "photographs": len(data.files),
            "shards": str(request.shards),
        },
        notes=("one runs at a time, the others stand still; docs/peers.md says how each is run",),
    )
