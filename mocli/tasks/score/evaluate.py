"""Score coordinates of cells, a model's latent, a baseline or a user's, by the same metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mocli.data.batches import dense_rows
from mocli.data.bundle import Codes, MultiOmics
from mocli.metrics.embedding import Embedding
from mocli.metrics.matching import concordance_by_link
from mocli.metrics.registry import available_metrics, evaluate
from mocli.nn.neighbors import drawn_rows
from mocli.report.figures import Entry, duration, metric_value, plural, spoken, table
from mocli.tasks.prepare.smoothing import own_coordinates
from mocli.tasks.run.guard import return_freed_memory
from mocli.tasks.run.run import Run
from mocli.tasks.score.baselines import MAX_CELLS, MAX_VALUES, Baseline, component_baseline, link_baselines
from mocli.tasks.trained.latent import Latent
from mocli.types import DoubleArray, FloatArray, IntArray

Own = tuple[IntArray, FloatArray]

MAX_LINKED = 200
"""Most columns for link concordance; more would only cost memory."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Metrics of the model and of the baselines, and what the pictures need."""

    metrics: dict[str, Any]
    baselines: dict[str, Any]
    confusion: dict[str, tuple[IntArray, tuple[str, ...], tuple[str, ...]]]
    links: dict[tuple[str, str], LinkScores]


@dataclass(frozen=True, eq=False)
class LinkScores:
    """How far cells that lie together agree on each linked feature.

    Attributes:
        concordance: `(n_links,)`, correlation with the neighbours in the other modality.
        n_cells: Cells of the smaller modality, which the correlations are computed over.
        n_links: Links of the edge; 200 are drawn if there are more.
    """

    names: tuple[str, ...]
    concordance: DoubleArray
    n_cells: int
    n_links: int


def score(
    latent: Latent,
    bundle: MultiOmics,
    pairs: Mapping[tuple[str, str], IntArray],
    *,
    seed: int,
    names: Sequence[str] | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
    beside: bool = True,
) -> Scores:
    """Evaluate the latent and baselines.

    Where modalities have places of their own, these are the linked features of every pair of linked
    modalities; where a cell has one position, principal components without any correction.

    Args:
        names: Metrics wanted; None for all that apply.
        say: Called with a line for each set of coordinates, with the time that its metrics took.
        beside: Whether baselines are measured.
    """
    judge = Judge(names, device, say)
    baselines: dict[str, Any] = {}
    # baselines first, as their memory is free again then
    groups = latent.groups(bundle)
    if latent.joint is None:
        own_places = own_components(bundle, seed=seed)
        if beside:
            baselines = _link_baselines(bundle, pairs, own_places, judge, seed=seed)
    else:
        base, rows_of = _components(bundle, seed=seed)
        if beside:
            # they are a cell's own coordinates, so that what they conserve says nothing
            uncorrected = embedding_of(base.z, rows_of, bundle, seed=seed, device=device)
            baselines = {base.name: judge.baseline(base, uncorrected)}
        # cells measured alike, by all that was measured of them
        own_places = {
            name: (np.searchsorted(groups[name].cells, rows_of[name]), z) for name, z in base.z.items()
        }
    everything = {name: np.arange(m.n_obs) for name, m in bundle.modalities.items()}
    embedding = embedding_of(
        {name: group.z for name, group in groups.items()},
        {name: group.cells for name, group in groups.items()},
        bundle,
        seed=seed,
        # a cell with one position has no distance to itself
        pairs=pairs if latent.joint is None else {},
        linked=linked_features(bundle, everything, seed=seed) if latent.joint is None else {},
        own_places=own_places,
        device=device,
    )
    metrics = judge("the model", embedding)
    return Scores(metrics, baselines, confusions(embedding), _links(embedding, bundle))


def _links(e: Embedding, bundle: MultiOmics) -> dict[tuple[str, str], LinkScores]:
    concordance = concordance_by_link(e) if e.linked else {}
    return {
        link.edge: LinkScores(
            names=e.linked[link.edge][2],
            concordance=concordance[link.edge],
            n_cells=min(bundle.modalities[name].n_obs for name in link.edge),
            n_links=len(link.names),
        )
        for link in bundle.links
        if e.linked and link.edge in concordance
    }


