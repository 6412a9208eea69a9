"""Tables as TSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mocli.data.write.outfile import atomic

_FORMULA = ("=", "+", "-", "@")


def write_tsv(path: Path, table: pd.DataFrame) -> None:
    """Write a table, numbers with 6 significant digits, undefined ones as NA; atomic.

    A name that a spreadsheet would take for a formula (`=`, `+`, `-` or `@` before more than a sign or a
    number) gets an apostrophe before it, as spreadsheets write such text themselves.
    """
    names = table.select_dtypes(include=["object", "string", "category"]).columns
    table = table.assign(**{str(c): table[c].astype(object).map(inert) for c in names}).rename(columns=inert)
    with atomic(path) as temporary:
        table.to_csv(
            temporary,
            sep="\t",
            index=False,
            float_format="%.6g",
            na_rep="NA",
            lineterminator="\n",
            encoding="utf-8",
        )


def inert(value: Any) -> Any:
    """Return text in a form that no spreadsheet computes; other values are returned unchanged."""
    if not isinstance(value, str) or len(value) < 2 or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
