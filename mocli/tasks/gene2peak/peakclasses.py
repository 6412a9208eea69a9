"""Classes of factors against each other, such as activators and repressors, by what their peaks do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd
from scipy import stats

from mocli.errors import InputError

MEASURES = ("fraction_closing", "effect")
_COLUMNS = ("group", "measure", "class", "other_class", "n", "n_other", "mean", "mean_other", "t", "p")


@dataclass(frozen=True, eq=False)
class SetsCompared:
    """One line a set of peaks and a group of cells; and classes of sets against each other, or None."""

    table: pd.DataFrame
    classes: pd.DataFrame | None


def read_classes(path: str | Path, sets: Mapping[str, object], warn: Callable[[str], None]) -> dict[str, str]:
    """Read the class of every set of peaks: a table of set and class, with or without a header.

    Raises
    ------
    InputError
        The file is absent or of another form, or no two classes have a set.
    """
    expected = "two columns, set and class, such as: GATA1 <tab> activator"
    try:
        frame = pd.read_csv(path, sep="\t", header=None, dtype=str, comment="#", keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(
            "the classes of peak sets cannot be read", file=path, found=str(error), expected=expected
        ) from error
    if frame.shape[1] != 2:
        raise InputError(
            "the classes of peak sets have another format",
            file=path,
            found=f"{frame.shape[1]} columns",
            expected=expected,
        )
    folded = {name.casefold(): name for name in sets}
    rows = [(folded.get(name.casefold()), one) for name, one in zip(frame[0], frame[1], strict=True)]
    class_of = {name: one for name, one in rows if name is not None}
    if len(set(class_of.values())) < 2:
        raise InputError(
            "there are no two classes of peak sets to compare",
            file=path,
            found=", ".join(f"{name}: {one}" for name, one in list(class_of.items())[:5])
            or ", ".join(frame[0].head(5)),
            expected=f"classes of sets such as {', '.join(list(sets)[:3])}",
        )
    if without := [name for name in sets if name not in class_of]:
        warn(f"these peak sets have no class: {', '.join(without[:5])}")
    return class_of


def compare_classes(table: pd.DataFrame, classes: Mapping[str, str]) -> pd.DataFrame:
    """Compare every two classes by Welch's two-sided t-test over their sets.

    Compared are the share of a cell's peaks that close, mean over the cells, and the effect beside random
    peaks. A set counts once: cells of one set are no repetition of it (the authors pool cells).

    Parameters
    ----------
    table
        Of `compare_sets`.
    """
    rows = []
    of_class = table.assign(**{"class": table["set"].map(classes)}).dropna(subset=["class"])
    for group, part in of_class.groupby("group", sort=False):
        for measure in MEASURES:
            values = {one: v.dropna().to_numpy() for one, v in part.groupby("class")[measure]}
            for a, b in combinations(sorted(values), 2):
                x, y = values[a], values[b]
                enough = min(len(x), len(y)) > 1
                test = stats.ttest_ind(x, y, equal_var=False) if enough else None
                t, p = (float("nan"),) * 2 if test is None else (float(test.statistic), float(test.pvalue))
                means = (float(v.mean()) if len(v) else float("nan") for v in (x, y))
                rows.append((group, measure, a, b, len(x), len(y), *means, t, p))
    return pd.DataFrame(rows, columns=list(_COLUMNS))
