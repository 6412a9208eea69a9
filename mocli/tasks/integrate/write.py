"""Write what an integration made: the model, the cells, the report to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from mocli.data.bundle import Codes, MultiOmics
from mocli.data.files.modality import ModalityFile
from mocli.data.write.write import Added, union_names, update_h5mu, write_h5mu
from mocli.models.base import Draws, Model, PlacesCovariates
from mocli.report.html import Confusion, Drawn, Layout
from mocli.tasks.integrate.options import IntegrateOptions
from mocli.tasks.prepare.pairing import Relation
from mocli.tasks.run.options import DataOptions
from mocli.tasks.run.run import Run
from mocli.tasks.score.describe import depth_of
from mocli.tasks.score.picture import layout
from mocli.tasks.score.pictures import draw_tissue
from mocli.tasks.trained.latent import Latent
from mocli.train.predict import draw_cells as draw_posterior
from mocli.train.predict import place_covariates
from mocli.types import FloatArray, IntArray, Pairing


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

    Attributes
    ----------
    latent
        `(n_obs, d)` by the name of each file's modality, rows in file order.
    model, params
        Name and hyper-parameters of the model that gave them.
    obsm
        More to write beside the latent, by key, then by modality.
    """

    files: Sequence[ModalityFile]
    relation: Relation
    latent: Mapping[str, FloatArray]
    model: str
    params: object
    obsm: Mapping[str, Mapping[str, FloatArray]] = field(default_factory=dict)


MAX_PICTURE = 10_000
"""Cells drawn in the picture; more would only overlap."""


def more_latents(
    run: Run,
    asked: IntegrateOptions,
    model: Model,
    bundle: MultiOmics,
    latent: Latent,
    key: str,
    names: Mapping[str, str],
) -> dict[str, dict[str, FloatArray]]:
    """Return arrays `(n_obs, d)` by obsm key, then by the file's name of the modality.

    Parameters
    ----------
    key
        obsm key of the latent.
    names
        The file's name of each of the model's modalities.
    """
    latents: dict[str, dict[str, FloatArray]] = {}
    if asked.sample and isinstance(model, Draws):
        draws = draw_posterior(model, bundle, run.device, asked.sample, seed=run.options.seed)
        for i, z in enumerate(draws, start=1):
            latents[f"{key}_sample_{i}"] = {own: z[bundle.cells_of(name)] for name, own in names.items()}
    if isinstance(model, PlacesCovariates) and latent.joint is not None:
        for covariate, c in place_covariates(model, bundle, run.device).items():
            latents[f"{key}_{covariate}"] = {own: c[bundle.cells_of(name)] for name, own in names.items()}
    if asked.marginal:
        for name, z in latent.alone.items():
            latents[f"{key}_{names[name]}"] = {names[name]: z}
    return latents


def write_cells(run: Run, data: DataOptions, integrated: Integrated) -> None:
    """Write the cells with their latent coordinates before these are judged: a stop then loses nothing."""
    key = _key(run, integrated)
    added = _added(integrated, data, {key: integrated.latent, **integrated.obsm}, ())
    top = {k: _joined(added, of) for k, of in {key: integrated.latent, **integrated.obsm}.items()}
    uns = run.provenance(integrated.model, integrated.params)
    write_h5mu(run.paths.output, added, obsm=top, uns=uns, warn=run.warn)
    run.add_output(run.paths.output, _told(key, integrated))
    run.add_output(run.paths.model, "the trained model")
    run.say(f"wrote {run.paths.output}: {_told(key, integrated)}; what follows judges and completes it")


