"""Labels for cells that lack them, by a vote of labelled cells: of other modalities, or of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mocli.data.bundle import Codes, MultiOmics
from mocli.data.files.frames import words
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_labels
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.metrics.label_votes import Labelled, forest, threshold, vote
from mocli.report.figures import Better, figure, plural, table
from mocli.tasks.integrate.carried import Assigned, Carried, describe_carried, known_labels
from mocli.tasks.integrate.options import TransferOptions
from mocli.tasks.integrate.voting import LATENT, OPTIMISM, OwnPlaces, Voting, best_voting, votings
from mocli.tasks.run.run import Run
from mocli.tasks.trained.atlas import Atlas
from mocli.types import BoolArray, FloatArray, IntArray, Pairing

PLAIN = "louvain"
"""The column in which scanpy looks for Louvain clusters; written where the inputs have none of that name."""


@dataclass(frozen=True, eq=False)
class Labels:
    """A column of labels: codes `(n_m,)` of each modality, -1 where there is none, and their levels."""

    name: str
    codes: Mapping[str, IntArray]
    levels: tuple[str, ...]

    @property
    def summary(self) -> str:
        """Say which modalities have labels to give and which lack them."""
        counts = [f"{(c >= 0).sum():,} of {len(c):,} {name} cells" for name, c in self.codes.items()]
        return f"labels to transfer: {self.name}, {len(self.levels):,} labels, on {', '.join(counts)}"

    def of_cells(self, bundle: MultiOmics) -> Codes:
        """One code for every cell of a bundle, from the first modality that has one."""
        codes_of_cells = np.full(bundle.n_cells, -1, np.int64)
        for name, codes in self.codes.items():
            cells = bundle.cells_of(name)
            codes_of_cells[cells] = np.where(codes_of_cells[cells] < 0, codes, codes_of_cells[cells])
        return Codes(self.name, codes_of_cells, self.levels)


def read_labels(files: Sequence[ModalityFile], options: TransferOptions) -> tuple[Labels, ...]:
    """Find the columns and check that they hold labels.

    Raises:
        InputError: A column is in no modality, holds numbers, or labels no cell.
        UsageError: There is only one modality, or two columns would be written under one name.
    """
    if options.columns and len(files) < 2:
        raise UsageError(
            "labels are transferred between modalities, but there is only one",
            field="--transfer-labels",
            found=", ".join(f.name for f in files),
            hint="give a second modality, or the model of labelled cells with --reference",
        )
    columns = tuple(_read_column(files, key) for key in options.columns)
    names = [labels.name for labels in columns]
    if len(set(names)) < len(names):
        raise UsageError(
            "two columns of --transfer-labels would be written under one name",
            field="--transfer-labels",
            found=", ".join(options.columns),
        )
    return columns


def _read_column(files: Sequence[ModalityFile], key: str) -> Labels:
    columns = find_labels(files, key, option="--transfer-labels")
    texts = {}
    for f in files:
        column = columns[f.name]
        if column is not None and column.dtype.kind in "iufc":
            raise _numbers(files, f, key, column)
        texts[f.name] = np.full(f.n_obs, None, dtype=object) if column is None else words(column)
    levels = sorted({w for text in texts.values() for w in text if w is not None})
    if not levels:
        raise InputError("the column of --transfer-labels labels no cell", field=f"obs['{key}']")
    code = {level: i for i, level in enumerate(levels)}
    return Labels(
        name=key if any(key in f.obs for f in files) else key.partition(":")[2],
        codes={
            name: np.fromiter((code.get(w, -1) for w in text), dtype=np.int64, count=len(text))
            for name, text in texts.items()
        },
        levels=tuple(levels),
    )


def _numbers(files: Sequence[ModalityFile], f: ModalityFile, key: str, column: pd.Series) -> InputError:
    worded = dict.fromkeys(
        str(c) for g in files for c in g.obs.columns if g.obs[c].dtype.kind not in "iufc" and str(c) != key
    )
    return InputError(
        f"the column '{key}' of --transfer-labels holds numbers, which cannot be voted on",
        file=f.where,
        field=f"obs['{key}']",
        found=", ".join(map(str, column.iloc[:3])),
        expected="labels; numbers that stand for groups must be stored as text or as a categorical",
        hint=did_you_mean(key, worded, "columns with labels"),
    )


def carry(
    labels: Labels,
    latent: Mapping[str, FloatArray],
    bundle: MultiOmics,
    options: TransferOptions,
    *,
    device: str,
    again: Mapping[str, BoolArray] | None = None,
) -> Carried:
    """Give every cell without a label the one that its nearest labelled cells of other modalities vote for.

    A label of one modality holds for the same cell in another, unless the cells are unpaired. Cells without
    signal neither vote nor get a label: their latent coordinates are not meaningful.

    `again`: cells that are counted with a modality before, see `Carried`.
    """
    codes_known = own_codes(labels, bundle)
    assigned, below, left_out = {}, {}, {}
    for name, own_label in codes_known.items():
        sure = (own_label >= 0).astype(np.float32)
        assigned[name] = Assigned(own_label.copy(), sure, sure.copy())
        below[name] = options.unknown_below or 0.0
        cells = np.flatnonzero((own_label < 0) & placed(latent, bundle, name))
        if len(cells):
            z, codes, _ = electorate(name, codes_known, latent, bundle)
            reference = Labelled.of(z, codes, device=device)
            left_out[name] = reference.left_out()
            if options.unknown_below is None:
                below[name] = threshold(left_out[name])
            votes = ask(latent[name][cells], z, codes, reference, n_levels=len(labels.levels))
            for field in ("best", "confidence", "mapping"):
                getattr(assigned[name], field)[cells] = getattr(votes, field)
    owned = {name: codes >= 0 for name, codes in codes_known.items()}
    return Carried(
        labels.name,
        labels.levels,
        assigned,
        owned,
        options.min_confidence,
        below,
        left_out,
        again=again or {},
    )


def ask(
    z: FloatArray, z_voters: FloatArray, codes: IntArray, reference: Labelled, *, n_levels: int
) -> Assigned:
    """Let labelled cells of other modalities vote on cells `(n, d)`.

    A whole modality may lie apart from the others, which is no sign of types that they lack.
    """
    # imported here and above: a dry run must not pay for scikit-learn and torch
    votes = vote(z, z_voters, codes, n_levels=n_levels, device=reference.device)
    return Assigned(votes.best, votes.confidence, reference.score(z, apart_as_a_whole=True))


def own_codes(labels: Labels, bundle: MultiOmics) -> dict[str, IntArray]:
    """Codes of each modality; for paired cells, missing codes are filled in from another modality."""
    by_modality = {name: labels.codes[name].copy() for name in bundle.modalities}
    if bundle.pairing is Pairing.UNPAIRED:
        return by_modality
    of_cell = labels.of_cells(bundle).codes
    return {
        name: np.where(codes < 0, of_cell[bundle.cells_of(name)], codes)
        for name, codes in by_modality.items()
    }


def placed(latent: Mapping[str, FloatArray], bundle: MultiOmics, modality: str) -> BoolArray:
    """Say which cells have meaningful latent coordinates, `(n_m,)`."""
    finite = np.isfinite(latent[modality]).all(1)
    return np.asarray(finite & (bundle.modalities[modality].library != 0))


def electorate(
    receiver: str, codes_known: Mapping[str, IntArray], latent: Mapping[str, FloatArray], bundle: MultiOmics
) -> tuple[FloatArray, IntArray, dict[str, int]]:
    """Latent and codes of all cells of the other modalities, and the row at which each modality starts."""
    others = [name for name in codes_known if name != receiver]
    codes = [np.where(placed(latent, bundle, name), codes_known[name], -1) for name in others]
    starts: Any = np.concatenate([[0], np.cumsum([len(c) for c in codes])[:-1]]).tolist()
    z: FloatArray = np.concatenate([latent[name] for name in others])
    return z, np.concatenate(codes), dict(zip(others, starts, strict=True))


def column_for(key: str) -> str:
    """Return the column of obs for a latent of an obsm key: `scmodal_louvain` for `X_scmodal`."""
    return f"{key.removeprefix('X_')}_louvain"


def tell_replaced(files: Sequence[ModalityFile], column: str, warn: Callable[[str], None]) -> None:
    """Warn if a modality has a column of that name, which the output will not have."""
    having = [f.name for f in files if column in f.obs]
    if having:
        warn(
            f"obs['{column}'] of {' and '.join(having)} is replaced in the output by the clusters of this "
            "run; --key-added gives them another name"
        )


FOREST = "random forest"
HOW = {
    "k-NN": "by a vote of the 15 nearest training cells, weight exp(-d^2 / 2h^2), h the 15th's distance",
    FOREST: "by a random forest on the training cells' coordinates, 200 trees, balanced subsamples",
}


def vote_from_atlas(
    run: Run,
    options: TransferOptions,
    atlas: Atlas,
    files: Sequence[ModalityFile],
    latent: Mapping[str, FloatArray],
    measured: Sequence[str],
    again: Mapping[str, BoolArray],
    own: OwnPlaces | None = None,
) -> list[Carried]:
    """Label all cells of a query twice, by neighbours and by a random forest; compare where labels are known.

    Args:
        latent: By the name of each file's modality, `(n_obs, d)`.
        measured: The model's names of these modalities; training cells are compared as if nothing else had
            been measured in them.
        again: Cells that are counted with a modality before, see `Carried`.
        own: Components of the query's cells, by the model's names of modalities, and of the training cells.
    """
    places = atlas.seen_by(measured)
    done = []
    for column in options.columns:
        atlas_codes = atlas.labels[column]
        usable = np.isfinite(places).all(1) & (atlas_codes.codes >= 0)
        by_way: dict[str, dict[str, Assigned]] = {way: {} for way in HOW}
        below, left_out = {}, {}
        for model_name, (name, z) in zip(measured, latent.items(), strict=True):
            rows = np.flatnonzero(np.isfinite(z).all(1))
            voters = usable & atlas.voters(model_name, atlas_codes.codes)
            n_levels = len(atlas_codes.levels)
            voting = Voting(LATENT, places[voters], atlas_codes.codes[voters], z[rows], 0.0)
            if own is not None:
                found = (atlas.z[voters], own.kept[voters], own.query[model_name][rows], own.leading)
                spaces = votings(voting, *found, n_levels=n_levels, seed=run.options.seed)
                voting = best_voting(spaces)
                _tell_spaces(run, column, name, spaces, voting)
            reference = Labelled.of(voting.places, voting.codes, device=str(run.device))
            left_out[name] = reference.left_out()
            below[name] = (
                threshold(left_out[name]) if options.unknown_below is None else options.unknown_below
            )
            mapping = reference.score(voting.z)
            asked = (voting.z, voting.places, voting.codes)
            nearest = vote(*asked, n_levels=n_levels, device=str(run.device))
            grown = forest(*asked, n_levels=n_levels, seed=run.options.seed)
            for way, (best, confidence) in zip(HOW, (nearest, grown), strict=True):
                by_way[way][name] = Assigned(best, confidence, mapping).at(rows, len(z))
        own_label = {name: np.zeros(len(z), bool) for name, z in latent.items()}
        for way, assigned in by_way.items():
            of_forest = way == FOREST
            carried = Carried(
                column,
                atlas_codes.levels,
                assigned,
                own_label,
                options.min_confidence,
                below,
                left_out,
                way=way,
                column="forest" if of_forest else "transferred",
                maps=not of_forest,
                again=again,
            )
            done.append(carried)
            describe_carried(run, carried, prefix="query_")
            _compare(run, carried, files)
        _agree(run, column, *done[-2:])
    return done


def _tell_spaces(run: Run, column: str, name: str, spaces: Sequence[Voting], chosen: Voting) -> None:
    """Log and report in which space training cells vote, and how they label each other in each."""
    if len(spaces) == 1:
        return
    run.say(
        f"{column} of {name}: training cells vote in the {chosen.name}; left out one by one, they label each "
        "other right in " + ", ".join(f"{space.right:.1%} ({space.name})" for space in spaces)
    )
    run.report.tables[f"query_spaces_{column}_{name}"] = table(
        f"Where training cells vote: {column} of {name}",
        "Share of training cells that their 15 nearest other ones label right. The latent was fitted to "
        f"them, so it is used only where its share is more than {OPTIMISM:g} above the best of the others.",
        ["coordinates", "right", "used"],
        [[space.name, space.right, space is chosen] for space in spaces],
    )


def _compare(run: Run, carried: Carried, files: Sequence[ModalityFile]) -> None:
    """Report how many cells got the label they came with, if the query has the column."""
    levels = np.array(carried.levels, dtype=object)
    for name, (codes, own_levels) in known_labels(carried, files).items():
        cells = np.flatnonzero((codes >= 0) & carried.unlabelled(name))
        if not len(cells):
            continue
        truth = np.array(own_levels, dtype=object)[codes[cells]]
        transferred = carried.codes(name)[cells]
        sure, lacking = transferred >= 0, ~np.isin(truth, levels)
        right = sure & (levels[transferred] == truth)
        figures: tuple[tuple[str, str, float | None, int, str, Better], ...] = (
            (
                "query_label_accuracy",
                "accuracy",
                float(right.mean()),
                len(cells),
                "Share of the query's cells that got the label they came with; unknown counts as wrong.",
                "higher",
            ),
            (
                "query_label_accuracy_shared",
                "accuracy of types that the reference has",
                float(right[~lacking].mean()) if (~lacking).any() else None,
                int((~lacking).sum()),
                "Share of right labels among cells of types that the reference has; unknown counts as wrong.",
                "higher",
            ),
            (
                "query_label_accuracy_known",
                "accuracy where not unknown",
                float(right[sure].mean()) if sure.any() else None,
                int(sure.sum()),
                "Share of right labels among those that are not unknown.",
                "higher",
            ),
            (
                "query_label_unknown",
                "share unknown of known types",
                float((~sure[~lacking]).mean()) if (~lacking).any() else None,
                int((~lacking).sum()),
                "Share of cells that are unknown although the reference has their type.",
                "lower",
            ),
            (
                "query_label_unknown_lacking",
                "share unknown of types that the reference lacks",
                float((~sure[lacking]).mean()) if lacking.any() else None,
                int(lacking.sum()),
                "Share of cells of types that the reference lacks, which are rightly unknown.",
                "higher",
            ),
        )
        for metric, title, value, n, sentence, better in figures:
            run.report.metrics[f"{metric}[{carried.name}->{name}, {carried.way}]"] = figure(
                value,
                f"Labels of the query: {title}, {carried.way}",
                f"Cells of the query are labelled {HOW[carried.way]}; compared with their own label.",
                sentence,
                better=better,
                bounds=(0.0, 1.0),
                n=n,
            )
        if carried.maps:
            run.report.conclude(
                f"transferred {carried.name} of {name} is right for {right.mean():.0%} of "
                f"{plural(len(cells), 'cell')} that came with a label of their own"
            )
        told = [
            f"{title} {value:.3f}" + (f" ({n:,} cells)" if n < len(cells) else "")
            for _, title, value, n, _, _ in figures
            if value is not None and n
        ]
        run.say(
            f"  {carried.way}: {len(cells):,} {carried.measured(name)} cells came with a label of their own: "
            + ", ".join(told)
        )


def _agree(run: Run, column: str, first: Carried, second: Carried) -> None:
    a, b = (np.concatenate([c.codes(name) for name in c.assigned]) for c in (first, second))
    both = (a >= 0) & (b >= 0)
    if both.any():
        run.say(
            f"  both ways give the same {column} to {(a == b)[both].mean():.1%} of the cells that both label"
        )
