"""Links by position: features by their positions in `var`, from a table or the first of every modality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mocli.data.features.index import ColumnMatch, Features
from mocli.data.links.dialect import POSITIONS
from mocli.data.links.linktable import LinkTable
from mocli.data.links.match import NamedColumn
from mocli.data.links.route import FirstRoute, chained
from mocli.errors import InputError

FIRST = "first features"


def first_table(route: FirstRoute, features: Sequence[Features]) -> LinkTable:
    """Return the table that links the first features of modalities, each with the one at its position.

    Raises
    ------
    UsageError
        A modality is named that is not loaded.
    InputError
        One has fewer features.
    """
    pairs = chained(route, [f.modality for f in features])
    linked = {name for pair in pairs for name in pair}
    for one in features:
        if one.modality in linked and len(one.names) < route.n:
            raise InputError(
                f"'{one.modality}' has fewer features than --links asks for",
                field=f"--links {route.text}",
                found=f"{len(one.names):,} features",
                expected=f"at least {route.n:,}",
                hint="name a smaller number, or link some features by a table",
            )
    position = pd.Series(np.arange(route.n).astype(str), dtype=object)
    frames = [
        pd.DataFrame(
            {
                "source_modality": pd.Series([a] * route.n, dtype=object),
                "source_feature": position,
                "target_modality": pd.Series([b] * route.n, dtype=object),
                "target_feature": position,
                "weight": 1.0,
                "sign": 1.0,
            }
        )
        for a, b in pairs
    ]
    columns = ["source_modality", "source_feature", "target_modality", "target_feature", "weight", "sign"]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    return LinkTable(route.text, FIRST, frame, by_index=True)


def match_positions(
    table: LinkTable, side: str, column: NamedColumn, rows: pd.Index, features: Features
) -> ColumnMatch:
    """Read one column of a table as positions of features.

    Parameters
    ----------
    side
        `source` or `target`.
    rows
        Which rows of the table's frame the column's codes are of.

    Raises
    ------
    InputError
        A position is beyond the last feature, or the modality's files have different features.
    """
    n = len(features.names)
    if features.renumbered:
        raise InputError(
            f"the files of '{features.modality}' have different features, so positions are ambiguous",
            file=table.path,
            found="links by position",
            hint="link by names, or give files with the same features in the same order",
        )
    positions = np.array([int(text) for text in column.names], dtype=object)
    beyond = [k for k, position in enumerate(positions) if position >= n]
    if beyond:
        row = int(rows[int(np.flatnonzero(column.codes == beyond[0])[0])])
        header = f"{side}_index" if table.dialect != POSITIONS else f"{features.modality}_index"
        raise InputError(
            f"a position of the link table is beyond the last feature of '{features.modality}'",
            file=table.path,
            field=f"line {table.lines[row]}, column {header}" if table.lines else header,
            found=f"position {positions[beyond[0]]}" + (f" and {len(beyond) - 1:,} more" * (len(beyond) > 1)),
            expected=f"0 to {n - 1:,}, as it has {n:,} features",
            hint="positions count from 0" if max(positions) == n else None,
        )
    return ColumnMatch([(int(position),) for position in positions], (), {}, ())
