"""The work of `mocli integrate`: train, encode, score, cluster, carry labels, write."""

from __future__ import annotations

from functools import partial

import numpy as np

from mocli.tasks.integrate.best import choose_best
from mocli.tasks.integrate.check import transfer
from mocli.tasks.integrate.labels import column_for, read_labels, tell_replaced
from mocli.tasks.integrate.options import IntegrateOptions
from mocli.tasks.integrate.plotting import draw_cells, lay_out, split_points
from mocli.tasks.integrate.write import (
    AddedColumns,
    Integrated,
    cell_columns,
    deliver,
    more_latents,
    write_cells,
)
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.run.options import BEST
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.score.clusterings import cluster_graph, find_clusters
from mocli.tasks.score.evaluate import describe_links, describe_scores, score, wanted
from mocli.tasks.score.pictures import draw_correlations
from mocli.tasks.trained.train import train_model
from mocli.types import BoolArray, IntArray, Task


def integrate_cells(run: Run, request: Request, asked: IntegrateOptions) -> None:
    """Train a model on the inputs, and write their cells with latent coordinates, and the report."""
    files = open_modalities(request.data)
    labels = read_labels(files, asked.transfer)
    for column in labels:
        run.say(column.summary)
    if request.train.model == BEST:
        request = choose_best(run, request, files, asked.check)
    trained = train_model(run, request, Task.INTEGRATE, files, labels=labels, check=asked.check)
    plan, bundle, latent, model = trained.plan, trained.prepared.bundle, trained.latent, trained.model
    key = request.output.key_added or f"X_{plan.traits.name}"
    names = {f.name: f.name for f in plan.files}
    more = more_latents(run, asked, model, bundle, latent, key, names)
    integrated = Integrated(
        plan.files, plan.relation, latent.by_modality, plan.traits.name, model.params, more
    )
    with run.timed("write"):
        known = cell_columns(bundle, plan.column_names, names)
        used = {name: _mask(r.selected, r.n_vars) for name, r in trained.prepared.recipes.items()}
        write_cells(run, request.data, integrated, known, used)
    with run.timed("evaluate"):
        scores = None
        if asked.metrics != "none":
            scores = score(
                latent,
                bundle,
                plan.pairs,
                seed=request.run.seed,
                names=wanted(asked.metrics),
                device=str(run.device),
                say=run.say,
            )
            describe_scores(run, scores)
            describe_links(run, scores)
        columns: list[AddedColumns] = [*find_clusters(run, plan.traits.name, model, latent, bundle, names)]
        graph = None
        if asked.clusters is not None:
            tell_replaced(plan.files, column_for(key), run.warn)
            graph = cluster_graph(run, asked.clusters, column_for(key), latent, bundle, names)
            columns.append(graph)
        columns += transfer(run, asked.transfer, labels, plan.pairs, bundle, latent.by_modality)
    with run.timed("write"):
        clusters = None if graph is None else graph.codes
        xy = umap = None
        if run.output.umap:
            run.say("computing UMAP coordinates of every cell")
            xy = lay_out(latent, bundle, seed=request.run.seed)
            umap = split_points(xy, latent, bundle, names)
        draw = partial(draw_cells, bundle, latent, clusters, xy, seed=request.run.seed)
        confusion = None if scores is None else scores.confusion
        heat = partial(draw_correlations, bundle, clusters) if clusters is not None else list
        deliver(
            run,
            request.data,
            integrated,
            columns=columns,
            umap=umap,
            draw=draw,
            confusion=confusion,
            more=heat,
        )


def _mask(selected: IntArray, n: int) -> BoolArray:
    mask = np.zeros(n, dtype=bool)
    mask[selected] = True
    return mask
