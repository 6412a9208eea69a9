"""Studies: what becomes of models with fewer links, wrong links, fewer cells, or a loss term less."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from mocli.errors import UsageError, did_you_mean
from mocli.models.parameters import params_class
from mocli.models.registry import traits_of
from mocli.report.file import write_text
from mocli.tasks.benchmark.options import StudyOptions
from mocli.tasks.benchmark.runs import Study, safe
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mocli.data.links.edges import EdgeLinks
    from mocli.tasks.benchmark.ground import Ground
    from mocli.types import IntArray

WEIGHT = "weight_"
"""Prefix of the hyper-parameters that weigh terms of a loss."""

FRACTION = "fraction="
"""Prefix of the names of studies of fewer cells."""

LEAST_FRACTION = 0.1
"""Of the cells to train on; `mocli impute --hold-out` keeps no more than the rest out."""

NOT_TERMS = frozenset({"weight_decay", "weight_average"})


def studies_of(
    asked: StudyOptions,
    ground: Ground,
    seeds: Sequence[int],
    models: Sequence[str],
    folder: Path,
    *,
    write: bool,
) -> list[Study]:
    """Return the benchmark itself and every study asked for.

    `panel`: that many linked features, drawn by each seed. `corrupt`: that share of the links given
    a wrong partner. `ablate`: the weight of a term 0, for models that have it. `fractions`:
    imputation by models trained on that share of the cells. `leave_one_batch_out`: imputation of
    each batch by models that never saw it. The models of `fractions` also place all cells for the
    integration.

    Raises
    ------
    UsageError
        No links to draw from, no model with such a term, no batch to leave out.
    """
    studies = [Study()]
    edges, matrices = ground.made.edges, ground.made.matrices
    if (asked.panel or asked.corrupt) and matrices:
        raise UsageError(
            "fewer or wrong links are drawn from links of single features, and matrices of obsm have none",
            field="--panel, --corrupt",
            found=", ".join(links.text for links in matrices),
            hint="give a table of links, or leave these studies out",
        )
    if (asked.panel or asked.corrupt) and not edges:
        raise UsageError(
            "fewer or wrong links need links to begin with", field="--panel, --corrupt", hint="add --links"
        )
    by_name = all(_told_apart(edge) for edge in edges)
    for n in asked.panel:
        most = max(len(edge.aggregation().names) for edge in edges)
        if not 0 < n <= most:
            raise UsageError(
                f"there are {most} linked features", field="--panel", found=n, expected=f"1 to {most}"
            )
        tables = [_fewer(e, n, s, by_name=by_name) for e in edges for s in seeds]
        studies.append(_linked(f"panel={n}", tables, seeds, folder, by_name=by_name, write=write))
    for share in asked.corrupt:
        tables = [_wrong(e, share, s, by_name=by_name) for e in edges for s in seeds]
        studies.append(_linked(f"corrupt={share:g}", tables, seeds, folder, by_name=by_name, write=write))
    terms = {
        name: [f.name for f in fields(params_class(traits_of(name))) if f.name.startswith(WEIGHT)]
        for name in models
    }
    every = sorted({t.removeprefix(WEIGHT) for of in terms.values() for t in of if t not in NOT_TERMS})
    for term in asked.ablate:
        if term not in every:
            raise UsageError(
                f"no model of this benchmark has a loss term '{term}' with a weight of its own",
                field="--ablate",
                hint=did_you_mean(term, every, "terms"),
            )
        studies.append(Study(f"without={term}", params={WEIGHT + term: 0.0}))
    if any(share < LEAST_FRACTION for share in asked.fractions):
        raise UsageError(
            "too few cells are left to train on",
            field="--fractions",
            found=min(asked.fractions),
            expected=f"at least {LEAST_FRACTION:g}",
        )
    only_impute = frozenset({Task.IMPUTE})
    both = only_impute | {Task.INTEGRATE}
    studies += [
        Study(f"{FRACTION}{share:g}", hold_out=f"{1 - share:.6g}", tasks=both) for share in asked.fractions
    ]
    if asked.leave_one_batch_out:
        batch, key = ground.bundle.batch, ground.made.column_names.get("batch")
        if batch is None or key is None or len(batch.levels) < 2:
            raise UsageError(
                "there are no two batches, one of which could be left out",
                field="--leave-one-batch-out",
                hint="name their column with --batch-key",
            )
        studies += [
            Study(f"without-batch={level}", hold_out=f"{key}={level}", tasks=only_impute)
            for level in batch.levels
        ]
    return studies


def _linked(
    name: str,
    tables: Sequence[list[str]],
    seeds: Sequence[int],
    folder: Path,
    *,
    by_name: bool,
    write: bool,
) -> Study:
    """Write one table a seed, of all pairs of modalities."""
    what = "feature" if by_name else "index"
    found: dict[int, Path] = {}
    for position, seed in enumerate(seeds):
        path = folder / "links" / f"{safe(name)}-seed{seed}.tsv"
        found[seed] = path
        if write:
            lines = [line for table in tables[position :: len(seeds)] for line in table]
            path.parent.mkdir(parents=True, exist_ok=True)
            header = f"source_modality\tsource_{what}\ttarget_modality\ttarget_{what}\tweight\tsign"
            write_text(path, "\n".join([header, *lines]) + "\n")
    return Study(name, links=found)


def _told_apart(edge: EdgeLinks) -> bool:
    """Whether the name of every linked feature means that one: no other before it has the name."""
    for names, index in ((edge.source_names, edge.source_index), (edge.target_names, edge.target_index)):
        first = {name: k for k, name in reversed(list(enumerate(names)))}
        if any(first[names[k]] != k for k in index):
            return False
    return True


def _fewer(edge: EdgeLinks, n: int, seed: int, *, by_name: bool = True) -> list[str]:
    """Return the links of n of the linked features, drawn at random."""
    columns = edge.target_index
    if len(np.unique(edge.target_index)) >= len(np.unique(edge.source_index)):
        columns = edge.source_index
    features = np.unique(columns)
    kept = np.random.default_rng(seed).choice(features, min(n, len(features)), replace=False)
    rows = np.flatnonzero(np.isin(columns, kept))
    return list(_rows(edge, rows, edge.target_index, by_name=by_name))


def _wrong(edge: EdgeLinks, share: float, seed: int, *, by_name: bool = True) -> list[str]:
    """Return all links, that share of which has the target of another link."""
    rng = np.random.default_rng(seed)
    n = len(edge.weight)
    chosen = rng.choice(n, max(2, round(share * n)), replace=False) if n > 1 else np.arange(0)
    target = edge.target_index.copy()
    # in the order of targets, and moved by the longest run of one: none meets its own again, unless one
    # target has more than half of them
    chosen = chosen[np.argsort(target[chosen], kind="stable")]
    longest = int(np.unique(target[chosen], return_counts=True)[1].max(initial=0))
    target[chosen] = np.roll(target[chosen], longest)
    pairs = np.stack([edge.source_index, target], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    return list(_rows(edge, np.sort(first), target, by_name=by_name))


def _rows(edge: EdgeLinks, kept: IntArray, target: IntArray, *, by_name: bool) -> Iterator[str]:
    for i in kept:
        source, other = edge.source_index[i], target[i]
        one, two = (edge.source_names[source], edge.target_names[other]) if by_name else (source, other)
        yield f"{edge.source}\t{one}\t{edge.target}\t{two}\t{edge.weight[i]:.6g}\t{edge.sign[i]:.0f}"
