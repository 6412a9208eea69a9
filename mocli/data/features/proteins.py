"""Links from the names of proteins: to the genes of their antigens, or to another panel's proteins."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from mocli.data.features.antigennames import AS_WRITTEN
from mocli.data.features.antigens import Gene, Meaning, antigen_table
from mocli.data.features.index import FeatureIndex, Features
from mocli.data.features.proposal import Miss, Proposal

_MOUSE = re.compile(r"[A-Z][a-z]+[a-z0-9-]*|ENSMUSG\d+(\.\d+)?", re.ASCII)
_TRUSTED = frozenset({"exact", "alias", "case", "version"})


def is_mouse(names: Sequence[str]) -> bool:
    """Whether genes are named as in mouse: `Cd4`, not `CD4`."""
    sample = [names[k] for k in np.linspace(0, len(names) - 1, min(2000, len(names))).astype(int)]
    return 3 * sum(_MOUSE.fullmatch(name) is not None for name in sample) > len(sample)


def link_genes(proteins: Features, genes: FeatureIndex) -> Proposal:
    """Link proteins to the genes of their antigens.

    A protein named as a gene of the data is that gene; else the packaged table
    is asked. The n genes of an antigen that are in the data have weight 1/n.
    Isotype controls and hashtags are left out.

    Returns
    -------
    Proteins as source, genes as target.
    """
    table = antigen_table()
    gene_names = frozenset(genes.features.names)
    # columns of var that hold names, not classes
    columns = [c for c in genes.features.aliases.values() if 2 * len(set(c)) > len(c)]
    mouse = any(is_mouse(column) for column in (genes.features.names, *columns))
    rows: list[tuple[int, int, float]] = []
    failed: list[Miss] = []
    meanings = [table.find(name, is_gene=gene_names.__contains__) for name in proteins.names]
    for k, (name, meaning) in enumerate(zip(proteins.names, meanings, strict=True)):
        wanted = meaning.genes(mouse=mouse) or _as_symbol(name, meaning, genes)
        linked = dict.fromkeys(p for gene in wanted if (p := _position(gene, genes)) is not None)
        rows += [(k, position, 1 / len(linked)) for position in linked]
        if not linked and not meaning.is_control:
            failed.append(_miss(proteins, name, meaning, wanted, genes.features.modality))
    source, target, weight = zip(*rows, strict=True) if rows else ((), (), ())
    return Proposal(
        np.array(source, dtype=np.int64),
        np.array(target, dtype=np.int64),
        np.array(weight, dtype=np.float64),
        tuple(failed),
        _notes(proteins, meanings),
    )


def link_panels(a: Features, b: Features) -> Proposal:
    """Link the proteins of two panels that are the same antigen, however each is called."""
    table = antigen_table()
    meanings = [[table.find(name) for name in features.names] for features in (a, b)]
    of_b: dict[str, list[int]] = defaultdict(list)
    for k, (name, meaning) in enumerate(zip(b.names, meanings[1], strict=True)):
        if not meaning.is_control:
            of_b[_identity(name, meaning)].append(k)
    pairs = [
        (k, other)
        for k, (name, meaning) in enumerate(zip(a.names, meanings[0], strict=True))
        if not meaning.is_control
        for other in of_b.get(_identity(name, meaning), ())
    ]
    source = np.array([k for k, _ in pairs], dtype=np.int64)
    target = np.array([k for _, k in pairs], dtype=np.int64)
    failed = [
        Miss(one.modality, name, f"not in {other.modality}")
        for one, other, linked, known_meanings in (
            (a, b, set(source.tolist()), meanings[0]),
            (b, a, set(target.tolist()), meanings[1]),
        )
        for k, (name, meaning) in enumerate(zip(one.names, known_meanings, strict=True))
        if k not in linked and not meaning.is_control
    ]
    notes = (*_notes(a, meanings[0]), *_notes(b, meanings[1]))
    return Proposal(source, target, np.ones(len(source)), tuple(failed), notes)


def _identity(name: str, meaning: Meaning) -> str:
    return meaning.identity or name.casefold()


def _as_symbol(name: str, meaning: Meaning, genes: FeatureIndex) -> tuple[Gene, ...]:
    """Take a name that the table does not know for a gene's, if the data have it in another spelling."""
    if meaning.identity is None and not meaning.is_control and genes.find(name)[0] >= 0:
        return ((name,),)
    return ()


def _position(gene: Gene, genes: FeatureIndex) -> int | None:
    """Position of a gene by its symbol or, where that is absent, a former one."""
    for symbol in gene:
        position, how = genes.find(symbol)
        if position >= 0 and how in _TRUSTED:
            return position
    return None


def _miss(proteins: Features, name: str, meaning: Meaning, wanted: Sequence[Gene], modality: str) -> Miss:
    if wanted:
        symbols = ", ".join(gene[0] for gene in wanted[:4]) + _more(wanted, 4)
        return Miss(proteins.modality, name, f"no gene of theirs is in {modality}", symbols)
    if meaning.identity is not None:
        return Miss(proteins.modality, name, "no single gene makes the antigen", meaning.identity)
    nearest = antigen_table().nearest(name)
    return Miss(
        proteins.modality, name, "the antigen is not known", f"nearest: '{nearest}'" if nearest else ""
    )


def _notes(proteins: Features, meanings: Iterable[Meaning]) -> tuple[str, ...]:
    read: dict[str, list[tuple[str, str]]] = defaultdict(list)
    controls = []
    for name, meaning in zip(proteins.names, meanings, strict=True):
        if meaning.is_control:
            controls.append(name)
        elif meaning.identity is not None and meaning.how != AS_WRITTEN:
            read[meaning.how].append((name, meaning.identity))
    notes = []
    for how, pairs in read.items():
        examples = ", ".join(f"'{name}' is {identity}" for name, identity in pairs[:3])
        notes.append(f"{proteins.modality}: {len(pairs):,} names read {how}: {examples}{_more(pairs)}")
    if controls:
        shown = ", ".join(controls[:5]) + _more(controls, 5)
        notes.append(f"{proteins.modality}: {len(controls):,} isotype controls or hashtags left out: {shown}")
    return tuple(notes)


def _more(items: Sequence[object], shown: int = 3) -> str:
    return ", ..." if len(items) > shown else ""
