"""Write the results of an integration: the model, the cells, their matches, plots, the HTML report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from mocli.data.bundle import Codes, MultiOmics
from mocli.data.files.modality import ModalityFile
from mocli.data.write.outfile import write_tsv
from mocli.data.write.write import Added, groups_with, union_names, update_file, write_file
from mocli.metrics.embedding import NEIGHBORS, Nearest
from mocli.models.base import Draws, HasCovariateSpaces, Model
from mocli.nn.nearby import mutual_pairs
from mocli.nn.neighbors import drawn_rows
from mocli.report import scatter
from mocli.report.html import Confusion, Drawn, Layout
from mocli.tasks.integrate.carried import UNKNOWN, CarriedPoints
from mocli.tasks.integrate.options import IntegrateOptions
from mocli.tasks.prepare.pairing import Relation
from mocli.tasks.run.guard import return_freed_memory
from mocli.tasks.run.options import DataOptions
from mocli.tasks.run.run import Run
from mocli.tasks.score.clusterings import CellColumns, cells_of_files
from mocli.tasks.score.describe import depth_of
from mocli.tasks.score.picture import draw_tissue, flat, fuzzy_graph, layout
from mocli.tasks.trained.latent import Latent, measured_together
from mocli.train.predict import draw_cells as draw_posterior
from mocli.train.predict import place_covariates
from mocli.types import CSR, BoolArray, FloatArray, IntArray, Pairing

MAX_PICTURE = 10_000
"""Cells drawn in the picture; more would only overlap."""


def neighbor_graph(z: FloatArray, nearest: Nearest | None = None, *, device: str = "cpu") -> tuple[CSR, CSR]:
    """Return distances to the 15 nearest cells, and UMAP's memberships of these edges, `(n, n)` each.

    Cells without coordinates (NaN) have no neighbours.

    `nearest`: neighbours of these coordinates in any order, if they were searched before.
    """
    n, finite = len(z), np.flatnonzero(np.isfinite(z).all(1))
    if len(finite) < 2:
        empty: CSR = sparse.csr_matrix((n, n), dtype=np.float32)
        return empty, empty.copy()
    lists = (nearest and nearest.among(z[finite])) or Nearest.of(z[finite], device=device)
    where = finite[lists.order]
    rows = np.repeat(np.arange(len(finite)), lists.neighbors.shape[1])
    others = rows != lists.neighbors.ravel()
    pairs = where[rows[others]], where[lists.neighbors.ravel()[others]]
    distances = sparse.csr_matrix((lists.distances.ravel()[others].astype(np.float32), pairs), shape=(n, n))
    graph = fuzzy_graph(lists.neighbors, lists.distances).tocoo()
    joined = (where[graph.row], where[graph.col])
    return distances, sparse.csr_matrix((graph.data.astype(np.float32), joined), shape=(n, n))


def lay_out(
    latent: Latent, bundle: MultiOmics, around: FloatArray | None = None, *, seed: int, device: str = "cpu"
) -> FloatArray:
    """Return UMAP coordinates of every point in the order of the latent's groups, after those of `around`.

    `around`: further coordinates that are laid out with them, `(m, d)`.
    """
    z = latent.points(bundle).z
    return layout(z if around is None else np.concatenate([around, z]), seed=seed, device=device)


def split_points(
    xy: FloatArray, latent: Latent, bundle: MultiOmics, names: Mapping[str, str]
) -> dict[str, FloatArray]:
    """Give every row of a modality its coordinates, `(n_obs, 2)` by the file's name of the modality."""
    if latent.joint is None:
        ends = np.cumsum([len(z) for z in latent.by_modality.values()])
        parts = zip(latent.by_modality, np.split(xy, ends[:-1]), strict=True)
        return {names[name]: part for name, part in parts}
    whole = np.full((bundle.n_cells, 2), np.nan, np.float32)
    whole[latent.points(bundle).cells] = xy
    return {file_name: whole[rows] for file_name, rows in cells_of_files(bundle, names).items()}


