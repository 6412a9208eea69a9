"""A first look at a modality of a file, for somebody with new data; no model is involved.

Reads tables and a few hundred rows of each matrix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mocli.data.features.genes import builds_of
from mocli.data.features.index import features_of
from mocli.data.features.loci import intervals_of
from mocli.data.files.contents import cause_of, look
from mocli.data.files.hdf5 import open_h5
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import labels_of, with_missing
from mocli.types import ModalityKind, ValueKind

_BATCH = re.compile(
    r"batch|sample|donor|patient|subject|individual|library|lane|replicate|orig.ident|^run$|^input$"
)
_LABEL = re.compile(
    r"cell.?type|label|annot|cluster|leiden|louvain|subclass|^class|identity|lineage|(?<!disease.)state"
)
_CONDITION = re.compile(
    r"(?:^|[-_. ])(?:condition|treatment|treated|stim[a-z]*|group|genotype|disease|diagnosis|status|"
    r"time.?point)s?(?:$|[-_. ])"
)
_ENDING = re.compile(r"[-_.][0-9]+(?:[-_][0-9]+)*$")
_BEGINNING = re.compile(r"^[^-_#:]+[-_#:](?=[ACGT]{8,})")
_STYLES = {
    "positions": re.compile(r"^[\w.]+[:_-]\d+[:_-]\d+$"),
    "Ensembl identifiers of human": re.compile(r"^ENSG\d{11}"),
    "Ensembl identifiers of mouse": re.compile(r"^ENSMUSG\d{11}"),
    "other Ensembl identifiers": re.compile(r"^ENS[A-Z]*G\d{11}"),
    "symbols with capitals, as of human": re.compile(r"^[A-Z][A-Z0-9.-]+(?:orf\d+)?$"),
    "symbols as of mouse": re.compile(r"^[A-Z][a-z0-9.-]+[a-z0-9]$"),
}
MOST_LEVELS = 200
MOST_CONDITIONS = 12
_PERTURBED = re.compile(r"perturb|guide|condition|treatment|target|knock|grna|sgrna|gene")
_UNPERTURBED = re.compile(
    r"control|controls|ctrl|unperturbed|negctrl|nt|non[-_ ]?targeting(?:[-_ ]control)?|safe[-_ ]?targeting"
)
FEWEST_PERTURBED = 3
"""Levels beside the control of a column that says what was perturbed in a cell."""
FEWEST_COUNTS = 100
"""Barcodes with fewer counts than this hold no cell."""


@dataclass(frozen=True)
class ModalityFacts:
    """What a modality holds.

    Attributes:
        matrices: What each matrix holds, by its name: `X`, a layer, `raw`.
        features: How features are called, and examples.
        batches, conditions, labels: Columns of obs that look like batches, compared conditions or labels of
            cells, with their number of levels, as a run counts them.
        genome: As the file names it, or as positions of its features tell; None if neither does.
        spatial: Whether cells have coordinates in a tissue.
        doubts: What looks wrong, one sentence each.
    """

    name: str
    kind: ModalityKind
    n_obs: int
    n_vars: int
    matrices: Mapping[str, ValueKind]
    features: str
    batches: Mapping[str, int]
    conditions: Mapping[str, int]
    labels: Mapping[str, int]
    genome: str | None
    spatial: bool
    doubts: tuple[str, ...]


def inspect_modality(file: ModalityFile) -> ModalityFacts:
    """Look at a modality: its tables, and a few hundred rows of each matrix."""
    matrices = {name: look(file.sample(name)) for name in file.matrices}
    return ModalityFacts(
        name=file.name,
        kind=file.kind,
        n_obs=file.n_obs,
        n_vars=file.n_vars,
        matrices=matrices,
        features=_style(list(map(str, file.var.index))),
        batches=batch_like(file.obs),
        conditions=condition_like(file.obs),
        labels=_like(file.obs, _LABEL, _BATCH, most=MOST_LEVELS, cleaned=labels_of),
        genome=_genome(file),
        spatial=is_spatial(file),
        doubts=tuple(_doubts(file, matrices)),
    )


def agreeing_names(first: Sequence[str], second: Sequence[str]) -> tuple[int, int]:
    """Return how many cell names agree as they are, and how many without endings and beginnings.

    Endings such as `-1` and `_2`, and samples before a barcode, are added by tools that join files.
    """
    exact = len(set(first) & set(second))
    bare = [{_BEGINNING.sub("", _ENDING.sub("", name)) for name in names} for names in (first, second)]
    return exact, len(bare[0] & bare[1])


def batch_like(obs: pd.DataFrame) -> dict[str, int]:
    """Columns of obs that look like batches by their names, with their number of levels, two or more."""
    return _like(obs, _BATCH, most=MOST_LEVELS)


def condition_like(obs: pd.DataFrame) -> dict[str, int]:
    """Columns of obs that look like conditions by their names, with their number of levels, 2 to 12."""
    return _like(obs, _CONDITION, _BATCH, _LABEL, most=MOST_CONDITIONS)


def perturbed_like(obs: pd.DataFrame, features: pd.Index) -> dict[str, str]:
    """Columns of obs that say what was perturbed in a cell, with the level of the control cells.

    Such a column has a control, and levels that are features, alone or in pairs (`A+B`).
    """
    found = {}
    for column in (c for c in obs.columns if _PERTURBED.search(str(c).lower())):
        levels = [str(level) for level in pd.unique(with_missing(obs[column]).dropna())]
        control = [level for level in levels if _UNPERTURBED.fullmatch(level.lower())]
        parts = {part for level in levels for part in re.split(r"[+,;|&_]", level)}
        if control and len(levels) > FEWEST_PERTURBED and features.isin(parts).sum() >= FEWEST_PERTURBED:
            found[str(column)] = control[0]
    return found


def _like(
    obs: pd.DataFrame,
    pattern: re.Pattern[str],
    *others: re.Pattern[str],
    most: int,
    cleaned: Callable[[pd.Series], pd.Series] = with_missing,
) -> dict[str, int]:
    """Return the columns with a name of a pattern and of no other, and 2 to `most` levels, with these."""
    lower = {c: str(c).lower() for c in obs.columns if not pd.api.types.is_float_dtype(obs[c])}
    named = [
        c for c, name in lower.items() if pattern.search(name) and not any(p.search(name) for p in others)
    ]
    levels = {str(c): int(cleaned(obs[c]).nunique()) for c in named}
    return {name: n for name, n in levels.items() if 1 < n <= most}


def tells(column: pd.Series, other: pd.Series) -> bool:
    """Whether each level of a column lies in one level of the other, of which there are two or more.

    Both have the same rows; those with a missing value do not count.
    """
    codes = np.stack([pd.factorize(with_missing(one))[0] for one in (column, other)])
    levels, other_levels = codes[:, (codes >= 0).all(axis=0)]
    pairs = np.unique(levels * (other_levels.max(initial=0) + 1) + other_levels)
    return len(np.unique(other_levels)) > 1 and len(np.unique(levels)) == len(pairs)


def conditions_told_by(obs: pd.DataFrame, column: str) -> list[str]:
    """Columns like conditions in which a column of obs is nested: correcting for it removes them, too."""
    return [name for name in condition_like(obs) if name != column and tells(obs[column], obs[name])]


def nesting(column: str, conditions: Sequence[str]) -> str:
    """Say that a column is nested in conditions, and what correcting for it does."""
    of = " and of ".join(f"obs['{name}']" for name in conditions)
    return (
        f"each level of obs['{column}'] lies in one level of {of}: correcting for it also removes what "
        f"differs by {' and '.join(conditions)}"
    )


def _style(names: Sequence[str]) -> str:
    some = names[:: max(1, len(names) // 500)][:500]
    shares = {style: np.mean([bool(p.match(name)) for name in some]) for style, p in _STYLES.items()}
    best = max(shares, key=lambda style: shares[style])
    style = best if shares[best] > 0.5 else "names"
    return f"{style}, such as {', '.join(names[:3])}"


def _genome(file: ModalityFile) -> str | None:
    for column in ("genome", "Genome"):
        if column in file.var:
            genomes = [str(g) for g in pd.unique(file.var[column].dropna()) if str(g)]
            return ", ".join(genomes[:3]) or None
    builds = builds_of(intervals_of(features_of([file])[0]))
    return f"{' or '.join(builds)}, by the ends of its chromosomes" if builds else None


def is_spatial(file: ModalityFile) -> bool:
    """Say whether obsm of the modality has the cells' coordinates in a tissue."""
    if not file.holds_tables:
        return False
    with open_h5(file.path) as h5:
        group = h5.get(file.group)
        return group is not None and "spatial" in (group.get("obsm") or {})


