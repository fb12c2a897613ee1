"""The page of a species table."""

from __future__ import annotations

from collections import Counter

from train.report.page import render
from train.report.sunburst import EDIBILITY_COLOURS, edibility_sunburst
from train.scores.danger import NOTICE
from train.scores.species import Taxonomy


def taxonomy_page(taxonomy: Taxonomy) -> str:
    """An interactive tree, coloured by edibility."""
    counts = Counter(each.edibility for each in taxonomy.classes)
    return render(
        "taxonomy.html",
        {"tree": edibility_sunburst(taxonomy)},
        num_species=len(taxonomy.classes),
        counts=counts,
        colours={name: each for name, each in EDIBILITY_COLOURS.items() if counts[name]},
        notice=NOTICE,
    )
