"""The taxonomy as a tree of nodes, and as an interactive sunburst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from train.report.page import plain
from train.scores.species import RANKS, Taxonomy

SPECIES = "species"
EDIBILITY_COLOURS = {
    "edible": "#4c9f4c",
    "caution": "#d9b93b",
    "inedible": "#9a9a9a",
    "poisonous": "#d9722e",
    "deadly": "#b3202a",
    "": "#c9c9c9",
}
INNER = "#eef0ee"
SEPARATOR = "\t"


@dataclass(frozen=True, slots=True)
class Node:
    """A species or a group of them."""

    id: str
    """The names from the widest group down: equal names in different places stay apart."""
    parent: str
    """Its id; empty for the widest groups."""
    name: str
    rank: str
    classes: tuple[int, ...]
    """Labels of the species below it, or of itself."""


def tree_nodes(taxonomy: Taxonomy) -> list[Node]:
    """Every group and every species; groups whose rank is not known are left out of the path."""
    members: dict[tuple[str, ...], list[int]] = {}
    ranks: dict[tuple[str, ...], str] = {}
    for label, species in enumerate(taxonomy.classes):
        steps = [
            (name, rank)
            for name, rank in zip(species.lineage[::-1], RANKS[::-1], strict=True)
            if name
        ]
        path: tuple[str, ...] = ()
        for name, rank in [*steps, (species.name, SPECIES)]:
            path = (*path, name)
            members.setdefault(path, []).append(label)
            ranks[path] = rank
    return [
        Node(
            id=SEPARATOR.join(path),
            parent=SEPARATOR.join(path[:-1]),
            name=path[-1],
            rank=ranks[path],
            classes=tuple(labels),
        )
        for path, labels in members.items()
    ]


def sunburst(nodes: Sequence[Node], colours: Sequence[str], texts: Sequence[str]) -> Any:
    """A figure in which a click on a group goes into it, and one on the centre back out.

    Args:
        nodes: From :func:`tree_nodes`.
        colours: CSS colour of each.
        texts: What each shows under the mouse, line by line.
    """
    import plotly.graph_objects as go

    return go.Figure(
        go.Sunburst(
            ids=[node.id for node in nodes],
            parents=[node.parent for node in nodes],
            labels=[plain(node.name) for node in nodes],
            values=[len(node.classes) for node in nodes],
            branchvalues="total",
            leaf={"opacity": 1},
            marker={"colors": list(colours), "line": {"color": "white", "width": 1}},
            hovertext=[plain(text).replace("\n", "<br>") for text in texts],
            hoverinfo="text",
            insidetextorientation="radial",
        ),
        {
            "margin": {"t": 8, "l": 8, "r": 8, "b": 8},
            "uniformtext": {"minsize": 7, "mode": "hide"},
        },
    )


def edibility_sunburst(taxonomy: Taxonomy) -> Any:
    """The tree with every species in the colour of its edibility."""
    nodes = tree_nodes(taxonomy)
    colours, texts = [], []
    for node in nodes:
        if node.rank != SPECIES:
            colours.append(INNER)
            texts.append(f"{node.rank} {node.name}\n{len(node.classes)} species")
            continue
        species = taxonomy.classes[node.classes[0]]
        colours.append(EDIBILITY_COLOURS[species.edibility])
        synonym = f"\nsynonym of {species.synonym_of}" if species.synonym_of else ""
        lineage = "\n".join(
            f"{rank} {name}" for rank, name in zip(RANKS, species.lineage, strict=True) if name
        )
        texts.append(
            f"{species.name}{synonym}\n{species.edibility or 'edibility unknown'}\n{lineage}"
        )
    return sunburst(nodes, colours, texts)
