"""Write what an integration made: the model, the cells, the report to read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from mocli import __version__
from mocli.data.write.write import Added, union_names, write_h5mu
from mocli.models.parameters import as_dict
from mocli.tasks.score.picture import layout
from mocli.train.checkpoint import Checkpoints
from mocli.types import Pairing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mocli.data.bundle import Codes, MultiOmics
    from mocli.data.files.modality import ModalityFile
    from mocli.report.html import Confusion, Layout
    from mocli.tasks.run.options import DataOptions
    from mocli.tasks.run.run import Run
    from mocli.tasks.trained.latent import Latent, Placed
    from mocli.types import FloatArray, IntArray


class Columns(Protocol):
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


MAX_PICTURE = 10_000
"""Cells drawn in the picture; more would only overlap."""


def deliver(
    run: Run,
    data: DataOptions,
    placed: Placed,
    *,
    carried: Sequence[Columns] = (),
    draw: Callable[[], Layout],
    confusion: Confusion | None = None,
) -> None:
    """Write every output; the JSON report comes last, so that `ok` means all of it is there.

    Parameters
    ----------
    draw
        Makes the picture of the HTML report; called only if there is to be one.
    confusion
        Labels against labels, for the HTML report.
    """
    paths, output = run.paths, run.output
    key = output.key_added or f"X_{placed.model}"
    obsm = {key: placed.latent, **placed.obsm}
    added = _added(placed, data, obsm, carried)
    names = union_names(added)
    top = {k: _joined(names, added, of) for k, of in obsm.items()}
    if output.umap:
        run.say("computing UMAP coordinates of every cell")
        # cells of modalities left out have no place
        known = np.isfinite(top[key]).all(1)
        top["X_umap"] = np.full((len(names), 2), np.nan, dtype=np.float32)
        top["X_umap"][known] = layout(top[key][known], seed=run.options.seed)
    uns = {"mocli": provenance(run, placed.model, placed.params)} if output.provenance else {}
    columns_on_top = _joined_columns(names, added, carried)
    write_h5mu(paths.output, added, obsm=top, uns=uns, obs=columns_on_top, warn=run.warn)
    columns = "".join(f", {c.said}" for c in carried)
    more = "".join(f", {k}" for k in placed.obsm)
    run.add_output(paths.output, f"integrated cells, latent in obsm['{key}']{more}{columns}")
    run.add_output(paths.model, "the trained model")
    if paths.html is not None:
        from mocli.report import html

        run.say("drawing the report")
        html.write(paths.html, html.render(run.report, layout=draw(), confusion=confusion))
        run.add_output(paths.html, "the report to read")
    Checkpoints(paths.checkpoints, fingerprint={}, resume="never").remove()
    for record in run.report.outputs:
        run.say(f"wrote {record['path']}: {record['what']}")


def _added(
    placed: Placed,
    data: DataOptions,
    obsm: Mapping[str, Mapping[str, FloatArray]],
    carried: Sequence[Columns],
) -> list[Added]:
    relation, files = placed.relation, placed.files
    prefix = data.obs_prefix or (
        not relation.names_mean_cells and relation.pairing is Pairing.UNPAIRED and _collide(files)
    )
    return [
        Added(
            file=f,
            obsm={key: of[f.name] for key, of in obsm.items() if f.name in of},
            obs={name: column for c in carried for name, column in c.of_modality(f.name).items()},
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


def _joined(names: Sequence[str], added: Sequence[Added], latent: Mapping[str, FloatArray]) -> FloatArray:
    """One row per cell of the file; a cell measured in several modalities lies at their mean."""
    where = pd.Index(names)
    n_latent = next(iter(latent.values())).shape[1]
    total = np.zeros((len(names), n_latent), dtype=np.float64)
    times = np.zeros(len(names), dtype=np.int64)
    for part in added:
        if part.file.name not in latent:
            continue
        rows = where.get_indexer(part.names)
        total[rows] += latent[part.file.name]
        times[rows] += 1
    joined = np.full(total.shape, np.nan)
    np.divide(total, times[:, None], out=joined, where=times[:, None] > 0)
    return joined.astype(np.float32)


def _joined_columns(
    names: Sequence[str], added: Sequence[Added], columns: Sequence[Columns]
) -> dict[str, object]:
    where = pd.Index(names)
    cells = {part.file.name: where.get_indexer(part.names) for part in added}
    return {name: column for c in columns for name, column in c.of_whole(cells, len(names)).items()}


def provenance(run: Run, model: str, params: object) -> dict[str, object]:
    """Return what `uns["mocli"]` says of the run."""
    return {
        "version": __version__,
        "command": np.array(run.report.command, dtype=object),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": model,
        "params": json.dumps(as_dict(params), sort_keys=True),
        "seed": run.options.seed,
        "device": str(run.device),
        "inputs": json.dumps([{"path": r["path"], "sha256": r["sha256"]} for r in run.report.inputs]),
        "links": json.dumps([{"path": r["path"], "sha256": r["sha256"]} for r in run.report.links]),
        "versions": json.dumps(run.report.versions, sort_keys=True),
    }


def draw_cells(bundle: MultiOmics, latent: Latent, clusters: Codes | None = None, *, seed: int) -> Layout:
    """Return the picture of an integration."""
    from mocli.report.html import Layout

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
    xy = layout(np.concatenate([g.z for g in groups.values()])[chosen], seed=seed)
    title = "UMAP of the latent" + ("" if len(chosen) == n else f", {len(chosen):,} of {n:,} cells")
    if latent.joint is not None:
        return Layout(title, xy, categories, points="One point a cell, whatever was measured of it")
    return Layout(title, xy, categories)
