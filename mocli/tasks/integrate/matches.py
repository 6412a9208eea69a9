"""`OUT.matches.tsv`: cells of two modalities that are each other's nearest in the latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from mocli.data.files.modality import ModalityFile
from mocli.data.write.tsv import write_tsv
from mocli.nn.nearby import mutual_pairs
from mocli.tasks.run.run import Run
from mocli.types import FloatArray

COLUMNS = ("modality", "cell", "other_modality", "other_cell", "distance", "score")


def match_cells(
    latent: Mapping[str, FloatArray], names: Mapping[str, Sequence[str]], *, device: str = "cpu"
) -> pd.DataFrame:
    """Return the mutual nearest cells of every two modalities, best first, one row a pair.

    Parameters
    ----------
    latent
        `(n_obs, d)` by modality; rows that are not finite have no match.
    names
        Names of the cells by modality.

    Returns
    -------
    `distance` is Euclidean in the latent; `score` is the share of pairs of the two modalities that lie at
    least as far apart, 1 for the closest.
    """
    tables = [pd.DataFrame(columns=COLUMNS)]
    for a, b in combinations(latent, 2):
        rows = {m: np.flatnonzero(np.isfinite(latent[m]).all(1)) for m in (a, b)}
        if not all(map(len, rows.values())):
            continue
        x, y = (latent[m][rows[m]] for m in (a, b))
        i, j = mutual_pairs(x, y, 1, metric="euclidean", device=device)
        distance = np.linalg.norm(x[i] - y[j], axis=1)
        order = np.argsort(distance, kind="stable")
        distance = distance[order]
        n_nearer = np.searchsorted(distance, distance, side="left")
        tables.append(
            pd.DataFrame(
                {
                    "modality": a,
                    "cell": np.asarray(names[a], dtype=object)[rows[a][i[order]]],
                    "other_modality": b,
                    "other_cell": np.asarray(names[b], dtype=object)[rows[b][j[order]]],
                    "distance": distance,
                    "score": 1 - n_nearer / max(len(order), 1),
                }
            )
        )
    return pd.concat(tables if len(tables) == 1 else tables[1:], ignore_index=True)


def write_matches(run: Run, latent: Mapping[str, FloatArray], files: Sequence[ModalityFile]) -> None:
    """Write the matches of cells that were measured apart; none where each cell has one place."""
    (path,) = run.paths.beside
    names = {f.name: tuple(map(str, f.obs.index)) for f in files}
    table = match_cells(latent, names, device=str(run.device))
    if not latent:
        run.warn("every cell has one set of coordinates for all its modalities: there is nothing to match")
    for (a, b), pairs in table.groupby(["modality", "other_modality"], sort=False):
        least = min(len(names[str(a)]), len(names[str(b)]))
        run.say(f"{len(pairs):,} pairs of {a} and {b} are mutual nearest cells, of {least:,} that could be")
    write_tsv(path, table)
    run.add_output(path, "mutual nearest cells of two modalities")
