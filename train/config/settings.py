"""Where a configuration comes from: layers of fields, the strongest first, down to the recipe.

Command line > ``--config FILE.toml`` > environment (``HYPHAE_TRAIN_<FIELD>``) > ``[train]`` of
``local.toml`` > recipe. Every layer names fields alike, the nested ones of the augmentation included, and
:func:`parse` reads the text of a field wherever it was typed.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from loaders.augment import AugmentConfig
from loaders.subset import read_names
from shards.errors import UserError, unknown_name
from shards.plain import checked
from shards.settings import local_table, read_toml
from train.config.config import TrainConfig
from train.config.limits import check_limits
from train.config.rebalance import NAME as REBALANCE
from train.config.rebalance import without_rebalance
from train.config.recipes import DEFAULT_RECIPE, create_recipe
from train.config.resolution import sizes_in_proportion
from train.config.safety import duration_text, parse_duration

ENVIRONMENT = "HYPHAE_TRAIN_"
VARIABLES = "environment"
"""What the layer of these variables is called."""
AUTO, NONE = "auto", "none"
"""How text says that a field is not set: of what is then chosen by itself, and of the rest."""
CHOSEN = ("threads", "prefetch", "hw_decoder_load", "micro_batch")
LENGTHS = ("epochs", "samples", "budget")
"""Three ways to say how long a run is: the strongest layer that has one of them decides."""
STARTS = ("weights", "finetune_from")
"""Two ways to say which weights a run starts from, likewise."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field as every layer names it."""

    name: str
    hint: Any
    """Its type."""
    help: str
    nested_in: str | None = None
    """The field of :class:`TrainConfig` that holds it, where it is not there itself."""

    @property
    def is_optional(self) -> bool:
        """Whether it may be left unset."""
        return NoneType in get_args(self.hint)

    @property
    def kind(self) -> Any:
        """Its type where it is set."""
        if get_origin(self.hint) in (Union, UnionType):
            return next(each for each in get_args(self.hint) if each is not NoneType)
        return self.hint


@dataclass(frozen=True, slots=True)
class Layer:
    """What one place says, by field; text is parsed."""

    source: str
    values: Mapping[str, Any]

    def place(self, name: str) -> str:
        """Where a field stands, for a message."""
        return f"{ENVIRONMENT}{name.upper()}" if self.source == VARIABLES else self.source

    def read(self, name: str) -> Any:
        """The value of a field, of the right type and within its limits.

        Raises:
            UserError: It makes no sense, or there is no such field.
        """
        if name not in FIELDS:
            raise UserError(f"{self.place(name)}: {_no_field(name)}")
        value = self.values[name]
        try:
            if isinstance(value, str):
                return parse(name, value)
            value = checked(FIELDS[name].hint, value, name)
            check_limits(name, value)
        except (ValueError, OverflowError) as error:
            raise UserError(f"{self.place(name)}: {error}") from None
        return value


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration, and where each field's value was found."""

    config: TrainConfig
    sources: Mapping[str, str]


def _fields_of(kind: type, nested_in: str | None = None) -> dict[str, Field]:
    helps = _docstrings(kind)
    hints = get_type_hints(kind)
    return {name: Field(name, hints[name], helps.get(name, ""), nested_in) for name in hints}


def _docstrings(kind: type) -> dict[str, str]:
    """The text behind each field of a class, which Python itself does not keep."""
    (body,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for line, behind in zip(body.body, body.body[1:], strict=False):
        match line, behind:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(text))
            ):
                found[name] = " ".join(text.replace("``", "").split())
    return found


FIELDS = {
    name: each
    for outer in _fields_of(TrainConfig).values()
    for name, each in (
        _fields_of(AugmentConfig, outer.name)
        if outer.hint is AugmentConfig
        else {outer.name: outer}
    ).items()
}
"""Every field by name, in the order of the help."""


def parse(name: str, text: str) -> Any:
    """The value of a field from what was typed, in an option, a variable or a TOML string.

    Raises:
        ValueError: The text is none of its values.
    """
    field, text = FIELDS[name], text.strip()
    if field.is_optional and text in (AUTO, NONE):
        return None
    kind, parts = field.kind, get_args(field.kind)
    if kind is str:
        return text
    if name == "budget":
        value = parse_duration(text)
        check_limits(name, value)
        return value
    if kind is bool:
        return _one_of(name, ("true", "false"), text) == "true"
    if get_origin(kind) is Literal:
        return _one_of(name, parts, text)
    if parts == (str, ...):
        return read_names([text]) if text else ()
    if name == "fold":
        if not re.fullmatch(r"\d+/\d+", text):
            raise ValueError(f"{text!r} is not I/N, as in 0/5")
        return tuple(map(int, text.split("/")))
    if get_origin(kind) is tuple:
        values = [_number(name, parts[0], each) for each in text.split(",")]
        if len(values) != len(parts):
            raise ValueError(f"{name} needs {len(parts)} numbers with commas, got {text!r}")
        return tuple(values)
    value = _number(name, kind, text)
    check_limits(name, value)
    return value


def _one_of(name: str, known: Sequence[str], text: str) -> str:
    if text not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {text!r}")
    return text


