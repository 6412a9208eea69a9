"""The cells and links of a benchmark: one sample for all methods, and fewer or wrong ones for studies.

Cells of studies are drawn by seed, linked features at random or the most informative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from mocli.data.batches import dense_rows
from mocli.data.bundle import FeatureMatrix, LinkedFeatures, MultiOmics
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.data.links.edges import EdgeLinks
from mocli.data.transforms.transform import find_transform
from mocli.errors import UsageError
from mocli.models.base import Traits
from mocli.report.figures import plural
from mocli.tasks.prepare.footprint import Footprint, footprint
from mocli.tasks.prepare.load import load
from mocli.tasks.prepare.pairing import Relation
from mocli.tasks.prepare.plan import Aim, Plan, make_plan, open_modalities
from mocli.tasks.run.options import DataOptions, TrainOptions
from mocli.tasks.score.baselines import MAX_CELLS, MAX_VALUES
from mocli.types import DoubleArray, IntArray, ModalityKind, Pairing, Task

Say = Callable[[str], None]

NO_MODEL = Traits(
    name="benchmark",
    title="Benchmark",
    doi="",
    summary="data as the controls take them",
    pairings=frozenset(Pairing),
    rank={},
    expects=dict.fromkeys(ModalityKind, "any"),
    min_modalities=1,
    max_modalities=None,
    needs_links=False,
    tasks=frozenset({Task.BENCHMARK}),
    params="",
    model="",
)


@dataclass(frozen=True, eq=False)
class Ground:
    """What is known about the scored cells, without any model.

    Attributes:
        whole: All cells of every modality; `plan` and `bundle` have the sample.
        bundle: The sampled cells: features, links, labels, batches.
        pairs: Rows of true partners among them, `(n_pairs, 2)`, by two modalities.
        n_before: Cells of each modality of which these are a sample.
    """

    whole: Plan
    plan: Plan
    bundle: MultiOmics
    pairs: Mapping[tuple[str, str], IntArray]
    n_before: Mapping[str, int]

    @property
    def files(self) -> list[ModalityFile]:
        """The modalities with all their cells."""
        return self.whole.files

    @cached_property
    def apart(self) -> bool:
        """Say whether no cell has two modalities, so that coordinates of modalities are those of cells."""
        return not bool(((self.bundle.rows >= 0).sum(1) > 1).any())

    @property
    def footprint(self) -> Footprint:
        """What the process that scores will hold, an estimate."""
        whole = footprint(self.plan, None, Aim(Task.BENCHMARK))
        return Footprint(whole.held, {"methods are scored": whole.stages["results are judged and drawn"]})

    @property
    def words(self) -> str:
        """Describe the scored cells."""
        return ", ".join(
            f"{m.n_obs:,} of {self.n_before[name]:,} {name} cells"
            if m.n_obs < self.n_before[name]
            else f"all {m.n_obs:,} {name} cells"
            for name, m in self.bundle.modalities.items()
        )


def prepare_ground(data: DataOptions, *, seed: int, say: Say, warn: Say, debug: Say) -> Ground:
    """Open the inputs, draw the cells to score, read these and make them comparable.

    At most 10,000 cells of each modality (fewer above 1,677 linked features); cells with partners
    first, and with them.
    """
    files = open_modalities(data)
    # what values are to be taken for, and sets of genes, are the models' matter
    transform = {
        name: form for name, form in data.transform.items() if not find_transform(form).is_for_counts
    }
    data = replace(data, likelihood={}, transform=transform, gene_sets=None)
    options = TrainOptions()
    plan = make_plan(data, options, Task.BENCHMARK, debug, files=files, traits=NO_MODEL)
    columns = [len(e.aggregation().names) for e in plan.linked.edges] + [
        len(m.names) for m in plan.linked.matrices
    ]
    n_links = max(columns, default=1)
    most = min(MAX_CELLS, MAX_VALUES // max(n_links, 1))
    whole = plan
    before = {f.name: f.n_obs for f in files}
    if max(before.values()) > most:
        rows = sample_rows(files, plan.relation, data.pair_key, most=most, seed=seed)
        drawn = [f.take(rows[f.name]) for f in files]
        # said before: of all cells, so that a sample without a common name stays what the whole is
        named = replace(data, pairing=plan.relation.pairing.value)
        plan = make_plan(named, options, Task.BENCHMARK, debug, files=drawn, traits=NO_MODEL)
    prepared = load(plan, None, seed=seed, say=debug, warn=debug)
    ground = Ground(whole, plan, prepared.bundle, plan.pairs, before)
    say(f"every method is scored on {ground.words}")
    _tell_what_lacks(ground, data, warn)
    return ground


def sample_rows(
    files: Sequence[ModalityFile], relation: Relation, pair_key: str | None, *, most: int, seed: int
) -> dict[str, IntArray]:
    """Draw at most `most` rows of each modality; rows of one cell stay together where that is possible."""
    rng = np.random.default_rng(seed)
    identity: dict[str, pd.Series] = {}
    if pair_key is not None:
        identity = {m: c for m, c in find_column(files, pair_key).items() if c is not None}
    elif relation.names_mean_cells:
        identity = {f.name: pd.Series(f.obs.index, index=f.obs.index) for f in files}
    values = [pd.Series(pd.unique(c.dropna().astype(str))) for c in identity.values()]
    times = pd.concat(values).value_counts(sort=False) if values else pd.Series(dtype=int)
    # shared by the most modalities first, else at random
    place = pd.Series(rng.permutation(len(times)), index=times.index) - times * len(times)
    rows_of = {}
    for f in files:
        order = pd.Series(rng.random(f.n_obs))
        if f.name in identity:
            order_of_cell = identity[f.name].astype(str).map(place).to_numpy(dtype=float)
            order = pd.Series(np.where(np.isnan(order_of_cell), len(times) + order, order_of_cell))
        rows_of[f.name] = np.sort(np.argsort(order.to_numpy(), kind="stable")[:most]).astype(np.int64)
    return rows_of


def _tell_what_lacks(ground: Ground, data: DataOptions, warn: Say) -> None:
    """Log which metrics cannot be computed, and what in the data makes others less meaningful."""
    bundle = ground.bundle
    if bundle.label is None:
        also = "" if ground.pairs else ", and no cell is known in two modalities"
        warn(
            f"there are no labels (--label-key){also}: only metrics that need none are computed"
            + ("" if ground.pairs else "; mixing alone can also be reached by random coordinates")
        )
    else:
        sizes = np.bincount(bundle.label.codes[bundle.label.codes >= 0], minlength=len(bundle.label.levels))
        alone = [level for level, n in zip(bundle.label.levels, sizes, strict=True) if n == 1]
        if alone:
            warn(
                f"{plural(len(alone), 'level')} of '{data.label_key}' with one cell only "
                f"({', '.join(alone[:3])}): such a cell has no neighbour with its label"
            )
    if bundle.batch is not None and len(bundle.batch.levels) < 2:
        warn(f"'{data.batch_key}' of --batch-key has one level: no metric of batches is computed")


PARTS = TRAINING, HELD_OUT = "training", "held-out"
SHARE_HELD_OUT = 0.2
FEWEST = 20
"""Fewest held-out cells for a figure."""

LEAST_CELLS = 50
"""Fewest cells for a comparison of models."""


def some(ground: Ground, data: DataOptions, n: int, seed: int) -> list[str]:
    """Return the names of n cells of every modality, partners together where that is possible.

    Raises `UsageError`: there are not so many cells, or they are too few to compare anything.
    """
    most = max(ground.n_before.values())
    if not LEAST_CELLS <= n < most:
        raise UsageError(
            "the number of cells cannot be drawn",
            field="--subsample",
            found=n,
            expected=f"{LEAST_CELLS} to {most - 1:,}",
        )
    rows = sample_rows(ground.files, ground.whole.relation, data.pair_key, most=n, seed=seed)
    return _names([f.obs.index[rows[f.name]] for f in ground.files])


def fewer_of(ground: Ground, data: DataOptions, label: str, share: float, seed: int) -> list[str]:
    """Return the names of all cells, but only a share of those with one label.

    Raises `UsageError`: there are no labels, or not this one.
    """
    if data.label_key is None:
        raise UsageError("a rare label needs labels", field="--rare", hint="name their column: --label-key")
    has = _columns(ground, data.label_key, "--label-key")
    cells = _names([column.index[(column == label).to_numpy()] for column in has])
    if len(cells) < 2:
        levels = sorted({level for column in has for level in column.unique()})
        raise UsageError(
            "there are no two cells of this label",
            field="--rare",
            found=label,
            expected=", ".join(levels[:8]),
        )
    n = max(2, round(share * len(cells)))
    drawn = set(np.random.default_rng(seed).choice(cells, n, replace=False))
    gone = set(cells) - drawn
    return [name for name in _names([f.obs.index for f in ground.files]) if name not in gone]


def halves(ground: Ground, seed: int, *, part: str) -> list[str]:
    """Return the names of the cells to train on, or of those held out, a fifth of those measured in all.

    Raises `UsageError`: too few cells were measured in every modality.
    """
    files = ground.files
    everywhere = files[0].obs.index.astype(str)
    for f in files[1:]:
        everywhere = everywhere[everywhere.isin(f.obs.index.astype(str))]
    n = round(SHARE_HELD_OUT * len(everywhere))
    if n < FEWEST or not ground.whole.relation.names_mean_cells:
        raise UsageError(
            "reconstruct needs cells that were measured in every modality, under one name",
            field="--tasks",
            found=f"{len(everywhere):,} such cells",
            expected=f"at least {round(FEWEST / SHARE_HELD_OUT)}",
        )
    out = np.random.default_rng(seed).permutation(len(everywhere))[:n]
    held_out = {str(everywhere[i]): None for i in np.sort(out)}
    if part == HELD_OUT:
        return list(held_out)
    return [name for name in _names([f.obs.index for f in files]) if name not in held_out]


def part_of(cells: Sequence[str], share: float, seed: int) -> list[str]:
    """Return a share of some cells by name.

    Raises `UsageError`: too few are left to train on.
    """
    n = round(share * len(cells))
    if n < FEWEST:
        raise UsageError(
            "too few cells are left to train on",
            field="--fractions",
            found=f"{share:g} of {len(cells):,} cells",
            expected=f"at least {FEWEST} cells",
        )
    chosen = np.random.default_rng(seed).choice(len(cells), n, replace=False)
    return [cells[i] for i in np.sort(chosen)]


def in_batch(ground: Ground, key: str, level: str) -> set[str]:
    """Return the names of the cells that any modality says are of a batch."""
    columns = _columns(ground, key, "--batch-key")
    return set(_names([column.index[(column == level).to_numpy()] for column in columns]))


def _columns(ground: Ground, key: str, option: str) -> list[pd.Series]:
    """Return a column of obs as text by cell name, of each modality that has it."""
    columns = find_column(ground.files, key, option=option).values()
    return [column.astype(str) for column in columns if column is not None]


def _names(indices: Sequence[pd.Index]) -> list[str]:
    return list(dict.fromkeys(str(name) for index in indices for name in index))


LEADING = 10
"""Number of principal components; without labels, a feature is worth the share of its variance in these."""


def informative(bundle: MultiOmics, link: LinkedFeatures) -> dict[str, float]:
    """Return how informative each linked feature is, from 0 to 1, the mean of both modalities.

    With labels the share of its variance that lies between them (eta squared), as panels are chosen to tell
    types apart; without labels the share that the leading principal components hold.
    """
    shares = [_told(x, bundle.codes_of(bundle.label, name)) for name, x in link.sides.items()]
    return dict(zip(link.names, map(float, np.mean(shares, axis=0)), strict=True))


def _told(features: FeatureMatrix, labels: IntArray | None) -> DoubleArray:
    x = dense_rows(features, np.arange(features.n_obs)).astype(np.float64)
    if labels is not None:
        x, labels = x[labels >= 0], labels[labels >= 0]
    x -= x.mean(0)
    total = np.maximum((x**2).sum(0), 1e-12)
    if labels is None:
        _, vectors = np.linalg.eigh(x.T @ x)
        projected = x @ vectors[:, -LEADING:]
        return ((projected @ vectors[:, -LEADING:].T) ** 2).sum(0) / total
    member = np.eye(int(labels.max(initial=0)) + 1)[labels]
    sums, sizes = member.T @ x, np.maximum(member.sum(0), 1)[:, None]
    return (sums**2 / sizes).sum(0) / total


def told_apart(edge: EdgeLinks) -> bool:
    """Say whether the name of every linked feature identifies it: no earlier feature has the name."""
    for _, names, index, _ in edge.halves:
        first = {name: k for k, name in reversed(list(enumerate(names)))}
        if any(first[names[k]] != k for k in index):
            return False
    return True


def fewer(
    edge: EdgeLinks, n: int, seed: int, *, by_name: bool = True, worth: Mapping[str, float] | None = None
) -> list[str]:
    """Return the links of n of the linked features: drawn at random, or those of most worth."""
    _, names, columns, _ = edge.chosen
    features = np.unique(columns)
    n = min(n, len(features))
    if worth is None:
        drawn = np.random.default_rng(seed).choice(features, n, replace=False)
    else:
        order = np.argsort([-worth.get(names[k], 0.0) for k in features], kind="stable")
        drawn = features[order[:n]]
    rows = np.flatnonzero(np.isin(columns, drawn))
    return list(_rows(edge, rows, edge.target_index, by_name=by_name))


def wrong(edge: EdgeLinks, share: float, seed: int, *, by_name: bool = True) -> list[str]:
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


def _rows(edge: EdgeLinks, numbers: IntArray, target: IntArray, *, by_name: bool) -> Iterator[str]:
    for i in numbers:
        source, other = edge.source_index[i], target[i]
        one, two = (edge.source_names[source], edge.target_names[other]) if by_name else (source, other)
        yield f"{edge.source}\t{one}\t{edge.target}\t{two}\t{edge.weight[i]:.6g}\t{edge.sign[i]:.0f}"
