"""The fields of the configuration as options of a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import click

from train.config.limits import LIMITS
from train.config.rebalance import NAME as REBALANCE_NAME
from train.config.rebalance import REBALANCE
from train.config.recipes import DEFAULT_RECIPE, RECIPES, create_recipe
from train.config.safety import checkpoint_every_of, duration_of
from train.config.settings import FIELDS, Field, as_text, flatten, parse

NAMED_METAVARS = {"fold": "I/N", "budget": "TIME"}
METAVARS = {int: "N", float: "X", str: "NAME"}


class FieldType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3
    """What may stand behind the option of a field."""

    def __init__(self, field: Field) -> None:
        self._field = field
        self.name = _metavar(field)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text to the field's value; click turns a wrong one into its usage error.

        What unsets a field stays text: for click a None would be an option that was not given.
        """
        if (
            isinstance(value, str) and not value.strip() and self._field.kind == tuple[str, ...]
        ):  # an unset variable of a script
            self.fail("the list of names is empty", param, ctx)
        try:
            parsed = parse(self._field.name, value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value if parsed is None else parsed


class FieldOption(click.Option):
    """An option that overrides a field of the recipe; its help shows the recipe's own value.

    A command whose recipe is another than the default names it as ``obj`` in its context settings.
    """

    def get_help_extra(self, ctx: click.Context) -> Any:
        """What stands in brackets behind the help."""
        extra = super().get_help_extra(ctx)
        recipe = create_recipe(ctx.params.get("recipe") or ctx.obj or DEFAULT_RECIPE)
        value = flatten(recipe)[str(self.name)]
        if value != ():
            extra["default"] = as_text(str(self.name), value)
        if self.name in LIMITS and self.name != "budget":  # which is typed with its unit
            extra["range"] = str(LIMITS[self.name])
        return extra


shards_option = click.option(
    "--shards",
    metavar="FOLDER|URL",
    help="Shard set: a folder, https://..., or 'pipe:COMMAND {name}'.  [HYPHAE_SHARDS_DIR]",
)


def safety_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--time-limit`` and ``--checkpoint-every``, as :class:`train.config.safety.Safety` takes them."""
    command = click.option(
        "--checkpoint-every",
        metavar="TIME|STEPS",
        callback=checkpoint_every_of,
        help="What a kill may cost at most: a time, a number of steps, or both (10m,500).  [default: 10m]",
    )(command)
    return click.option(
        "--time-limit",
        metavar="TIME",
        callback=duration_of,
        help="Save and end with exit code 124 so long after the start: 45m, 3h55m.",
    )(command)


rebalance_option = click.option(
    "--rebalance",
    type=click.Choice(list(REBALANCE)),
    help="One word for sampling, logit_adjust and class_balance; docs/imbalance.md.",
)


def field_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each field, in their order; one that is not given is None."""
    for field in reversed(FIELDS.values()):
        command = _option(field)(command)
    return command


def given_fields(params: dict[str, Any]) -> dict[str, Any]:
    """The fields among a command's parameters that were given."""
    known = (*FIELDS, REBALANCE_NAME)
    return {name: each for name, each in params.items() if name in known and each is not None}


def _option(field: Field) -> Callable[[Any], Any]:
    name = f"--{field.name.replace('_', '-')}"
    common: dict[str, Any] = {"cls": FieldOption, "default": None, "help": field.help}
    if field.hint is bool:
        return click.option(f"{name}/--no-{name[2:]}", **common)
    names = get_args(field.kind) == (str, ...)
    return click.option(
        name,
        type=FieldType(field),
        multiple=names,
        callback=_joined if names else None,
        metavar=_metavar(field),
        is_eager=field.name == "recipe",  # so that --help behind it shows its values
        **common,
    )


def _joined(
    _context: click.Context, _param: click.Parameter, given: tuple[tuple[str, ...], ...] | None
) -> tuple[str, ...] | None:
    """Class names from all the times that the option was given, each once."""
    return tuple(dict.fromkeys(name for each in given or () for name in each)) or None


def _metavar(field: Field) -> str:
    kind = field.kind
    if field.name == "recipe":
        return f"[{'|'.join(RECIPES)}]"
    if get_origin(kind) is Literal:
        return f"[{'|'.join(get_args(kind))}]"
    if get_args(kind) == (str, ...):
        return "A,B|@FILE"
    if field.name in NAMED_METAVARS:
        return NAMED_METAVARS[field.name]
    if get_origin(kind) is tuple:
        return ",".join("X" for _ in get_args(kind))
    return METAVARS[kind]
