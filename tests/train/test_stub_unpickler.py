"""The reader of foreign pickles: tensors come out, nothing runs, whatever the file says."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import UserError
from train.checkpoints.stub_unpickler import Stub, load_inert


def saved(tmp_path: Path, content: Any) -> Path:
    torch.save(content, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def rewritten(path: Path, name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive with one of its files replaced."""
    with zipfile.ZipFile(path) as archive:
        files = {each: archive.read(each) for each in archive.namelist()}
    (key,) = (each for each in files if each.endswith(name))
    with zipfile.ZipFile(path, "w", compression) as archive:
        for each, old in files.items():
            archive.writestr(each, content if each == key else old)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        load_inert(path)
    message = refused.value.format_message()
    assert message.startswith(f"{path} is damaged or not of torch.save: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
              torch.int16, torch.int8, torch.uint8, torch.bool],
)  # fmt: skip
def test_tensors_of_every_type_come_out_as_they_went_in(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype)
    content = {
        "plain": tensor,
        "transposed": tensor.transpose(0, 2),
        "part": tensor[1, 1:],
        "empty": tensor[:0],
        "single": tensor[0, 0, 0],
    }
    loaded = load_inert(saved(tmp_path, content))
    assert list(loaded) == list(content)
    assert all(torch.equal(loaded[name], each) for name, each in content.items())
    assert all(loaded[name].dtype == dtype for name in content)


def test_parameters_become_plain_tensors_that_share_as_they_shared(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    loaded = load_inert(saved(tmp_path, {"a": weight, "b": weight.detach()[1:]}))
    assert type(loaded["a"]) is torch.Tensor
    assert not loaded["a"].requires_grad
    loaded["a"][2] = 5
    assert loaded["b"].tolist() == [1, 5]


def test_plain_data_stays_and_foreign_objects_become_stubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = types.ModuleType("omegaconf")

    class Container(dict[str, int]):
        pass

    Container.__module__, Container.__qualname__ = "omegaconf", "Container"
    foreign.Container = Container  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "omegaconf", foreign)
        content = {
            "epoch": 19,
            "list": [1.5, "x", None, (True,)],
            "ordered": OrderedDict(a=1),
            "container": Container(a=1),
            "optimizer": partial(torch.optim.AdamW, lr=1e-3),
            "path": Path("x"),
            "set": {1, 2},
        }
        path = saved(tmp_path, content)
    loaded = load_inert(path)
    assert "omegaconf" not in sys.modules
    stubs = {"container", "optimizer", "path", "set"}
    assert {name for name, each in loaded.items() if isinstance(each, Stub)} == stubs
    assert all(loaded[name] == content[name] for name in set(content) - stubs)


class Reduced:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


def test_no_function_that_a_pickle_names_is_called(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    attempts = [
        Reduced(os.system, f"touch {proof}"),
        Reduced(eval, f"open({str(proof)!r}, 'w')"),
        Reduced(exec, f"open({str(proof)!r}, 'w')"),
        Reduced(Path.touch, proof),
        Reduced(partial, os.system, f"touch {proof}"),
        Reduced(torch.load, str(proof)),
        Reduced(__import__, "this"),
    ]
    for attempt in attempts:
        loaded = load_inert(saved(tmp_path, {"state_dict": attempt}))
        assert isinstance(loaded["state_dict"], Stub)
    assert not proof.exists()
    assert "this" not in sys.modules


def test_the_known_functions_cannot_be_changed_by_a_pickle(tmp_path: Path) -> None:
    """BUILD fills what lies on the stack: here the function that rebuilds tensors."""
    path = saved(tmp_path, {"a": torch.ones(2)})
    evil = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00xK\x01sb."
    assert "no object to be filled" in refusal(rewritten(path, "data.pkl", evil))


def test_a_tensor_cannot_look_beyond_its_storage(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(4)})
    with zipfile.ZipFile(path) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("data.pkl"))
        content = archive.read(name)
    size = b"K\x04\x85"  # the tuple (4,)
    assert size in content
    more = rewritten(path, "data.pkl", content.replace(size, b"K\x7f\x85"))
    assert "a tensor of shape (127,) in 4 stored numbers" in refusal(more)


def test_a_few_bytes_cannot_claim_much_memory(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(1).expand(1000, 1000)})
    assert "a tensor of shape (1000, 1000) in 1 stored numbers" in refusal(path)
    numbered = b"\x80\x02}r" + (700_000_000).to_bytes(4, "little") + b"."
    assert "numbers an object 700,000,000 in 9 bytes" in refusal(
        rewritten(path, "data.pkl", numbered)
    )


def nested(depth: int) -> bytes:
    """The tuple of a tuple of ... a number, as opcodes: pickle itself cannot write that many."""
    return b"K\x01" + b"\x85" * depth


def test_tuples_nested_deep_enough_to_end_the_interpreter_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(1)})
    for depth in (101, 1_000_000):
        as_key = b"\x80\x02}" + nested(depth) + b"K\x01s."
        as_storage = b"\x80\x02(X\x07\x00\x00\x00storageN" + nested(depth) + b"NNtQ."
        for evil in (as_key, as_storage):
            assert "nests tuples more than 100 deep" in refusal(rewritten(path, "data.pkl", evil))
    fine = b"\x80\x02}" + nested(100) + b"K\x01s."
    assert list(load_inert(rewritten(path, "data.pkl", fine)).values()) == [1]


def test_nesting_is_seen_through_marks_and_memo(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(1)})
    by_mark = b"K\x01" + b"(" * 200 + b"K\x01" + b"t" * 200 + b"."
    by_memo = b"K\x01q\x00" + b"h\x00\x85q\x00" * 200 + b"."
    for evil in (by_mark, by_memo):
        assert "nests tuples more than 100 deep" in refusal(
            rewritten(path, "data.pkl", b"\x80\x02" + evil)
        )


def test_a_storage_is_named_by_text_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(1)})
    evil = b"\x80\x02(X\x07\x00\x00\x00storageN]NNtQ."
    assert "a storage is named by a list" in refusal(rewritten(path, "data.pkl", evil))


def test_a_storage_of_another_length_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(4)})
    assert "storage 0 has 3 bytes" in refusal(rewritten(path, "data/0", b"abc"))


def test_numbers_of_the_other_byte_order_and_compression_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(4)})
    assert "little-endian" in refusal(rewritten(path, "byteorder", b"big"))
    path = saved(tmp_path, {"a": torch.ones(4)})
    assert "compressed" in refusal(rewritten(path, "byteorder", b"little", zipfile.ZIP_DEFLATED))


@given(st.binary(max_size=60))
def test_whatever_stands_in_the_pickle_it_loads_or_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes
) -> None:
    path = saved(tmp_path_factory.mktemp("any"), {"a": torch.ones(1)})
    rewritten(path, "data.pkl", pickle.dumps({"a": 1}, 2)[:-1] + tail)
    with suppress(UserError):
        load_inert(path)
        return
    refusal(path)
