"""Predicted changes of a modality against the difference that was measured between the two groups of cells.

Where features are changed that should take cells of one condition to another, what is predicted of another
modality can be held against what is measured there of cells of both conditions (scCross's Fig. 6d-f).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mocli.data.batches import densify
from mocli.data.files.modality import ModalityFile
from mocli.metrics.differential import Differential, agreement, differential
from mocli.nn.neighbors import chunks, drawn_rows
from mocli.report.figures import column_table, figure
from mocli.tasks.infer.align import align
from mocli.tasks.perturb.cells import ChosenCells
from mocli.tasks.perturb.effects import TargetReader
from mocli.tasks.relate.scope import ALL
from mocli.tasks.run.run import Run
from mocli.types import DoubleArray

FEWEST = 20
"""Cells of each group that were measured in the target modality."""

MOST_CELLS = 5000
COLUMNS = 1000
SHOWN = 100


def measured_contrast(
    file: ModalityFile | None,
    perturbed: ModalityFile,
    chosen: ChosenCells,
    reader: TargetReader,
    layers: Mapping[str, str],
    *,
    seed: int,
) -> Differential | None:
    """Return how the target modality differs between target cells and perturbed cells; None if unknown.

    `file`, `perturbed`: files of the target modality, if there is one, and of the perturbed one; the same
    cells have the same names.
    """
    if file is None or not len(chosen.target):
        return None
    row_in_file = file.obs.index.get_indexer(perturbed.obs.index)
    there = (row_in_file[rows] for rows in (chosen.source, chosen.target))
    source, target = (drawn_rows(rows[rows >= 0], MOST_CELLS, seed=seed) for rows in there)
    if min(len(source), len(target)) < FEWEST:
        return None
    aligned = align(reader.saved, reader.modality, file, layers=layers, warn=lambda _: None)
    values = reader.readout.values(aligned.read(np.concatenate([source, target])), "log")[:, reader.columns]
    among = np.arange(len(source) + len(target)) >= len(source)
    parts = [differential(densify(values[:, span]), among) for span in chunks(values.shape[1], COLUMNS)]
    change, p = (np.concatenate([getattr(part, quantity) for part in parts]) for quantity in ("change", "p"))
    change[np.isin(reader.columns, aligned.absent)] = np.nan
    return Differential(change, p)


def with_measured(table: pd.DataFrame, names: tuple[str, ...], measured: Differential) -> pd.DataFrame:
    """Add the measured change, p and FDR of each target feature over all cells."""
    positions = pd.Index(names).get_indexer(table["target"])
    measured_columns = {
        "measured_change": measured.change,
        "measured_p": measured.p,
        "measured_fdr": measured.fdr,
    }
    everywhere = (table["group"] == ALL).to_numpy()
    return table.assign(
        **{name: np.where(everywhere, values[positions], np.nan) for name, values in measured_columns.items()}
    )


def compare_with_target(table: pd.DataFrame, size: DoubleArray) -> pd.DataFrame:
    """Compare each perturbation's changes over all cells with the measured ones, one row per perturbation.

    `table`, `size`: the table of `with_measured`, and the predicted change of each row; features that are
    perturbed themselves are left out.
    """
    is_compared = (table["group"] == ALL).to_numpy()
    if "perturbed" in table:
        is_compared &= (table["perturbed"] == 0).to_numpy()
    rows = []
    for (feature, direction), part in table.assign(size=size)[is_compared].groupby(
        ["feature", "direction"], sort=False
    ):
        measured = Differential(part["measured_change"].to_numpy(), part["measured_p"].to_numpy())
        lists = agreement(part["size"].to_numpy(), measured)
        rows.append(
            {
                "feature": feature,
                "direction": direction,
                "features": lists.n,
                "differ": lists.n_differ,
                "found": lists.n_both,
                "by chance": lists.expected,
                "p": lists.p,
                "same sign": lists.same_sign,
                "Pearson": lists.pearson,
                "Spearman": lists.spearman,
            }
        )
    return pd.DataFrame(rows)


def report_contrast(run: Run, contrast: pd.DataFrame, modality: str) -> None:
    """Report how predicted changes agree with the measured difference of target and perturbed cells."""
    correlations = contrast["Pearson"].dropna()
    run.report.metrics["perturbation_contrast_pearson_median"] = figure(
        float(correlations.median()) if len(correlations) else None,
        "Predicted changes against the measured difference (median correlation)",
        f"Pearson correlation, over features of {modality}, of predicted changes and of the difference of "
        "mean normalised logs, target cells less perturbed ones; median over perturbations.",
        "Whether the perturbation changes the modality as the target cells differ: 1 is the same pattern.",
        better="higher",
        bounds=(-1.0, 1.0),
        n=len(correlations),
    )
    if len(correlations):
        best = f"{correlations.max():.2f} at best"
        run.say(f"  {modality}: predicted changes correlate with the measured difference by {best}")
    run.report.tables["contrast"] = column_table(
        f"Predicted changes of {modality} against the difference measured between the groups",
        "differ: features that are measured to differ (Wilcoxon's rank-sum test, FDR 5 %); found: of as many "
        "that are predicted to change most, those among the former with the same sign, beside what chance "
        "gives; p: of the overlap, whatever the sign (Fisher's exact test). The table of changes has every "
        "feature.",
        contrast.sort_values("Pearson", ascending=False).head(SHOWN),
    )
