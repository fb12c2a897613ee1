"""The tree of a species table: every leaf in its place, names escaped, no network."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from train.report.sunburst import EDIBILITY_COLOURS, SPECIES, edibility_sunburst, tree_nodes
from train.report.taxonomy_page import taxonomy_page
from train.scores.species import COLUMNS, RANKS, read_table, shipped_table, taxonomy_of
from train.taxonomy import main

TABLE = Path(__file__).resolve().parents[2] / "train" / "data" / "species.csv"


def test_every_leaf_of_the_shipped_tree_lies_under_its_groups_up_to_the_phylum() -> None:
    nodes = {node.id: node for node in tree_nodes(taxonomy_of(tuple(shipped_table())))}
    leaves = {node.name: node for node in nodes.values() if node.rank == SPECIES}
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(leaves) == 169
    for row in rows:
        node = leaves[row["species"]]
        for rank in RANKS:
            node = nodes[node.parent]
            assert (node.rank, node.name) == (rank, row[rank])
        assert node.parent == ""


def test_the_figure_holds_every_leaf_under_its_phylum_in_its_colour() -> None:
    (trace,) = edibility_sunburst(taxonomy_of(tuple(shipped_table()))).data
    parent_of = dict(zip(trace.ids, trace.parents, strict=True))
    colour_of = dict(zip(trace.ids, trace.marker.colors, strict=True))
    label_of = dict(zip(trace.ids, trace.labels, strict=True))
    values = dict(zip(trace.ids, trace.values, strict=True))
    found = 0
    for species in shipped_table().values():
        (leaf,) = (each for each in parent_of if each.split("\t")[-1] == species.name)
        assert colour_of[leaf] == EDIBILITY_COLOURS[species.edibility]
        top = leaf
        while parent_of[top]:
            top = parent_of[top]
        assert label_of[top] == species.lineage[-1]
        found += 1
    assert found == sum(values[each] for each, parent in parent_of.items() if not parent) == 169


def test_equal_names_in_different_places_and_unknown_ranks_make_a_tree(tmp_path: Path) -> None:
    rows = ["A a,A,F,O,C,P,,", "B b,B,,,,,,", "A,,,,,,,", "C c,C,,O,C,P,,"]
    (tmp_path / "t.csv").write_text("\n".join([",".join(COLUMNS), *rows]))
    nodes = tree_nodes(taxonomy_of(tuple(read_table(tmp_path / "t.csv")), tmp_path / "t.csv"))
    ids = [node.id for node in nodes]
    assert len(set(ids)) == len(ids)
    assert {node.parent for node in nodes} <= {"", *ids}
    assert {node.name: node.parent for node in nodes if node.rank == SPECIES} == {
        "A a": "P\tC\tO\tF\tA", "B b": "B", "A": "", "C c": "P\tC\tO\tC",
    }  # fmt: skip


def test_the_command_writes_a_page_that_needs_no_network(command_line: Any, tmp_path: Path) -> None:
    ended = command_line(main, "--out", tmp_path / "tree.html")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"169 species: {tmp_path / 'tree.html'}\n"
    page = (tmp_path / "tree.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page.replace(get_plotlyjs(), ""))
    assert "Amanita phalloides" in page
    assert "No model decides what may be eaten" in page


def test_a_species_called_like_a_script_stays_text(tmp_path: Path) -> None:
    name = "<script>alert(1)</script> & <b>bold</b>"
    table = tmp_path / "t.csv"
    table.write_text(f"{','.join(COLUMNS)}\n{name},A,F,O,C,P,edible,\n")
    page = taxonomy_page(taxonomy_of(tuple(read_table(table)), table))
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<b>bold" not in page


@pytest.mark.parametrize(
    ("out", "message"), [("none/tree.html", "no folder "), ("folder", "is a directory")]
)
def test_a_page_that_cannot_be_written_is_refused(
    command_line: Any, tmp_path: Path, out: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    ended = command_line(main, "--out", tmp_path / out)
    assert (ended.code, ended.out) == (2, "")
    assert "--out" in ended.err
    assert message in ended.err
