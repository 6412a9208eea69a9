"""The cells that a benchmark compares methods on: one sample for all, prepared once and for no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from mocli.data.bundle import MultiOmics
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.data.transforms.transform import find_transform
from mocli.models.base import Traits
from mocli.tasks.prepare.aim import Aim
from mocli.tasks.prepare.footprint import Footprint, footprint
from mocli.tasks.prepare.load import load
from mocli.tasks.prepare.pairing import Relation
from mocli.tasks.prepare.plan import Plan, make_plan, open_modalities
from mocli.tasks.run.options import DataOptions, TrainOptions
from mocli.tasks.score.baselines import MAX_CELLS, MAX_VALUES
from mocli.types import IntArray, ModalityKind, Pairing, Task

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
        return Footprint(whole.held, {"methods are scored": whole.stages["metrics are computed"]})

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
    columns = [len(e.aggregation().names) for e in plan.edges] + [len(m.names) for m in plan.matrices]
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
    elif bundle.label is not None:
        sizes = np.bincount(bundle.label.codes[bundle.label.codes >= 0], minlength=len(bundle.label.levels))
        alone = [level for level, n in zip(bundle.label.levels, sizes, strict=True) if n == 1]
        if alone:
            warn(
                f"{len(alone):,} levels of '{data.label_key}' have one cell only ({', '.join(alone[:3])}): "
                "these cells have no neighbour with their label"
            )
    if bundle.batch is not None and len(bundle.batch.levels) < 2:
        warn(f"'{data.batch_key}' of --batch-key has one level: no metric of batches is computed")
