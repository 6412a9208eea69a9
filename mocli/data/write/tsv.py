"""Tables as TSV."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mocli.data.write.outfile import atomic


def write_tsv(path: Path, table: pd.DataFrame) -> None:
    """Write a table, numbers with 6 significant digits, undefined ones as NA; atomic."""
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
