"""How deep a pickle nests its tuples, told from its opcodes before anything of it is built.

A tuple hashes what it holds, and Python's C code does so without a limit: one that is nested a
hundred thousand times, as the key of a dictionary, ends the interpreter where it stands.
"""

from __future__ import annotations

import pickletools
from typing import BinaryIO

DEEPEST = 100
"""What ``torch.save`` writes stays far below."""
NESTS = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}
"""Opcodes whose result hashes what it holds."""
PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
GETS = {"GET", "BINGET", "LONG_BINGET"}


def check_nesting(file: BinaryIO, size: int) -> None:
    """Refuse a pickle that nests deeper than :data:`DEEPEST`, or numbers objects that it cannot hold.

    Args:
        file: Read from where the pickle begins to its end.
        size: Bytes that it has at most.

    Raises:
        ValueError: It does, or is no pickle.
    """
    depths: list[int] = []  # of what the unpickler would have on its stack
    marks: list[int] = []  # how much lies below each of its marks
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in PUTS:
            number = len(memo) if argument is None else argument
            if number > size:  # the unpickler would reserve memory up to there
                raise ValueError(f"it numbers an object {number:,} in {size:,} bytes")
            memo[number] = depths[-1]
        elif opcode.name in GETS:
            depths.append(memo[int(argument or 0)])
        elif opcode.name == "MARK":
            marks.append(len(depths))
        else:
            before = opcode.stack_before
            if pickletools.markobject in before:
                first = marks.pop() - before.index(pickletools.markobject)
            else:
                first = len(depths) - len(before)
            if first < 0:
                raise ValueError("it takes more from its stack than is there")
            depth = max(depths[first:], default=0) + (opcode.name in NESTS)
            if depth > DEEPEST:
                raise ValueError(f"it nests tuples more than {DEEPEST} deep")
            depths[first:] = [depth] * len(opcode.stack_after)
