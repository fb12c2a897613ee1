"""``rebalance``: one word for the three fields that decide what rare classes count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REBALANCE: Mapping[str, Mapping[str, Any]] = {
    "none": {"sampling": "natural", "logit_adjust": 0.0, "class_balance": 0.0},
    "csv": {"sampling": "csv", "logit_adjust": 0.0, "class_balance": 0.0},
    "sqrt": {"sampling": "sqrt", "logit_adjust": 0.0, "class_balance": 0.0},
    "logit-adjust": {"sampling": "natural", "logit_adjust": 1.0, "class_balance": 0.0},
    "class-balanced": {"sampling": "natural", "logit_adjust": 0.0, "class_balance": 0.999},
}
"""What each stands for. Cui et al. (arXiv:1901.05555) tried 0.9, 0.99, 0.999 and 0.9999."""
NAME = "rebalance"


def without_rebalance(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of one place, with those that ``rebalance`` stands for in its stead.

    Raises:
        ValueError: There is no such word, or the place gives one of the fields as well.
    """
    if NAME not in values:
        return values
    word, rest = values[NAME], {name: each for name, each in values.items() if name != NAME}
    if not isinstance(word, str) or word not in REBALANCE:
        raise ValueError(f"{NAME} must be one of {', '.join(REBALANCE)}; got {word!r}")
    if both := [name for name in REBALANCE[word] if name in rest]:
        raise ValueError(f"{NAME} {word} decides {both[0]} as well; give one of the two")
    return {**rest, **REBALANCE[word]}