def _number(name: str, kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} must be {what}, got {text!r}") from None


def as_text(name: str, value: Any) -> str:
    """The reverse of :func:`parse`."""
    if value is None:
        return AUTO if name in CHOSEN else NONE
    if isinstance(value, bool):
        return str(value).lower()
    if name == "budget":
        return duration_text(value)
    if isinstance(value, tuple):
        return ("/" if name == "fold" else ",").join(map(str, value))
    return str(value)


def load_layers(command_line: Mapping[str, Any], file: Path | None = None) -> list[Layer]:
    """All layers above the recipe, the strongest first.

    Args:
        command_line: The fields that were given as options.
        file: What ``--config`` names.

    Raises:
        UserError: A file cannot be read.
    """
    variables = {
        name.removeprefix(ENVIRONMENT).lower(): text
        for name, text in os.environ.items()
        if name.startswith(ENVIRONMENT)
    }
    table, table_file = local_table("train")
    layers = [Layer("command line", command_line)]
    if file is not None:
        layers.append(Layer(str(file), read_toml(file)))
    return [*layers, Layer(VARIABLES, variables), Layer(f"{table_file} [train]", table)]


def settle(layers: Sequence[Layer]) -> Settings:
    """The configuration that the layers and the recipe below them make.

    Args:
        layers: The strongest first.

    Raises:
        UserError: A field is unknown, its value makes no sense, or two contradict each other.
    """
    chosen: dict[str, Any] = {}
    sources: dict[str, str] = {}
    length: str | None = None
    start: str | None = None
    for layer in map(_spelled_out, layers):
        settled = (LENGTHS if length else ()) + (STARTS if start else ())
        for name in layer.values:
            value = layer.read(name)
            if name not in chosen and name not in settled:
                chosen[name], sources[name] = value, layer.source
        length = length or _length(layer)
        start = start or next(iter(_given(STARTS, layer)), None)
    recipe = chosen.get("recipe", DEFAULT_RECIPE)
    base = flatten(create_recipe(recipe))
    if length is not None:  # the recipe may have another one
        base |= {name: None for name in ("samples", "budget") if name != length}
    defaults = dict.fromkeys(FIELDS, f"recipe {recipe}")
    if start is not None:
        base |= dict.fromkeys(STARTS)
        defaults |= dict.fromkeys(STARTS, f"{start} is where the run starts")
    image_size = chosen.get("image_size")
    if isinstance(image_size, int):
        sizes = sizes_in_proportion(base, image_size)
        base |= sizes
        defaults |= dict.fromkeys(sizes, f"recipe {recipe}, at {image_size} px")
    if length in ("samples", "budget"):  # which promise an end; the recipe's patience is for epochs
        base["patience"], defaults["patience"] = None, f"{length} ends the run"
    plain = _nested(base | chosen)
    return Settings(TrainConfig.from_dict(plain), defaults | sources)


def _no_field(name: str) -> str:
    """What to say of a name that is none."""
    if name == "train":
        return "[train] is for local.toml; here the fields stand by themselves, without it"
    if name == "shards":
        return "the shard set is no field; name it with --shards or HYPHAE_SHARDS_DIR"
    return unknown_name("field", name, FIELDS)


def _length(layer: Layer) -> str | None:
    """Which of :data:`LENGTHS` a layer has.

    Raises:
        UserError: More than one.
    """
    found = _given(LENGTHS, layer)
    if len(found) > 1:
        raise UserError(
            f"{layer.source}: {' and '.join(found)} each say how long the run is; give one of them"
        )
    return found[0] if found else None


def _given(names: Sequence[str], layer: Layer) -> list[str]:
    """Which of these fields a layer sets to something."""
    return [name for name in names if layer.values.get(name) not in (None, NONE)]


def _spelled_out(layer: Layer) -> Layer:
    """The layer with fields alone."""
    try:
        return Layer(layer.source, without_rebalance(layer.values))
    except ValueError as error:
        raise UserError(f"{layer.place(REBALANCE)}: {error}") from None


def flatten(config: TrainConfig) -> dict[str, Any]:
    """Every field by its own name."""
    nested = {each.name: getattr(config, each.name) for each in fields(config)}
    return {
        name: nested[name] if each.nested_in is None else getattr(nested[each.nested_in], name)
        for name, each in FIELDS.items()
    }


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in values.items():
        holder = FIELDS[name].nested_in
        (plain if holder is None else plain.setdefault(holder, {}))[name] = value
    return plain


def to_toml(settings: Settings) -> str:
    """A file for ``--config``, with where each value came from behind it."""
    values = flatten(settings.config)
    length = next((name for name in ("samples", "budget") if values[name] is not None), "epochs")
    # Of the three lengths a file gives the one that counts.
    lines = {
        name: f"{name} = {_toml(name, value)}"
        for name, value in values.items()
        if name not in LENGTHS or name == length
    }
    width = min(48, max(map(len, lines.values())))
    return "".join(f"{line:<{width}}  # {settings.sources[name]}\n" for name, line in lines.items())


def _toml(name: str, value: Any) -> str:
    if value is None or name == "budget":
        return json.dumps(as_text(name, value))
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(name, each) for each in value)}]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
