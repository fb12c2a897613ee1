"""JSON that carries its own hash."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.sealed_json import parse_object, seal, unseal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(content=st.dictionaries(st.text().filter(lambda name: name != "sha256"), VALUES))
def test_what_is_sealed_comes_back(content: dict[str, object]) -> None:
    assert unseal(parse_object(seal(content))) == content


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_or_means_the_same(at: int, bit: int) -> None:
    content = {"names": ["a", "b"], "count": 12345}
    data = bytearray(seal(content).encode())
    data[at % len(data)] ^= 1 << bit
    try:
        found = unseal(parse_object(bytes(data)))
    except ValueError:
        return
    assert found == content  # white space


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "1",
        "null",
        "[" * 100_000,
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        b"\xff\xfe\x00",
    ],
    ids=range(9),
)
def test_what_is_no_object_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- whatever it says
        parse_object(text)


@pytest.mark.parametrize("depth", range(300, 3000, 300))
def test_no_depth_is_a_recursion_error(depth: int) -> None:
    text = json.dumps({"a": 0}).replace("0", "[" * depth + "]" * depth)
    with pytest.raises(ValueError, match=r"nested too deep|does not match"):
        unseal(parse_object(text))
