"""Antigens and the genes of their proteins: the packaged table, and finding a protein's name in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import takewhile

from mocli.data.features.antigennames import (
    ONE_OF_SEVERAL,
    WITHOUT_CLONE,
    is_control,
    key,
    pieces,
    readings,
)
from mocli.errors import nearest

TABLE = "antigens.tsv"

Gene = tuple[str, ...]  # the symbol, then former ones


@dataclass(frozen=True)
class Antigen:
    """One row of the packaged table.

    Attributes
    ----------
    genes
        The genes of the chains, each its symbol and former symbols; none where
        no single gene makes the antigen.
    mouse
        The mouse genes, empty where they are the human symbols written as in mouse.
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

    Attributes
    ----------
    antigens
        Empty for controls, for names found nowhere, and where `symbol` is set;
        several for a complex written as `A/B`.
    symbol
        The name is a gene's symbol in the data and stands for itself.
    how
        How the name was read, in words of `antigenname`; "" if it was not found.
    is_control
        An isotype control or a hashtag.
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


def _never(_: str) -> bool:
    return False


class AntigenTable:
    """Looks up what the names of proteins stand for.

    Parameters
    ----------
    antigens
        Rows with their aliases. Where two rows claim one name, `ValueError`; a
        gene's symbol is a name of the first row that has it as its only gene.
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

    def find(self, name: str, *, is_gene: Callable[[str], bool] = _never) -> Meaning:
        """Say what a protein's name stands for.

        A name that is a gene's symbol in the data, as it stands, is that gene.
        Else the table is asked, for each way to read the name.

        Parameters
        ----------
        is_gene
            Whether a text is a gene's symbol in the data.
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
        return next(
            (Meaning(symbol=part, how=ONE_OF_SEVERAL) for part in parts if is_gene(part)),
            None,
        )


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