def own_components(bundle: MultiOmics, *, seed: int) -> dict[str, Own]:
    """Rows of each modality (all, or a sample), and their coordinates by its own features alone."""
    rng = np.random.default_rng(seed)
    own_places = {}
    for name, m in bundle.modalities.items():
        rows = drawn_rows(m.n_obs, MAX_CELLS, seed=rng)
        own_places[name] = rows, own_coordinates(m, rows, seed=seed)
    return own_places


def _own_among(own_places: Mapping[str, Own], rows: Mapping[str, IntArray]) -> dict[str, Own]:
    """Own coordinates of the cells of a sample of rows, in its numbering."""
    among_sample = {}
    for name, sampled in rows.items():
        placed_rows, places = own_places[name]
        _, position, among = np.intersect1d(sampled, placed_rows, assume_unique=True, return_indices=True)
        among_sample[name] = position, places[among]
    return among_sample


def _link_baselines(
    bundle: MultiOmics,
    pairs: Mapping[tuple[str, str], IntArray],
    own_places: Mapping[str, Own],
    judge: Judge,
    *,
    seed: int,
) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for link in bundle.links:
        most = min(MAX_CELLS, MAX_VALUES // max(1, len(link.names)))
        rows, own_pairs = _baseline_rows(bundle, link.edge, pairs, most=most, seed=seed)
        among = _own_among(own_places, rows)
        whole = all(len(among[name][0]) == len(rows[name]) for name in rows)
        places = {name: z[np.argsort(order)] for name, (order, z) in among.items()} if whole else None
        for base in link_baselines(bundle, link, rows, seed, places, judge.device):
            key = base.name if len(bundle.links) == 1 else f"{base.name}[{link.source}-{link.target}]"
            cells = {name: bundle.cells_of(name)[rows[name]] for name in base.z}
            linked = linked_features(bundle, rows, seed=seed)
            embedding = embedding_of(
                base.z,
                cells,
                bundle,
                seed=seed,
                pairs=own_pairs,
                linked=linked,
                own_places=among,
                device=judge.device,
            )
            entries[key] = judge.baseline(base, embedding)
    return entries


def _components(bundle: MultiOmics, *, seed: int) -> tuple[Baseline, dict[str, IntArray]]:
    """Return uncorrected components of all cells, or a sample, and the cells of each group."""
    return component_baseline(bundle, drawn_rows(bundle.n_cells, MAX_CELLS, seed=seed), seed)


@dataclass(frozen=True)
class Judge:
    """Measures coordinates of cells by the same metrics, and logs how long each took.

    `names`: metrics wanted; None for all that apply.
    """

    names: Sequence[str] | None = None
    device: str = "cpu"
    say: Callable[[str], None] = lambda text: None

    def __call__(self, what: str, embedding: Embedding) -> dict[str, Entry]:
        """Return the report's entries."""
        begun = perf_counter()
        entries = every_metric(embedding, self.names)
        if entries:
            took = duration(perf_counter() - begun)
            self.say(f"measured {what} by {plural(len(entries), 'figure')} in {took}")
        return entries

    def baseline(self, base: Baseline, embedding: Embedding) -> Entry:
        """Return a baseline as the report has it."""
        metrics = self(f"the baseline '{base.title}'", embedding)
        return {"title": base.title, "definition": base.definition, "metrics": metrics}


def wanted(metrics: str) -> list[str]:
    """Return the names of the metrics of `--metrics`, leading or all, the leading ones first."""
    headlines = {name: one.headline for name, one in available_metrics().items()}
    leading = sorted(filter(headlines.__getitem__, headlines), key=headlines.__getitem__)
    return [*leading, *(name for name in headlines if metrics != "leading" and name not in leading)]


def every_metric(e: Embedding, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Compute all metrics that apply, or those named; memory that one leaves behind is returned."""
    entries: dict[str, Any] = {}
    for name in available_metrics() if names is None else names:
        return_freed_memory()
        entries |= evaluate(e, [name])
    return entries


def embedding_of(
    z: Mapping[str, FloatArray],
    cells: Mapping[str, IntArray],
    bundle: MultiOmics,
    *,
    seed: int,
    pairs: Mapping[tuple[str, str], IntArray] | None = None,
    linked: Mapping[tuple[str, str], Any] | None = None,
    own_places: Mapping[str, Own] | None = None,
    device: str = "cpu",
) -> Embedding:
    """Combine coordinates with what is known about their cells.

    Args:
        z: Coordinates by group of cells, `(n, d)`.
        cells: Which cells these are, `(n,)`.
    """

    def codes(column: Codes | None) -> dict[str, IntArray] | None:
        return None if column is None else {name: column.codes[cells[name]] for name in z}

    return Embedding(
        z=z,
        label=codes(bundle.label),
        label_levels=bundle.label.levels if bundle.label else (),
        batch=codes(bundle.batch),
        pairs=dict(pairs or {}) or None,
        linked=linked,
        own=own_places,
        seed=seed,
        device=device,
    )


def linked_features(
    bundle: MultiOmics, rows: Mapping[str, IntArray], *, seed: int
) -> dict[tuple[str, str], Any]:
    """Return linked features of the modalities that have rows, dense; a sample of very many columns."""
    rng = np.random.default_rng(seed)
    features = {}
    for link in bundle.links:
        if link.source in rows and link.target in rows:
            columns = drawn_rows(len(link.names), MAX_LINKED, seed=rng)
            sides = (dense_rows(x, rows[name], columns) for name, x in link.sides.items())
            features[link.edge] = (*sides, tuple(link.names[i] for i in columns))
    return features


def _baseline_rows(
    bundle: MultiOmics,
    edge: tuple[str, str],
    pairs: Mapping[tuple[str, str], IntArray],
    *,
    most: int,
    seed: int,
) -> tuple[dict[str, IntArray], dict[tuple[str, str], IntArray]]:
    """Return the rows to compare, true partners kept together, and the pairs in the new numbering."""
    a, b = edge
    rng = np.random.default_rng(seed)
    partners = pairs.get((a, b))
    if partners is None and (b, a) in pairs:
        partners = pairs[b, a][:, ::-1]
    first = partners if partners is None else rng.permutation(partners)
    rows: dict[str, IntArray] = {}
    for side, name in enumerate(edge):
        n = bundle.modalities[name].n_obs
        order = rng.permutation(n)
        if n > most and first is not None:
            order = np.concatenate([first[:, side], np.setdiff1d(order, first[:, side])])
        rows[name] = np.sort(order[:most])
    if partners is None:
        return rows, {}
    new = {name: np.full(bundle.modalities[name].n_obs, -1, dtype=np.int64) for name in edge}
    for name in edge:
        new[name][rows[name]] = np.arange(len(rows[name]))
    moved = np.stack([new[a][partners[:, 0]], new[b][partners[:, 1]]], axis=1)
    return rows, {(a, b): moved[(moved >= 0).all(1)]}


def confusions(e: Embedding) -> dict[str, tuple[IntArray, tuple[str, ...], tuple[str, ...]]]:
    """Count true label x label of the nearest cell of the other group."""
    matrices = {}
    if e.label is None:
        return {}
    levels = e.label_levels
    for source in e.z:
        for target in e.z:
            if source == target or source not in e.label or target not in e.label:
                continue
            cells, nearest = e.nearest_known(source, target)
            if not len(cells) or not len(nearest):
                continue
            matrix = np.zeros((len(levels), len(levels)), dtype=np.int64)
            np.add.at(matrix, (e.label[target][cells], e.label[source][nearest]), 1)
            matrices[f"{source}->{target}"] = (matrix, levels, levels)
    return matrices


MAX_LINES = 12
"""Metrics shown in the log; the report has all."""


def describe_scores(run: Run, scores: Scores) -> None:
    """Record metrics and baselines, and log the leading ones, each with the baselines."""
    run.report.metrics = scores.metrics
    run.report.baselines = scores.baselines
    place = {name: one.headline for name, one in available_metrics().items() if one.headline}
    measured = [key for key, entry in scores.metrics.items() if entry["value"] is not None]
    leading = sorted((k for k in measured if _name(k) in place), key=lambda k: (place[_name(k)], k))
    # without any leading one the rest is better than silence
    shown = (leading or measured)[:MAX_LINES]
    for key in shown:
        entry = scores.metrics[key]
        beside = [
            f"{b['title']} {metric_value(b['metrics'][key]['value'])}"
            for b in scores.baselines.values()
            if b["metrics"].get(key, {}).get("value") is not None
        ]
        run.say(spoken(key, entry, *beside))
    if len(measured) > len(shown):
        run.say(f"  {len(measured) - len(shown)} more metrics are in the report")
    for baseline in (b for b in scores.baselines.values() if not b.get("is_bound")):
        both = [k for k in leading if baseline["metrics"].get(k, {}).get("value") is not None]
        worse = [k for k in both if _worse(scores.metrics[k], baseline["metrics"][k])]
        is_better = (
            f"'{baseline['title']}', which needs no training, is better in {len(worse)} of "
            f"{plural(len(both), 'leading metric')} ({', '.join(worse[:4])})"
        )
        if 2 * len(worse) > len(both) > 1:
            run.warn(f"{is_better}: check the report before you use this latent")
        elif worse:
            run.say(f"  {is_better}: small differences of one seed may be chance, see the report")


def _worse(ours: Entry, other: Entry) -> bool:
    sign = 1 if ours["better"] == "higher" else -1
    is_less = sign * (ours["value"] or 0.0) < sign * (other["value"] or 0.0)
    return is_less and metric_value(ours["value"]) != metric_value(other["value"])


def _name(key: str) -> str:
    return key.partition("[")[0]


WORST_LINKS = 100
"""Rows of the report's table of links."""

CONTRADICTED = -4.0
"""Number of standard errors below 0 from which the data contradict a link."""


def describe_links(run: Run, scores: Scores) -> None:
    """Put the links that the cells agree on least into the report; warn of contradictions."""
    for (a, b), links in scores.links.items():
        finite = np.flatnonzero(np.isfinite(links.concordance))
        order = finite[np.argsort(links.concordance[finite], kind="stable")]
        if not len(order):
            continue
        drawn = f" of {len(links.names):,} drawn" if links.n_links > len(links.names) else ""
        run.report.tables[f"links_{a}_{b}"] = table(
            f"Links of {a} and {b}, those that the cells agree on least first",
            "Correlation of a linked feature with the mean of the 15 nearest cells of the other modality "
            f"in the latent ({min(len(order), WORST_LINKS):,}{drawn} shown). Negative: check the link.",
            ["link", "concordance"],
            [[links.names[i], float(links.concordance[i])] for i in order[:WORST_LINKS]],
        )
        limit = CONTRADICTED / np.sqrt(links.n_cells)
        against = [links.names[i] for i in order if links.concordance[i] < limit]
        if against:
            run.warn(
                f"the integrated cells contradict {len(against):,} of {len(finite):,} links of {a} and {b} "
                f"({', '.join(against[:5])}): where one feature is high, the other is low"
            )


def score_latents(
    latents: NDArray[Any] | Mapping[str, NDArray[Any]],
    *,
    labels: Any = None,
    batches: Any = None,
    pairs: Mapping[tuple[str, str], IntArray] | None = None,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Entry]:
    """Measure how good latent coordinates are, as `mocli integrate` does.

    Args:
        latents: Coordinates of cells, `(n, d)`, or of several modalities by name, `(n_m, d)` each.
        labels, batches: Cell types and batches: one value for each cell, `(n,)` or by modality; None, NaN and
            '' are unknown.
        pairs: For modalities (a, b) the rows of the same cell in both, `(n_pairs, 2)`.
        metrics: Names as in a report; None for all whose needs are met.

    Returns:
        By name (`foscttm[rna-prot]` of parts): `value` (None if undefined), `better`, `range`, `n`, `title`,
        `definition`, `sentence`.

    Raises:
        ValueError: Shapes that do not fit.
        UsageError: A name that no metric has.
    """
    z = dict(latents) if isinstance(latents, Mapping) else {"cells": latents}
    coded = [_coded(values, z) for values in (labels, batches)]
    embedding = Embedding(
        z={name: np.asarray(x, np.float32) for name, x in z.items()},
        label=coded[0][0],
        label_levels=coded[0][1],
        batch=coded[1][0],
        pairs=pairs,
        seed=seed,
        device=device,
    )
    return every_metric(embedding, metrics)


def _coded(
    values_of: Any, z: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, IntArray] | None, tuple[str, ...]]:
    """Return codes of values by modality, -1 for unknown ones, and their levels."""
    if values_of is None:
        return None, ()
    columns = dict(values_of) if isinstance(values_of, Mapping) else {next(iter(z)): values_of}
    values = np.concatenate([np.asarray(column, dtype=object) for column in columns.values()])
    codes, levels = pd.factorize(pd.Series(values, dtype=object).replace("", None), sort=True)
    ends = np.cumsum([len(column) for column in columns.values()])[:-1]
    parts = np.split(codes.astype(np.int64), ends)
    return dict(zip(columns, parts, strict=True)), tuple(map(str, levels))
