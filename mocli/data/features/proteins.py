"""Links from the names of proteins: to the genes of their antigens (a packaged table), or to proteins."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import takewhile

import numpy as np

from mocli.data.features.antigennames import (
    AS_WRITTEN,
    ONE_OF_SEVERAL,
    WITHOUT_CLONE,
    is_control,
    key,
    pieces,
    readings,
)
from mocli.data.features.index import FeatureIndex, Features
from mocli.data.features.proposal import Miss, Proposal
from mocli.errors import nearest, some

TABLE = "antigens.tsv"

Gene = tuple[str, ...]  # the symbol, then former ones


@dataclass(frozen=True)
class Antigen:
    """One row of the packaged table.

    Attributes:
        genes: The genes of the chains, each its symbol and former symbols; none where no single gene makes
            the antigen.
        mouse: The mouse genes, empty where they are the human symbols written as in mouse.
    """

    name: str
    genes: tuple[Gene, ...]
    mouse: tuple[Gene, ...] = ()

    def genes_of(self, *, mouse: bool) -> tuple[Gene, ...]:
        """Return the genes of human or mouse."""
        return self.mouse or self.genes if mouse else self.genes


@dataclass(frozen=True)
class Meaning:
    """What the name of a protein stands for.

    Attributes:
        antigens: Empty for controls, for names found nowhere, and where `symbol` is set; several for a
            complex written as `A/B`.
        symbol: The name is a gene's symbol in the data and stands for itself.
        how: How the name was read, in words of `antigenname`; "" if it was not found.
        is_control: An isotype control or a hashtag.
    """

    antigens: tuple[Antigen, ...] = ()
    symbol: str | None = None
    how: str = ""
    is_control: bool = False

    @property
    def identity(self) -> str | None:
        """The same for two names of one antigen, None where nothing is known."""
        names = [antigen.name for antigen in self.antigens] or ([self.symbol] if self.symbol else [])
        return "/".join(names) or None

    def genes(self, *, mouse: bool = False) -> tuple[Gene, ...]:
        """Return the genes, each once; a symbol is its own gene."""
        if self.symbol is not None:
            return ((self.symbol,),)
        return tuple(dict.fromkeys(g for a in self.antigens for g in a.genes_of(mouse=mouse)))


class AntigenTable:
    """Looks up what the names of proteins stand for.

    `antigens`: rows with their aliases. Where two rows claim one name, `ValueError`; a gene's symbol is a
    name of the first row that has it as its only gene.
    """

    def __init__(self, antigens: Iterable[tuple[Antigen, Iterable[str]]]) -> None:
        rows = [(antigen, tuple(aliases)) for antigen, aliases in antigens]
        self._by_key: dict[str, Antigen] = {}
        self._spelling: dict[str, str] = {}
        for antigen, aliases in rows:
            for name in (antigen.name, *aliases):
                if self._by_key.setdefault(key(name), antigen) is not antigen:
                    raise ValueError(f"{name} is both {antigen.name} and {self._by_key[key(name)].name}")
                self._spelling.setdefault(key(name), name)
        for antigen, _ in rows:
            for symbol in antigen.genes[0] if len(antigen.genes) == 1 else ():
                self._by_key.setdefault(key(symbol), antigen)

    def __len__(self) -> int:
        return len(set(self._by_key.values()))

    def find(self, name: str, *, is_gene: Callable[[str], bool] = lambda _: False) -> Meaning:
        """Say what a protein's name stands for.

        A name that is a gene's symbol in the data, as it stands, is that gene.
        Else the table is asked, for each way to read the name.

        `is_gene`: whether a text is a gene's symbol in the data.
        """
        if is_control(name):
            return Meaning(is_control=True)
        ways = list(readings(name))
        sure = list(takewhile(lambda way: way[1] != WITHOUT_CLONE, ways))
        for names, how in sure:
            if (meaning := self._one(names, how, is_gene)) is not None:
                return meaning
        if (meaning := self._several(name, is_gene)) is not None:
            return meaning
        for names, how in ways[len(sure) :]:
            if (meaning := self._one(names, how, is_gene)) is not None:
                return meaning
        return Meaning()

    def nearest(self, name: str) -> str | None:
        """Return the known name most like one."""
        close = nearest(key(name), self._spelling, 1)
        return self._spelling[close[0]] if close else None

    def _one(self, names: Iterable[str], how: str, is_gene: Callable[[str], bool]) -> Meaning | None:
        """Return what the most specific of equally good names stands for."""
        antigens = []
        for name in names:
            if is_gene(name):
                return Meaning(symbol=name, how=how)
            antigen = self._by_key.get(key(name))
            if antigen is not None:
                antigens.append(antigen)
        if not antigens:
            return None
        # 'MHCII (HLA-DR)': HLA-DR says more
        narrower = [a for a in antigens[1:] if a.genes and set(a.genes) < set(antigens[0].genes)]
        return Meaning((narrower[0] if narrower else antigens[0],), how=how)

    def _several(self, name: str, is_gene: Callable[[str], bool]) -> Meaning | None:
        """Return what the pieces of `A/B` stand for together."""
        parts = pieces(name)
        antigens = [a for part in parts if (a := self._by_key.get(key(part))) is not None]
        if antigens:
            return Meaning(tuple(dict.fromkeys(antigens)), how=ONE_OF_SEVERAL)
        return next((Meaning(symbol=part, how=ONE_OF_SEVERAL) for part in parts if is_gene(part)), None)


@cache
def antigen_table() -> AntigenTable:
    """Read the packaged table, once."""
    text = files("mocli.data").joinpath(TABLE).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    header, *rows = (line.split("\t") for line in lines)
    return AntigenTable(_antigen(dict(zip(header, row, strict=True))) for row in rows)


def _antigen(row: Mapping[str, str]) -> tuple[Antigen, tuple[str, ...]]:
    antigen = Antigen(row["antigen"], _genes(row["genes"]), _genes(row["mouse"]))
    return antigen, tuple(alias for alias in row["aliases"].split(";") if alias)


def _genes(text: str) -> tuple[Gene, ...]:
    return tuple(tuple(gene.split("|")) for gene in text.split(";") if gene)


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

    Returns:
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
        symbols = some((gene[0] for gene in wanted), 4)
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
        examples = some((f"'{name}' is {identity}" for name, identity in pairs), 3)
        notes.append(f"{proteins.modality}: {len(pairs):,} names read {how}: {examples}")
    if controls:
        shown = some(controls, 5)
        notes.append(f"{proteins.modality}: {len(controls):,} isotype controls or hashtags left out: {shown}")
    return tuple(notes)