def draw_covariates(model: Model, bundle: MultiOmics, device: torch.device, *, seed: int) -> list[Drawn]:
    """Draw where cells lie in the space of each covariate, coloured by its levels, where a model has such.

    A cell of a level that the model does not know lies where its counts are described best.
    """
    if not isinstance(model, HasCovariateSpaces):
        return []
    rows = drawn_rows(bundle.n_cells, MAX_PICTURE, seed=seed)
    spaces = place_covariates(model, bundle, device)
    return [
        Drawn(
            scatter.by_category(
                flat(c[rows]) if c.shape[1] > 2 else c[rows],
                scatter.Category(codes.codes[rows], codes.levels),
                seed=seed,
            ),
            f"Cells in the space of {codes.key}",
            "The part of a cell's coordinates that is the covariate's own"
            + (", its first two principal components." if c.shape[1] > 2 else ", both dimensions."),
            wide=False,
        )
        for codes in bundle.categorical
        if (c := spaces.get(codes.key)) is not None and c.shape[1] > 1
    ]


def draw_cells(
    bundle: MultiOmics,
    latent: Latent,
    clusters: Codes | None = None,
    xy: FloatArray | None = None,
    carried: Sequence[CarriedPoints] = (),
    *,
    seed: int,
    device: str = "cpu",
) -> Layout:
    """Return the picture of an integration.

    Args:
        xy: Coordinates of all points, where they are known.
        carried: Labels that points got from others, or had.
    """
    groups = latent.groups(bundle)
    z, cells = latent.points(bundle)
    group_of_point, n = np.repeat(np.arange(len(groups)), [len(g.cells) for g in groups.values()]), len(z)
    chosen = drawn_rows(n, MAX_PICTURE, seed=seed)
    categories: dict[str, Any] = {}
    if len(groups) > 1 or latent.joint is None:
        categories["modality"] = (group_of_point[chosen], tuple(groups))
    for title, codes in (("label", bundle.label), ("batch", bundle.batch), ("cluster", clusters)):
        if codes is not None:
            categories[title] = (codes.codes[cells[chosen]], codes.levels)
    values: dict[str, FloatArray] = {}
    for got in carried:
        codes_of = np.where(got.codes < 0, len(got.levels), got.codes)
        categories[f"label ({got.name}, transferred)"] = (codes_of[chosen], (*got.levels, UNKNOWN))
        values[f"confidence, {got.name}"] = got.confidence[chosen]
        values[f"mapping score, {got.name}"] = got.mapping[chosen]
    for name, m in bundle.modalities.items():
        depth = depth_of(m)
        if depth is not None:
            of_cells = np.full(bundle.n_cells, np.nan, np.float32)
            of_cells[bundle.cells_of(name)] = depth
            of_modality = (
                np.ones(len(chosen), bool)
                if latent.joint is not None
                else group_of_point[chosen] == list(groups).index(name)
            )
            values[f"counts of {name}, log10"] = np.where(of_modality, of_cells[cells[chosen]], np.nan)
    xy = layout(z[chosen], seed=seed, device=device) if xy is None else xy[chosen]
    title = "UMAP of the latent" + ("" if len(chosen) == n else f", {len(chosen):,} of {n:,} cells")
    if latent.joint is not None:
        return Layout(
            title, xy, categories, values, points="One point for each cell, whatever was measured in it"
        )
    return Layout(title, xy, categories, values)


class AddedColumns(Protocol):
    """Columns that a run adds to obs."""

    @property
    def said(self) -> str:
        """The main column, for people."""
        ...

    def of_modality(self, modality: str) -> Mapping[str, object]:
        """Return columns for the obs of a modality, by name."""
        ...

    def of_whole(self, cells: Mapping[str, IntArray], n_cells: int) -> Mapping[str, object]:
        """Return columns for the obs of the whole."""
        ...


@dataclass(frozen=True, eq=False)
class Integrated:
    """Cells with their latent coordinates, ready to be written.

    Attributes:
        latent: `(n_obs, d)` by the name of each file's modality, rows in file order.
        model, params: Name and hyper-parameters of the model that gave them.
        obsm: Further arrays besides the latent, by key, then by modality.
        nearest: Neighbours of all cells, where they were searched before.
    """

    files: Sequence[ModalityFile]
    relation: Relation
    latent: Mapping[str, FloatArray]
    model: str
    params: object
    obsm: Mapping[str, Mapping[str, FloatArray]] = field(default_factory=dict)
    nearest: Nearest | None = None


USED = "mocli_used"
"""Column of var: whether the model sees the feature."""