def _doubts(file: ModalityFile, matrices: Mapping[str, ValueKind]) -> list[str]:
    doubts = list(file.notes)
    counted = [name for name, kind in matrices.items() if kind is ValueKind.COUNTS]
    if not counted and file.kind in {ModalityKind.RNA, ModalityKind.ATAC}:
        causes = {name: cause_of(file.sample(name), kind) for name, kind in matrices.items()}
        spoilt = next((f"{name} looks like {cause}" for name, cause in causes.items() if cause), None)
        doubts.append(
            f"no matrix holds counts, but {spoilt}: --round takes them rounded, as counts"
            if spoilt
            else "no matrix holds counts: give the file with the raw counts, or treat the values as normal"
        )
    if counted and "counts" not in counted and "X" not in counted:
        doubts.append(f"counts are in {counted[0]} and not in X: --layer {file.name}={counted[0]} takes them")
    if counted and file.kind is ModalityKind.RNA:
        totals = np.asarray(file.sample(counted[0]).sum(axis=1)).ravel()
        few = float((totals < FEWEST_COUNTS).mean())
        if few > 0.5 and not any("raw matrix" in note for note in file.notes):
            doubts.append(
                f"{few:.0%} of the barcodes looked at have fewer than {FEWEST_COUNTS} counts: this may be "
                "the raw matrix, with barcodes that hold no cell"
            )
    names = file.obs.index[:1000].astype(str)
    if all(name.isdigit() for name in names):
        doubts.append("the cell names are running numbers, which do not identify cells across files")
    if (whole := file.obs.index.duplicated().sum()) > 0:
        doubts.append(f"{whole:,} cell names are not unique")
    return doubts
