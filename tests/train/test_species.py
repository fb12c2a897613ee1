"""The species table: a tree worked by hand, the shipped one, and tables that contradict themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shards.errors import UserError
from train.scores.published import published_class_names
from train.scores.species import (
    COLUMNS,
    RANKS,
    ROOT,
    parse_table,
    read_table,
    shipped_table,
    taxonomy_of,
)

HEADER = ",".join(COLUMNS)


def test_heights_of_a_tree_worked_by_hand(tree: Path, tree_names: tuple[str, ...]) -> None:
    taxonomy = taxonomy_of(tree_names, tree)
    assert taxonomy.unlisted == ()
    assert taxonomy.heights.tolist() == [
        # alba nigra rubra viridis flava lutea
        [0, 1, 2, 3, 4, 6],
        [1, 0, 2, 3, 4, 6],
        [2, 2, 0, 3, 4, 6],
        [3, 3, 3, 0, 4, 6],
        [4, 4, 4, 4, 0, 6],
        [6, 6, 6, 6, 6, 0],
    ]


def test_groups_of_a_tree_worked_by_hand(tree: Path, tree_names: tuple[str, ...]) -> None:
    taxonomy = taxonomy_of(tree_names, tree)
    groups, names = taxonomy.groups("family")
    assert names == ("Aaceae", "Caceae", "Daceae", "Eaceae")
    assert groups.tolist() == [0, 0, 0, 1, 2, 3]
    assert taxonomy.with_edibility("edible").tolist() == [True, False, False, True, False, False]
    assert (
        taxonomy.with_edibility("poisonous", "deadly").tolist() == [False, True, True] + [False] * 3
    )


def test_the_shipped_table_has_the_published_classes_and_three_synonyms() -> None:
    taxonomy = taxonomy_of(published_class_names())
    assert taxonomy.unlisted == ()
    assert taxonomy.synonyms == [
        ("Clitocybe nuda", "Lepista nuda"),
        ("Lycoperdon pyriforme", "Apioperdon pyriforme"),
        ("Merulius tremellosus", "Phlebia tremellosa"),
    ]
    groups, names = taxonomy.accepted
    assert len(names) == 166
    at = {name: number for number, name in enumerate(taxonomy.names)}
    assert groups[at["Clitocybe nuda"]] == groups[at["Lepista nuda"]]
    assert all(all(each.lineage) for each in taxonomy.classes)


def test_heights_of_the_shipped_table_are_those_of_a_tree() -> None:
    heights = taxonomy_of(tuple(shipped_table())).heights
    assert torch.equal(heights, heights.T)
    assert heights.unique().tolist() == list(range(ROOT + 1))
    # Ultrametric: of three species, the two largest heights are equal.
    for third in range(0, len(heights), 10):
        via = torch.maximum(heights[:, third, None], heights[third])
        assert (heights <= via).all()


def test_a_class_that_the_table_lacks_takes_its_genus_from_its_name() -> None:
    taxonomy = taxonomy_of(["Amanita muscaria", "Amanita nova", "Bluebell", "Bluebell rare", " "])
    assert taxonomy.unlisted == ("Amanita nova", "Bluebell", "Bluebell rare", " ")
    known, new = taxonomy.classes[:2]
    assert new.lineage == known.lineage
    assert new.edibility == ""
    assert taxonomy.heights[0].tolist() == [0, 1, ROOT, ROOT, ROOT]
    assert taxonomy.heights[2].tolist() == [ROOT, ROOT, 0, 1, ROOT]
    assert taxonomy.groups("family")[1] == ("Amanitaceae", "(Bluebell)", "( )")


def test_species_of_unknown_families_share_none() -> None:
    table = parse_table(f"{HEADER}\nA a,A,,,,,,\nB b,B,,,,,,\nA c,A,,,,,,\n", "t")
    assert set(table) == {"A a", "B b", "A c"}
    taxonomy = taxonomy_of(["Xus a", "Yus b", "Xus c"])
    for rank in RANKS:
        assert taxonomy.groups(rank)[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("A a,A,F,O,C,P,yummy,", "species table t, line 2: edibility 'yummy' is none of edible, "
         "caution, inedible, poisonous, deadly, or empty"),
        ("A a,A,F,O,C,P,,\nA a,A,F,O,C,P,,", "species table t, line 3: 'A a' is named twice"),
        (",A,F,O,C,P,,", "species table t, line 2: no species"),
        ("A a,A,F,O,C,P,,\nA b,A,G,O,C,P,,", "species table t: genus A is in two groups, family F "
         "and G"),
        ("A a,A,F,O,C,P,,\nB b,B,G,O,C,,,", "species table t: class C is in two groups, phylum none "
         "and P"),
    ],
)  # fmt: skip
def test_a_table_that_contradicts_itself_is_refused(rows: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_table(f"{HEADER}\n{rows}\n", "t")
    assert refused.value.format_message() == message


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("species,genus\nA a,A\n")
    with pytest.raises(UserError, match=r"table.csv has no column 'family'; expected the columns "):
        read_table(tmp_path / "table.csv")


def test_a_table_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"table.csv is not UTF-8 text; save it as CSV UTF-8"):
        read_table(tmp_path / "table.csv")
    with pytest.raises(UserError, match=r"cannot read species table .*none.csv: No such file"):
        read_table(tmp_path / "none.csv")


def test_spaces_byte_order_mark_and_further_columns_do_not_matter(tmp_path: Path) -> None:
    header = ",".join(["note", *reversed(COLUMNS)])
    (tmp_path / "table.csv").write_text(
        f"\ufeff{header}\nx,, edible,P,C,O,F,A,A a \n", encoding="utf-8"
    )
    (only,) = read_table(tmp_path / "table.csv").values()
    assert (only.name, only.edibility) == ("A a", "edible")
    assert only.lineage == ("A", "F", "O", "C", "P")