def more_latents(
    run: Run,
    options: IntegrateOptions,
    model: Model,
    bundle: MultiOmics,
    latent: Latent,
    key: str,
    names: Mapping[str, str],
) -> dict[str, dict[str, FloatArray]]:
    """Return arrays `(n_obs, d)` by obsm key, then by the file's name of the modality.

    Args:
        key: obsm key of the latent.
        names: The file's name of each of the model's modalities.
    """
    latents: dict[str, dict[str, FloatArray]] = {}
    cells = cells_of_files(bundle, names)
    if options.sample and isinstance(model, Draws):
        draws = draw_posterior(model, bundle, run.device, options.sample, seed=run.options.seed)
        for i, z in enumerate(draws, start=1):
            latents[f"{key}_sample_{i}"] = {file_name: z[rows] for file_name, rows in cells.items()}
    if isinstance(model, HasCovariateSpaces) and latent.joint is not None:
        for covariate, c in place_covariates(model, bundle, run.device).items():
            latents[f"{key}_{covariate}"] = {file_name: c[rows] for file_name, rows in cells.items()}
    if options.marginal:
        for name, z in latent.alone.items():
            latents[f"{key}_{names[name]}"] = {names[name]: z}
    return latents


def cell_columns(
    bundle: MultiOmics, column_names: Mapping[str, str], names: Mapping[str, str]
) -> list[CellColumns]:
    """Return the columns known of cells, from any modality: label, batch, covariates, what was measured.

    Args:
        column_names: The user's names of `batch` and `label`.
        names: The file's name of each of the bundle's modalities.
    """
    cells = cells_of_files(bundle, names)
    together = {
        "+".join(names[m] for m in key.split("+")): rows for key, rows in measured_together(bundle).items()
    }
    measured = np.full(bundle.n_cells, -1, np.int64)
    for code, rows in enumerate(together.values()):
        measured[rows] = code
    columns = [c for c in (bundle.label, *bundle.categorical) if c is not None]
    named = [replace(c, key=column_names.get(c.key, c.key).rpartition(":")[2]) for c in columns]
    return [CellColumns.of_codes(c, cells) for c in (*named, Codes("modality", measured, tuple(together)))]


def write_cells(
    run: Run,
    data: DataOptions,
    integrated: Integrated,
    columns: Sequence[AddedColumns],
    used: Mapping[str, BoolArray],
) -> None:
    """Write the cells with their latent coordinates before these are judged, so that a stop loses nothing.

    `columns` are written if a file has none of that name; `used` says by modality which features the model
    sees, `(n_vars,)`.
    """
    for name, flags in used.items():
        if not flags.all():
            run.say(f"{name}: the model uses {flags.sum():,} of {len(flags):,} features, var['{USED}']")
    key = _key(run, integrated)
    obsm = {key: integrated.latent, **integrated.obsm}
    added = [
        replace(a, merged=_columns_of(a.file.name, columns), var={USED: used[a.file.name]})
        for a in _added(integrated, data, obsm, ())
    ]
    top = {k: _joined(added, arrays) for k, arrays in obsm.items()}
    uns = run.provenance(integrated.model, integrated.params)
    merged = _joined_columns(added, columns)
    write_file(run.paths.output, added, obsm=top, merged=merged, uns=uns, warn=run.warn)
    run.add_output(run.paths.output, _told(key, integrated))
    run.add_output(run.paths.model, "the trained model")
    run.say(f"wrote {run.paths.output}: {_told(key, integrated)}; the following steps judge and complete it")


