"""Where the rows of a stored JPEG are, so that some of them can be decoded without the others.

A sequential JPEG is coded from top to bottom and states its height once: a copy that states a
smaller one ends there. Where a restart marker follows every row of blocks, as packing writes them,
a copy can also begin at any of these rows.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass

FRAME_MARKERS = (0xC0, 0xC1)
"""Sequential Huffman frames: one pass from top to bottom (ITU-T T.81, table B.1)."""
SCAN_MARKER, RESTART_INTERVAL_MARKER = 0xDA, 0xDD
FIRST_RESTART, RESTARTS = 0xD0, 8
"""The markers count modulo eight from the first one on."""
END = b"\xff\xd9"
CONTEXT_ROWS = 2
"""Rows of chroma are interpolated from their neighbours: two more of them leave a row exact."""

_RESTART = re.compile(rb"\xff[\xd0-\xd7]")


@dataclass(frozen=True, slots=True)
class JpegRows:
    """The layout of one stored JPEG."""

    height: int
    """Of the image [px]."""
    height_at: int
    """Position of the two bytes that state it."""
    block: int = 0
    """Rows of pixels from one entry to the next [px]; 0 without entries."""
    entries: array[int] | None = None
    """Positions at which rows of blocks begin, and behind the last of them."""


def find_rows(payload: memoryview, height: int) -> JpegRows | None:
    """The layout of a JPEG that states ``height``; None where it has to be decoded whole."""
    at, interval, frame = 2, 0, -1
    while at + 7 <= len(payload) and payload[at] == 0xFF and payload[at + 1] != SCAN_MARKER:
        marker = payload[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in FRAME_MARKERS:  # marker, length, precision, height, width, components
            if _word(payload, at + 5) != height:
                return None
            frame = at
        elif marker == RESTART_INTERVAL_MARKER:
            interval = _word(payload, at + 4)
        at += 2 + _word(payload, at + 2)
    if frame < 0:
        return None
    rows = JpegRows(height, frame + 5)
    if interval and at + 7 <= len(payload) and payload[at + 1] == SCAN_MARKER:
        return _with_entries(payload, rows, interval, at)
    return rows


def _with_entries(payload: memoryview, rows: JpegRows, interval: int, scan: int) -> JpegRows:
    """The same with entries, if there is one a row of blocks and each is where it should be."""
    frame = rows.height_at - 5
    components = payload[frame + 9] if frame + 9 < scan else 0
    if components < 2 or payload[scan + 4] != components or frame + 10 + 3 * components > scan:
        return rows  # grey, several scans, or damaged
    factors = [payload[frame + 11 + 3 * each] for each in range(components)]
    wide, high = 8 * max(each >> 4 for each in factors), 8 * max(each & 15 for each in factors)
    if not wide or not high or interval != -(-_word(payload, frame + 7) // wide):
        return rows
    start = scan + 2 + _word(payload, scan + 2)
    entries = array("q", [start])
    for number, found in enumerate(_RESTART.finditer(payload, start)):
        if payload[found.start() + 1] != FIRST_RESTART + number % RESTARTS:
            return rows
        entries.append(found.end())
    if len(entries) != -(-rows.height // high):
        return rows
    entries.append(len(payload))
    return JpegRows(rows.height, rows.height_at, high, entries)


def copy_rows(
    payload: memoryview, rows: JpegRows, top: int, bottom: int, room: memoryview, *, context: int
) -> tuple[memoryview, int, int]:
    """A JPEG of the rows from ``top`` to ``bottom``, with some around them.

    Args:
        payload: Of the whole image.
        rows: Its layout.
        top: First row that is wanted exactly [px].
        bottom: One behind the last [px].
        room: Written; as long as ``payload`` at least.
        context: Rows around them that are decoded too.

    Returns:
        It, in ``room`` or ``payload`` itself; the row of the image with which it begins, and how many
        it has.
    """
    end = min(bottom + context, rows.height)
    first = 0
    if rows.entries is not None:
        first = max(0, top - context) // rows.block
    begin = first * rows.block
    if begin == 0 and end == rows.height:
        return payload, 0, rows.height
    if rows.entries is None or (first == 0 and end > rows.height - rows.block):
        size = len(payload)
        room[:size] = payload
    else:
        entries = rows.entries
        head, last = entries[0], -(-end // rows.block)
        source, stop = entries[first], entries[last]
        size = head + stop - source
        room[:head] = payload[:head]
        room[head:size] = payload[source:stop]
        if first % RESTARTS:
            for row in range(first + 1, last):
                room[head + entries[row] - source - 1] = (
                    FIRST_RESTART + (row - first - 1) % RESTARTS
                )
        if last < len(entries) - 1:
            room[size - 2 : size] = END  # in place of the marker behind the last row
    room[rows.height_at] = (end - begin) >> 8
    room[rows.height_at + 1] = (end - begin) & 0xFF
    return room[:size], begin, end - begin


def _word(payload: memoryview, at: int) -> int:
    """Two bytes, the high one first."""
    return payload[at] << 8 | payload[at + 1]
