"""The species table: lineage, edibility, synonyms; what it says about the classes of a data set."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path

import torch

from shards.errors import UserError

RANKS = ("genus", "family", "order", "class", "phylum")
"""From the known_below to the widest."""
EDIBILITY = ("edible", "caution", "inedible", "poisonous", "deadly")
DANGEROUS = frozenset({"poisonous", "deadly"})
COLUMNS = ("species", *RANKS, "edibility", "synonym_of")
ROOT = len(RANKS) + 1
"""Height of what all species have in common; a species has height 0, its genus 1."""


@dataclass(frozen=True, slots=True)
class Species:
    """One row of the table; what is not known is empty."""

    name: str
    lineage: tuple[str, ...]
    """Names of its :data:`RANKS`."""
    edibility: str = ""
    synonym_of: str = ""
    """The name under which the same species is a class of its own."""

    def known_below(self, below: int) -> str:
        """The widest group that is known below a rank, or the species itself."""
        return next((each for each in self.lineage[:below][::-1] if each), self.name)


@dataclass(frozen=True)
class Taxonomy:
    """What is known of a data set's K classes, in the order of their labels."""

    classes: tuple[Species, ...]
    unlisted: tuple[str, ...]
    """Classes that the table lacks."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return tuple(each.name for each in self.classes)

    def knows(self, rank: str) -> bool:
        """Whether any class has a name at a rank."""
        return any(each.lineage[RANKS.index(rank)] for each in self.classes)

    def groups(self, rank: str) -> tuple[torch.Tensor, tuple[str, ...]]:
        """``(K,)`` int64 group of each class at a rank, and the names of the groups.

        Where a rank is not known, the nearest narrower one that is makes a group.
        """
        at = RANKS.index(rank)
        return _numbered([each.lineage[at] or f"({each.known_below(at)})" for each in self.classes])

    @cached_property
    def accepted(self) -> tuple[torch.Tensor, tuple[str, ...]]:
        """``(K,)`` int64 species of each class with synonyms merged, and the species' names."""
        return _numbered([each.synonym_of or each.name for each in self.classes])

    @property
    def synonyms(self) -> list[tuple[str, str]]:
        """Pairs of classes that are one species."""
        names = set(self.names)
        return [(each.name, each.synonym_of) for each in self.classes if each.synonym_of in names]

    @cached_property
    def heights(self) -> torch.Tensor:
        """``(K, K)`` int64: height of the lowest common ancestor of two classes.

        0 for a class and itself, 1 within a genus, 2 within a family, ... and :data:`ROOT` for two
        that have nothing in common (Bertinetto et al., "Making Better Mistakes", arXiv:1912.09393).
        """
        size = len(self.classes)
        heights = torch.full((size, size), ROOT)
        for height in range(len(RANKS), 0, -1):
            groups, _ = self.groups(RANKS[height - 1])
            heights[groups[:, None] == groups] = height
        return heights.fill_diagonal_(0)

    def with_edibility(self, *wanted: str) -> torch.Tensor:
        """``(K,)`` bool: the classes of certain edibilities."""
        return torch.tensor([each.edibility in wanted for each in self.classes])


def taxonomy_of(class_names: Sequence[str], table: Path | None = None) -> Taxonomy:
    """What a species table says about the classes of a data set.

    Args:
        class_names: In the order of the labels.
        table: A file with the columns of the shipped one; None for that.

    Raises:
        UserError: The table cannot be read, or contradicts itself.
    """
    species = shipped_table() if table is None else read_table(table)
    lineages = {each.lineage[0]: each.lineage for each in species.values()}

    def unlisted(name: str) -> Species:
        genus = name.split()[0] if name.strip() else name
        return Species(name, lineages.get(genus, (genus, *[""] * (len(RANKS) - 1))))

    return Taxonomy(
        classes=tuple(species.get(name) or unlisted(name) for name in class_names),
        unlisted=tuple(name for name in class_names if name not in species),
    )


def class_tree(class_names: Sequence[str], table: Path | None = None) -> torch.Tensor:
    """The tree of a data set's classes as :attr:`Taxonomy.heights`, for a loss that knows it.

    Args:
        class_names: In the order of the labels.
        table: A file with the columns of the shipped one; None for that.

    Raises:
        UserError: The table cannot be read, or says of no two classes that they are closer to each
            other than others are.
    """
    heights = taxonomy_of(class_names, table).heights
    if len(set(heights.flatten().tolist())) < 3:  # 0 on the diagonal, and one elsewhere
        source = "species.csv" if table is None else str(table)
        raise UserError(
            f"by species table {source} the {len(class_names)} classes are all equally far from each "
            "other, so a hierarchy loss has nothing to say; name a table of these classes with "
            f"--species (CSV, columns {','.join(COLUMNS)})"
        )
    return heights


@cache
def shipped_table() -> dict[str, Species]:
    """The 169 species of the published set, by name."""
    name = "species.csv"
    text = resources.files("train").joinpath("data", name).read_text(encoding="utf-8")
    return parse_table(text, name)


def read_table(path: Path) -> dict[str, Species]:
    """A data set's own species table, by name.

    Raises:
        UserError: It cannot be read, or contradicts itself.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read species table {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"species table {path} is not UTF-8 text; save it as CSV UTF-8") from None
    return parse_table(text, str(path))


def parse_table(text: str, source: str) -> dict[str, Species]:
    """The species of a table's text, by name.

    Args:
        text: CSV with a header; :data:`COLUMNS` in any order, others do not matter.
        source: What to call it in messages.

    Raises:
        UserError: A column is missing, a species is named twice, an edibility does not exist, or a
            group of species lies in two places of the tree.
    """
    reader = csv.DictReader(io.StringIO(text))
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise UserError(
            f"species table {source} has no column {missing[0]!r}; expected the columns "
            f"{','.join(COLUMNS)}"
        )
    species: dict[str, Species] = {}
    for row in reader:
        values = {name: (row[name] or "").strip() for name in COLUMNS}
        name, edibility = values["species"], values["edibility"]
        where = f"species table {source}, line {reader.line_num}"
        if not name or name in species:
            raise UserError(f"{where}: {f'{name!r} is named twice' if name else 'no species'}")
        if edibility and edibility not in EDIBILITY:
            raise UserError(
                f"{where}: edibility {edibility!r} is none of {', '.join(EDIBILITY)}, or empty"
            )
        lineage = tuple(values[rank] for rank in RANKS)
        species[name] = Species(name, lineage, edibility, values["synonym_of"])
    _check_tree(species, source)
    return species


def _check_tree(species: dict[str, Species], source: str) -> None:
    """Raise where a group has two parents, so that the table describes no tree."""
    for rank in range(len(RANKS) - 1):
        parents: dict[str, set[str]] = defaultdict(set)
        for each in species.values():
            if each.lineage[rank]:
                parents[each.lineage[rank]].add(each.lineage[rank + 1])
        for name, above in parents.items():
            if len(above) > 1:
                first, second = (each or "none" for each in sorted(above)[:2])
                raise UserError(
                    f"species table {source}: {RANKS[rank]} {name} is in two groups, "
                    f"{RANKS[rank + 1]} {first} and {second}"
                )


def _numbered(names: list[str]) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Equal names get one number; in the order of their first occurrence."""
    distinct = tuple(dict.fromkeys(names))
    number = {name: at for at, name in enumerate(distinct)}
    return torch.tensor([number[name] for name in names]), distinct
