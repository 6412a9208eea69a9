"""Labels of a model's training cells, carried to the cells of a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mocli.data.files.modality import ModalityFile
from mocli.metrics.label_votes import forest, vote
from mocli.report.figures import figure, table
from mocli.tasks.integrate.labels import UNKNOWN, Carried
from mocli.tasks.integrate.options import TransferOptions
from mocli.tasks.prepare.obscolumns import words
from mocli.tasks.run.run import Run
from mocli.tasks.trained.atlas import Atlas
from mocli.types import FloatArray, IntArray

HOW = {
    "k-NN": "by a vote of the 15 nearest training cells, weight exp(-d^2 / 2h^2), h the 15th's distance",
    "random forest": "by a random forest on the training cells' latent, 200 trees, balanced subsamples",
}


def vote_from_atlas(
    run: Run,
    asked: TransferOptions,
    atlas: Atlas,
    files: Sequence[ModalityFile],
    latent: Mapping[str, FloatArray],
    measured: Sequence[str],
) -> list[Carried]:
    """Label all cells of a query twice, by neighbours and by a random forest; compare where labels are known.

    Parameters
    ----------
    latent
        By the name of each file's modality, `(n_obs, d)`.
    measured
        The model's names of what was measured; training cells are compared as if nothing
        else had been measured of them.
    """
    reference = atlas.seen_by(measured)
    usable = np.isfinite(reference).all(1)
    done = []
    for column in asked.columns:
        known = atlas.labels[column]
        n_levels, least = len(known.levels), asked.min_confidence
        finite = {name: np.isfinite(z).all(1) for name, z in latent.items()}
        by_way: dict[str, dict[str, tuple[IntArray, FloatArray]]] = {way: {} for way in HOW}
        for name, z in latent.items():
            rows = np.flatnonzero(finite[name])
            votes = vote(
                z[rows],
                reference[usable],
                known.codes[usable],
                n_levels=n_levels,
                min_confidence=least,
                device=str(run.device),
            )
            best, sure = forest(
                z[rows], reference[usable], known.codes[usable], n_levels=n_levels, seed=run.options.seed
            )
            best[sure < least] = -1
            for way, codes, confidence in (
                ("k-NN", votes.codes, votes.confidence),
                ("random forest", best, sure),
            ):
                by_way[way][name] = (_full(codes, rows, len(z), -1), _full(confidence, rows, len(z), 0))
        own = {name: np.zeros(len(z), bool) for name, z in latent.items()}
        for way, column_name, sureness in (
            ("k-NN", "transferred", "confidence"),
            ("random forest", "forest", "forest_confidence"),
        ):
            carried = Carried(
                column,
                known.levels,
                {name: codes for name, (codes, _) in by_way[way].items()},
                {name: confidence for name, (_, confidence) in by_way[way].items()},
                own,
                column=column_name,
                sureness=sureness,
            )
            done.append(carried)
            _describe(run, way, carried, files)
            _count(run, way, carried)
        _agree(run, column, *done[-2:])
    return done


def _full(values: Any, rows: IntArray, n: int, fill: int) -> Any:
    whole = np.full(n, fill, values.dtype)
    whole[rows] = values
    return whole


def _describe(run: Run, way: str, carried: Carried, files: Sequence[ModalityFile]) -> None:
    """Say how many cells got a label, and how many of them rightly where the query has the column."""
    told = []
    for file in files:
        codes = carried.codes[file.name]
        told.append(f"{file.name} {len(codes):,} cells, {int((codes < 0).sum()):,} of them {UNKNOWN}")
        if carried.name not in file.obs:
            continue
        truth = words(file.obs[carried.name])
        levels = np.array([*carried.levels, UNKNOWN], dtype=object)
        # a label that the reference lacks can only be right where it is left unknown
        known = np.flatnonzero([t is not None for t in truth])
        if not len(known):
            continue
        right = levels[codes[known]] == truth[known]
        sure = codes[known] >= 0
        for metric, title, value, n, sentence in (
            (
                "query_label_accuracy",
                "Labels of the query: accuracy",
                float(right.mean()),
                len(known),
                "Share of the query's cells that got the label they came with; unknown counts as wrong.",
            ),
            (
                "query_label_accuracy_known",
                "Labels of the query: accuracy where not unknown",
                float(right[sure].mean()) if sure.any() else None,
                int(sure.sum()),
                "Share of right labels among those that are not unknown.",
            ),
        ):
            run.report.metrics[f"{metric}[{carried.name}->{file.name}, {way}]"] = figure(
                value,
                f"{title}, {way}",
                f"Cells of the query are labelled {HOW[way]}; compared with their own label.",
                sentence,
                better="higher",
                bounds=(0.0, 1.0),
                n=n,
            )
        run.say(
            f"  {way}: {carried.name} is right for {right.mean():.3f} of {len(known):,} {file.name} "
            "cells that came with a label"
        )
    run.say(f"transferred {carried.name} by {way} to {'; '.join(told)}")


def _count(run: Run, way: str, carried: Carried) -> None:
    """Put into the report how many cells got each label, and how sure the vote was."""
    codes, confidence = (np.concatenate(list(of.values())) for of in (carried.codes, carried.confidence))
    by_label = {UNKNOWN: np.flatnonzero(codes < 0)}
    by_label |= {name: np.flatnonzero(codes == code) for code, name in enumerate(carried.levels)}
    rows = [
        [name, len(cells), len(cells) / len(codes), *np.quantile(confidence[cells], (0.5, 0.1)).tolist()]
        for name, cells in sorted(by_label.items(), key=lambda item: -len(item[1]))
        if len(cells)
    ]
    run.report.tables[f"query_labels_{carried.name}_{way.replace(' ', '_')}"] = table(
        f"Labels of the query: {carried.name}, {way}",
        f"Cells of the query are labelled {HOW[way]}. A type that the reference lacks can only be wrong or "
        f"{UNKNOWN}: look where the confidence is low.",
        ["label", "cells", "share", "confidence, median", "confidence, lowest tenth"],
        rows,
    )


def _agree(run: Run, column: str, first: Carried, second: Carried) -> None:
    a, b = (np.concatenate(list(c.codes.values())) for c in (first, second))
    both = (a >= 0) & (b >= 0)
    if both.any():
        run.say(
            f"  both give {column} the same label for {(a == b)[both].mean():.1%} of the cells they label"
        )
