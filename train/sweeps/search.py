"""``--search``: optuna proposes the values of the next run; its memory is SQLite in the sweep's folder.

Optional (extra ``search``), so it is imported by whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from shards.errors import UserError, unknown_name
from train.config.grid import Point, read_values
from train.config.limits import check_limits
from train.config.settings import FIELDS, Layer, as_text, parse, settle
from train.sweeps.sweep_run import Outcome

Search = Literal["tpe", "random"]
STUDY = "study.db"
LOG = "log:"
USAGE = "NAME=LOW:HIGH, NAME=log:LOW:HIGH, NAME=LOW:HIGH:STEP or NAME=A,B,C"


@dataclass(frozen=True, slots=True)
class Param:
    """What a search may choose for one field: an interval, or one of several texts."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name} ({', '.join(self.choices)})"
        step = "" if self.step is None else f" in steps of {self.step:g}"
        return f"{self.name} ({self.low:g} to {self.high:g}{step}{', log' if self.log else ''})"


def read_param(text: str) -> Param:
    """``lr=log:1e-4:1e-2`` and the other forms of :data:`USAGE`.

    Raises:
        UserError: It is none of them, or a bound is no value of the field.
    """
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name or not values.strip():
        raise UserError(f"--param {text}: expected {USAGE}")
    if name not in FIELDS:
        raise UserError(f"--param {text}: {unknown_name('field', name, FIELDS)}")
    is_number = FIELDS[name].kind in (int, float)
    if is_number and ":" in values:
        return _interval(text, name, values.strip())
    choices = read_values(name, [values])
    if len(choices) < 2:
        either = f" or an interval, as in {name}=1:10" if is_number else ""
        raise UserError(f"--param {text}: give several values{either}; a single one is an option")
    return Param(name, choices=tuple(as_text(name, each) for each in choices))


def _interval(text: str, name: str, values: str) -> Param:
    log = values.startswith(LOG)
    parts = values.removeprefix(LOG).split(":")
    if len(parts) not in ((2,) if log else (2, 3)):
        raise UserError(f"--param {text}: expected {USAGE}")
    try:
        numbers = [FIELDS[name].kind(each) for each in parts]
    except ValueError:
        kind = "whole numbers" if FIELDS[name].kind is int else "numbers"
        raise UserError(f"--param {text}: {name} takes {kind}") from None
    low, high, step = numbers[0], numbers[1], numbers[2] if len(numbers) == 3 else None
    try:
        for each in (low, high):
            check_limits(name, each)
    except ValueError as error:
        raise UserError(f"--param {text}: {error}") from None
    if not low < high:
        raise UserError(f"--param {text}: {low:g} is not below {high:g}")
    if log and low <= 0:
        raise UserError(f"--param {text}: a logarithmic interval begins above 0")
    if step is not None and not 0 < step <= high - low:
        raise UserError(f"--param {text}: the step has to be above 0 and at most {high - low:g}")
    if step is not None:  # the last value that the steps reach, in decimals: 0 to 0.3 by 0.1
        first, last, width = (Decimal(str(each)) for each in (low, high, step))
        high = type(high)(first + (last - first) // width * width)
    return Param(name, low, high, log, step)


@dataclass(frozen=True, slots=True)
class Request:
    """What a search is asked for."""

    search: Search
    trials: int
    params: tuple[Param, ...]
    fixed: Mapping[str, Any]
    """Fields that are the same in all runs, from the command line."""
    layers: tuple[Layer, ...]
    """Those below it."""

    def key(self) -> list[Any]:
        """Plain data that is equal for two sessions of one search; more trials are the same one."""
        layers = [dict(each.values) for each in self.layers]
        return [self.search, [str(each) for each in self.params], dict(self.fixed), layers]

    def point(self, values: Mapping[str, Any]) -> Point:
        """The run of proposed values.

        Raises:
            UserError: They contradict each other or the rest.
        """
        chosen = Layer("command line", {**self.fixed, **values})
        return Point(values, settle([chosen, *self.layers]).config)

    def __str__(self) -> str:
        return f"{self.search} over {', '.join(map(str, self.params))}"


class Study:
    """The trials of a search, as they are on disk: a process that ends loses none."""

    def __init__(self, folder: Path, name: str, request: Request) -> None:
        """Open it, or make it.

        Args:
            folder: Of the sweep.
            name: Of this search; a folder may hold several.
            request: What is searched.
        """
        optuna = self._optuna = library()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search, self._params = request.search, request.params
        self._study = optuna.create_study(
            storage=f"sqlite:///{folder.absolute() / STUDY}",
            study_name=name,
            direction="maximize",
            load_if_exists=True,
        )

    def run(
        self, trials: int, seed: int, run_values: Callable[[Mapping[str, Any]], Outcome]
    ) -> Iterator[Outcome]:
        """Bring the search to ``trials`` trials; those of earlier sessions come first.

        Args:
            trials: In all, failed ones included.
            seed: Of the proposals.
            run_values: From the values of a trial to its outcome. It is asked about trials that
                ended in an earlier session, too.

        Yields:
            The outcome of each trial.
        """
        for number in range(trials):
            trial = self._trial(number, seed)
            outcome = run_values(self._values(trial.params))
            self._tell(trial.number, outcome)
            yield outcome

    def _begun(self) -> list[Any]:
        return [each for each in self._study.trials if len(each.params) == len(self._params)]

    def _trial(self, number: int, seed: int) -> Any:
        begun = self._begun()
        if number < len(begun):
            return begun[number]
        for each in self._study.trials:  # killed while its values were written: it never ran
            if each not in begun and not each.state.is_finished():
                self._study.tell(each.number, state=self._optuna.trial.TrialState.FAIL)
        # A seed of its own for each trial: a search that was interrupted proposes what an unbroken
        # one would, and does not begin its random numbers anew.
        samplers = self._optuna.samplers
        sampler = samplers.TPESampler if self._search == "tpe" else samplers.RandomSampler
        self._study.sampler = sampler(seed=(seed + number) % 2**32)
        distributions = {each.name: self._distribution(each) for each in self._params}
        return self._study.ask(fixed_distributions=distributions)

    def _distribution(self, param: Param) -> Any:
        kinds = self._optuna.distributions
        if param.choices:
            return kinds.CategoricalDistribution(param.choices)
        if FIELDS[param.name].kind is int:
            step = 1 if param.step is None else int(param.step)
            return kinds.IntDistribution(int(param.low), int(param.high), param.log, step)
        return kinds.FloatDistribution(param.low, param.high, param.log, param.step)

    def _values(self, proposed: Mapping[str, Any]) -> dict[str, Any]:
        texts = {each.name for each in self._params if each.choices}
        return {
            each.name: parse(each.name, proposed[each.name])
            if each.name in texts
            else proposed[each.name]
            for each in self._params
        }

    def _tell(self, number: int, outcome: Outcome) -> None:
        if outcome.summary is None:
            state = self._optuna.trial.TrialState.FAIL
            self._study.tell(number, state=state, skip_if_finished=True)
        else:
            self._study.tell(number, outcome.summary["val_miou"], skip_if_finished=True)


def library() -> Any:
    """Optuna.

    Raises:
        UserError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("--search needs optuna: pip install 'hyphae[search]'") from None
    return optuna
