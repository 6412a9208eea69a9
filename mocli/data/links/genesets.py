"""Sets of genes (GMT files), and which features of a modality belong to which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from mocli.data.files.text import text_lines
from mocli.data.links.edges import EdgeLinks
from mocli.errors import InputError
from mocli.types import CSR

_EXPECTED = "a GMT file: name<TAB>description<TAB>GENE<TAB>GENE..."

LEAST_GENES = 3
"""Sets with fewer measured genes than this are left out."""


@dataclass(frozen=True, eq=False)
class GeneSets:
    """Names of sets, and the genes of each, in upper case.

    `path`: as the user named it.
    """

    path: str
    names: tuple[str, ...]
    genes: tuple[frozenset[str], ...]


def read_gene_sets(path: str | Path) -> GeneSets:
    """Read a GMT file, plain or gzipped: one set a line, with its name, a description and its genes.

    Raises `InputError`: the file cannot be read, or a line has no gene.
    """
    names, genes = [], []
    for number, line in text_lines(path, "the file of gene sets", expected=_EXPECTED):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        members = frozenset(g.strip().upper() for g in rest[1:] if g.strip())
        if not members:
            raise InputError(
                f"line {number} has no gene",
                file=path,
                field="--gene-sets",
                found=line[:60],
                expected=_EXPECTED,
            )
        names.append(name)
        genes.append(members)
    if not names:
        raise InputError("the file holds no gene set", file=path, field="--gene-sets")
    return GeneSets(str(path), tuple(names), tuple(genes))


def memberships(
    sets: GeneSets, features: Mapping[str, Sequence[str]], edges: Iterable[EdgeLinks]
) -> dict[str, CSR]:
    """Return by modality which features belong to which set, `(n_vars, n_sets)`.

    Names are compared without regard to case. Where features are not named as genes (peaks), a feature
    belongs to the sets of the genes it is linked to, by the links' weights and signs. Sets with fewer than
    3 genes in a modality are left out of it.

    Raises `InputError`: no set has enough genes in any modality.
    """
    by_modality = {name: _by_name(sets, names) for name, names in features.items()}
    named = {name: m for name, m in by_modality.items() if m.shape[1]}
    for edge in edges:
        for one, other in (edge.halves, edge.halves[::-1]):
            if one.modality not in named and other.modality in named:
                shape = (len(one.names), len(other.names))
                linked = sparse.csr_matrix((edge.weight * edge.sign, (one.linked, other.linked)), shape=shape)
                by_modality[one.modality] = sparse.csr_matrix(linked @ named[other.modality])
    if not named:
        name, genes = next(iter(features.items()))
        raise InputError(
            f"no set has {LEAST_GENES} genes among the measured features",
            file=Path(sets.path),
            field="--gene-sets",
            found=", ".join(sorted(sets.genes[0])[:5]),
            expected=f"names as in {name}: {', '.join(map(str, genes[:5]))}",
            hint="give sets in the same kind of names (symbols or Ensembl identifiers)",
        )
    return {name: m for name, m in by_modality.items() if m.shape[1]}


def _by_name(sets: GeneSets, names: Sequence[str]) -> CSR:
    place: dict[str, int] = {}
    for j, name in enumerate(names):
        place.setdefault(str(name).upper(), j)
    columns = [sorted(place[g] for g in genes if g in place) for genes in sets.genes]
    large_enough = [c for c in columns if len(c) >= LEAST_GENES]
    rows = np.array([j for c in large_enough for j in c], np.int64)
    column = np.repeat(np.arange(len(large_enough)), [len(c) for c in large_enough])
    return sparse.csr_matrix(
        (np.ones(len(rows), np.float32), (rows, column)), shape=(len(names), len(large_enough))
    )