def deliver(
    run: Run,
    data: DataOptions,
    integrated: Integrated,
    *,
    columns: Sequence[AddedColumns] = (),
    umap: Mapping[str, FloatArray] | None = None,
    draw: Callable[[], Layout],
    confusion: Confusion | None = None,
    more: Callable[[], list[Drawn]] = list,
) -> None:
    """Complete the cells with what was found out about them, and write the HTML report.

    Args:
        umap: Coordinates `(n_obs, 2)` by modality; None to write neither these nor the k-NN graph.
        draw: Makes the picture of the HTML report; called only if there is to be one.
        confusion: Labels against labels, for the HTML report.
        more: Makes further pictures.
    """
    added = _added(integrated, data, {}, columns)
    additions = "".join(f", {c.said}" for c in columns)
    if umap is not None:
        # a picture that a user has made of a modality stays
        with_umap = groups_with(run.paths.output, "X_umap")
        if "/" in with_umap:
            run.warn("obsm['X_umap'] of the input is replaced by the new one; --no-umap keeps the old one")
        added = [
            a if a.file.name in with_umap else replace(a, obsm={"X_umap": umap[a.file.name]}) for a in added
        ]
        z = _joined(added, integrated.latent)
        return_freed_memory()
        distances, connectivities = neighbor_graph(z, integrated.nearest, device=str(run.device))
        graph = {"distances": distances, "connectivities": connectivities}
        params = {"n_neighbors": NEIGHBORS, "method": "umap", "use_rep": _key(run, integrated)}
        uns = {"neighbors": {**{f"{key}_key": key for key in graph}, "params": params}}
        top = {"X_umap": _joined(added, umap)}
        columns_on_top = _joined_columns(added, columns)
        update_file(run.paths.output, added, obsm=top, obs=columns_on_top, obsp=graph, uns=uns)
        additions += ", X_umap, neighbours in obsp"
    elif columns:
        update_file(run.paths.output, added, obs=_joined_columns(added, columns))
    if additions:
        run.add_output(run.paths.output, _told(_key(run, integrated), integrated) + additions, first=True)
    run.finish(
        lambda: {
            "layout": draw(),
            "confusion": confusion,
            "drawn": [*draw_tissue(integrated.files, columns, run.warn), *more()],
        }
    )


def _key(run: Run, integrated: Integrated) -> str:
    return run.output.key_added or f"X_{integrated.model}"


def _told(key: str, integrated: Integrated) -> str:
    return f"integrated cells, latent in obsm['{key}']" + "".join(f", {k}" for k in integrated.obsm)


def _added(
    integrated: Integrated,
    data: DataOptions,
    obsm: Mapping[str, Mapping[str, FloatArray]],
    columns: Sequence[AddedColumns],
) -> list[Added]:
    relation, files = integrated.relation, integrated.files
    prefix = data.obs_prefix or (
        not relation.names_mean_cells and relation.pairing is Pairing.UNPAIRED and _collide(files)
    )
    return [
        Added(
            file=f,
            obsm={key: arrays[f.name] for key, arrays in obsm.items() if f.name in arrays},
            obs=_columns_of(f.name, columns),
            obs_names=tuple(f"{f.name}:{name}" for name in f.obs.index) if prefix else None,
        )
        for f in files
    ]


def _columns_of(modality: str, columns: Sequence[AddedColumns]) -> dict[str, object]:
    return {name: column for c in columns for name, column in c.of_modality(modality).items()}


def _collide(files: Sequence[ModalityFile]) -> bool:
    names = pd.Index([])
    for f in files:
        if f.obs.index.isin(names).any():
            return True
        names = names.append(f.obs.index)
    return False


def _joined(added: Sequence[Added], latent: Mapping[str, FloatArray]) -> FloatArray:
    """Return one row per cell of the file; a cell measured in several modalities gets their mean."""
    where = pd.Index(union_names(added))
    parts = [p for p in added if p.file.name in latent]
    rows_of = [where.get_indexer(p.names) for p in parts]
    times = np.zeros(len(where), dtype=np.int64)
    for rows in rows_of:
        times[rows] += 1
    n_latent = next(iter(latent.values())).shape[1]
    joined = np.full((len(where), n_latent), np.nan, dtype=np.float32)
    for k in range(n_latent):  # a column at a time, as there may be very many cells
        total = np.zeros(len(where))
        for part, rows in zip(parts, rows_of, strict=True):
            total[rows] += latent[part.file.name][:, k]
        np.divide(total, times, out=joined[:, k], where=times > 0, casting="same_kind")
    return joined


def _joined_columns(added: Sequence[Added], columns: Sequence[AddedColumns]) -> dict[str, object]:
    where = pd.Index(union_names(added))
    cells = {part.file.name: where.get_indexer(part.names) for part in added}
    return {name: column for c in columns for name, column in c.of_whole(cells, len(where)).items()}


COLUMNS = ("modality", "cell", "other_modality", "other_cell", "distance", "score")


def match_cells(
    latent: Mapping[str, FloatArray], names: Mapping[str, Sequence[str]], *, device: str = "cpu"
) -> pd.DataFrame:
    """Return the mutual nearest cells of every two modalities, best first, one row a pair.

    Args:
        latent: `(n_obs, d)` by modality; rows that are not finite have no match.
        names: Names of the cells by modality.

    Returns:
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