def deliver(
    run: Run,
    data: DataOptions,
    integrated: Integrated,
    *,
    columns: Sequence[AddedColumns] = (),
    draw: Callable[[], Layout],
    confusion: Confusion | None = None,
    more: Callable[[], list[Drawn]] = list,
) -> None:
    """Complete the cells by what was found out about them, and write the report to read.

    Parameters
    ----------
    draw
        Makes the picture of the HTML report; called only if there is to be one.
    confusion
        Labels against labels, for the HTML report.
    more
        Makes further pictures.
    """
    added = _added(integrated, data, {}, columns)
    top: dict[str, FloatArray] = {}
    if run.output.umap:
        run.say("computing UMAP coordinates of every cell")
        z = _joined(added, integrated.latent)
        # cells of modalities left out have no place
        known = np.isfinite(z).all(1)
        top["X_umap"] = np.full((len(z), 2), np.nan, dtype=np.float32)
        top["X_umap"][known] = layout(z[known], seed=run.options.seed)
    if top or columns:
        update_h5mu(run.paths.output, added, obsm=top, obs=_joined_columns(added, columns))
        said = "".join(f", {c.said}" for c in columns)
        run.add_output(run.paths.output, _told(_key(run, integrated), integrated) + said, first=True)
    run.finish(
        lambda: {
            "layout": draw(),
            "confusion": confusion,
            "drawn": [*draw_tissue(integrated.files, columns), *more()],
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
            obsm={key: of[f.name] for key, of in obsm.items() if f.name in of},
            obs={name: column for c in columns for name, column in c.of_modality(f.name).items()},
            obs_names=tuple(f"{f.name}:{name}" for name in f.obs.index) if prefix else None,
        )
        for f in files
    ]


def _collide(files: Sequence[ModalityFile]) -> bool:
    names = pd.Index([])
    for f in files:
        if f.obs.index.isin(names).any():
            return True
        names = names.append(f.obs.index)
    return False


def _joined(added: Sequence[Added], latent: Mapping[str, FloatArray]) -> FloatArray:
    """One row per cell of the file; a cell measured in several modalities lies at their mean."""
    where = pd.Index(union_names(added))
    n_latent = next(iter(latent.values())).shape[1]
    total = np.zeros((len(where), n_latent), dtype=np.float64)
    times = np.zeros(len(where), dtype=np.int64)
    for part in added:
        if part.file.name not in latent:
            continue
        rows = where.get_indexer(part.names)
        total[rows] += latent[part.file.name]
        times[rows] += 1
    joined = np.full(total.shape, np.nan)
    np.divide(total, times[:, None], out=joined, where=times[:, None] > 0)
    return joined.astype(np.float32)


def _joined_columns(added: Sequence[Added], columns: Sequence[AddedColumns]) -> dict[str, object]:
    where = pd.Index(union_names(added))
    cells = {part.file.name: where.get_indexer(part.names) for part in added}
    return {name: column for c in columns for name, column in c.of_whole(cells, len(where)).items()}


def draw_cells(bundle: MultiOmics, latent: Latent, clusters: Codes | None = None, *, seed: int) -> Layout:
    """Return the picture of an integration."""
    groups = latent.groups(bundle)
    sizes = [len(group.cells) for group in groups.values()]
    which, cells = np.repeat(np.arange(len(sizes)), sizes), np.concatenate([g.cells for g in groups.values()])
    n = sum(sizes)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(n, MAX_PICTURE, replace=False)) if n > MAX_PICTURE else np.arange(n)
    categories: dict[str, Any] = {}
    if len(groups) > 1 or latent.joint is None:
        categories["modality"] = (which[chosen], tuple(groups))
    for title, codes in (("label", bundle.label), ("batch", bundle.batch), ("cluster", clusters)):
        if codes is not None:
            categories[title] = (codes.codes[cells[chosen]], codes.levels)
    values: dict[str, FloatArray] = {}
    for name, m in bundle.modalities.items():
        depth = depth_of(m)
        if depth is not None:
            of_cells = np.full(bundle.n_cells, np.nan, np.float32)
            of_cells[bundle.cells_of(name)] = depth
            mine = (
                np.ones(len(chosen), bool)
                if latent.joint is not None
                else which[chosen] == list(groups).index(name)
            )
            values[f"counts of {name}, log10"] = np.where(mine, of_cells[cells[chosen]], np.nan)
    xy = layout(np.concatenate([g.z for g in groups.values()])[chosen], seed=seed)
    title = "UMAP of the latent" + ("" if len(chosen) == n else f", {len(chosen):,} of {n:,} cells")
    if latent.joint is not None:
        return Layout(title, xy, categories, values, points="One point a cell, whatever was measured of it")
    return Layout(title, xy, categories, values)
