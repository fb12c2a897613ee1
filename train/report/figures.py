"""Figures of a report, each from the row that ``train.evaluate --json`` writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from train.report.page import plain
from train.report.sunburst import SPECIES, sunburst, tree_nodes
from train.scores.metrics import class_scores, merged
from train.scores.species import RANKS, Taxonomy

ACCENT, SECOND, THIRD, SOFT = "#2f6b3c", "#b3202a", "#3b64a0", "#9aa39a"
MARGIN = {"t": 30, "l": 55, "r": 15, "b": 45}
LEGEND = {"orientation": "h", "y": 1.12}
WORST, MIDDLE, BEST = (179, 32, 42), (240, 214, 110), (47, 107, 60)
"""Red, yellow, green for an IoU of 0, 1/2, 1."""


def curves(epochs: Sequence[dict[str, float]], names: dict[str, str], axis: str) -> Any:
    """Lines over epochs.

    Args:
        epochs: Lines of ``metrics.jsonl``.
        names: What to draw, and what to call it.
        axis: Title of the vertical axis.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout=_layout("epoch", axis))
    for (key, name), colour in zip(names.items(), (ACCENT, SECOND, THIRD), strict=False):
        drawn = [(each["epoch"], each[key]) for each in epochs if key in each]
        figure.add_scatter(
            x=[x for x, _ in drawn], y=[y for _, y in drawn], name=name, mode="lines+markers",
            line={"color": colour},
        )  # fmt: skip
    return figure


def reliability_diagram(calibration: dict[str, Any]) -> Any:
    """Accuracy over confidence: below the diagonal the model is too sure."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=_layout("confidence", "accuracy"))
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="ideal",
                       line={"color": SOFT, "dash": "dot"}, hoverinfo="skip")  # fmt: skip
    for name, bins, colour in (
        ("as it is", calibration["bins"], SECOND),
        (f"temperature {calibration['temperature']:.3f}", calibration["bins_scaled"], ACCENT),
    ):
        full = [each for each in bins if each["images"]]
        figure.add_scatter(
            x=[each["confidence"] for each in full],
            y=[each["accuracy"] for each in full],
            text=[f"{each['images']:,} images" for each in full],
            name=name,
            mode="lines+markers",
            line={"color": colour},
        )
    figure.update_xaxes(range=[0, 1])
    figure.update_yaxes(range=[0, 1.02])
    return figure


def price_curve(prices: Sequence[dict[str, Any]]) -> Any:
    """What caution costs: dangerous confusions and accuracy over how sure "edible" has to be."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=_layout("edible only if at least so sure", "share"))
    sure = [each["sure"] for each in prices]
    rates = [each["rate"] for each in prices]
    figure.add_scatter(
        x=sure, y=rates, name="dangerous species called edible", mode="lines+markers",
        line={"color": SECOND},
        error_y={
            "type": "data", "symmetric": False, "thickness": 1,
            "array": [each["interval"]["high"] - each["rate"] for each in prices],
            "arrayminus": [each["rate"] - each["interval"]["low"] for each in prices],
        },
    )  # fmt: skip
    figure.add_scatter(x=sure, y=[each["oa"] for each in prices], name="OA",
                       mode="lines+markers", line={"color": ACCENT})  # fmt: skip
    figure.add_scatter(x=sure, y=[each["edible_found"] for each in prices],
                       name="edible species found", mode="lines+markers",
                       line={"color": THIRD})  # fmt: skip
    return figure


def confusion_map(confusion: Sequence[Sequence[int]], taxonomy: Taxonomy) -> Any:
    """The confusion matrix with relatives side by side: shares of each true class."""
    import plotly.graph_objects as go

    species = taxonomy.classes
    order = sorted(
        range(len(species)), key=lambda at: (*species[at].lineage[::-1], species[at].name)
    )
    names = [plain(species[at].name) for at in order]
    counts = [[confusion[row][column] for column in order] for row in order]
    shares = [[each / max(1, sum(row)) for each in row] for row in counts]
    return go.Figure(
        go.Heatmap(
            z=shares, x=names, y=names, customdata=counts, zmin=0, zmax=1,
            colorscale=[[0, "#ffffff"], [0.02, "#e6efe6"], [0.3, "#8db894"], [1, "#1d4427"]],
            hovertemplate="true %{y}<br>predicted %{x}<br>%{customdata} images, %{z:.1%}"
            "<extra></extra>",
            colorbar={"thickness": 12, "tickformat": ".0%"},
        ),
        {
            "margin": {"t": 10, "l": 10, "r": 10, "b": 10},
            "yaxis": {"autorange": "reversed", "automargin": True, "title": "true"},
            "xaxis": {"automargin": True, "title": "predicted", "tickangle": 90},
        },
    )  # fmt: skip


def iou_sunburst(confusion: Sequence[Sequence[int]], taxonomy: Taxonomy) -> Any:
    """The tree, every group and species in the colour of its IoU."""
    matrix = torch.tensor(confusion)
    by_name: dict[tuple[str, str], float] = {}
    for rank in RANKS:
        groups, names = taxonomy.groups(rank)
        values = class_scores(merged(matrix, groups)).iou.tolist()
        by_name |= {(rank, name): value for name, value in zip(names, values, strict=True)}
    values = class_scores(matrix).iou.tolist()
    by_name |= {(SPECIES, name): value for name, value in zip(taxonomy.names, values, strict=True)}
    nodes = tree_nodes(taxonomy)
    found = [by_name[node.rank, node.name] for node in nodes]
    return sunburst(
        nodes,
        [iou_colour(value) for value in found],
        [
            f"{node.name}\n{node.rank}, {len(node.classes)} species\n"
            f"{'no image' if value != value else f'IoU {value:.4f}'}"
            for node, value in zip(nodes, found, strict=True)
        ],
    )


def iou_colour(value: float) -> str:
    """From red over yellow to green; grey for NaN."""
    if value != value:
        return "#d5d8d5"
    low, high = (WORST, MIDDLE) if value < 0.5 else (MIDDLE, BEST)
    share = 2 * value % 1 if value < 1 else 1.0
    mixed = (round(a + share * (b - a)) for a, b in zip(low, high, strict=True))
    return f"rgb({','.join(map(str, mixed))})"


def _layout(x: str, y: str) -> dict[str, Any]:
    return {
        "margin": MARGIN, "legend": LEGEND, "template": "plotly_white", "height": 320,
        "xaxis": {"title": x}, "yaxis": {"title": y, "rangemode": "tozero"},
    }  # fmt: skip
