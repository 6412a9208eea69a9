"""What a run will do, decided from metadata and a sample of the values: layers, links, pairing, the aim."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mocli.data.features.index import Features, features_of
from mocli.data.files.inputs import open_inputs
from mocli.data.files.joined import JoinedModality, join
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column, name_of_column
from mocli.data.files.text import text_lines
from mocli.data.links.edges import EdgeLinks, match_links, tables_of
from mocli.data.links.genesets import memberships, read_gene_sets
from mocli.data.links.linktable import LinkTable
from mocli.data.links.route import MatrixLinks, MatrixRoute, matrix_links, parse_route
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.models.base import Traits
from mocli.models.registry import available
from mocli.options import declared_in
from mocli.parsing import one_of
from mocli.tasks.prepare.choice import Choice, choose
from mocli.tasks.prepare.obscolumns import (
    Columns,
    confounded,
    doubts,
    inputs_as_batch,
    numbers_of_cells,
    summaries,
    unused_batches,
    weights_of_rows,
)
from mocli.tasks.prepare.pairing import Relation, index_map, relate_files, true_pairs
from mocli.tasks.prepare.select import Demands, choose_model, takes_weights
from mocli.tasks.run.options import DataOptions, TrainOptions
from mocli.types import CSR, IntArray, ModalityKind, Pairing, Task


@dataclass(frozen=True, eq=False)
class Linked:
    """The links from `--links`.

    Attributes:
        tables: As read; the first features as a table of positions.
        edges: What the tables link.
        matrices: Pairs of modalities that matrices link.
    """

    tables: tuple[LinkTable, ...] = ()
    edges: tuple[EdgeLinks, ...] = ()
    matrices: tuple[MatrixLinks, ...] = ()


def find_links(
    texts: Sequence[str],
    files: Sequence[ModalityFile],
    features: Sequence[Features],
    say: Callable[[str], None],
) -> Linked:
    """Read and match everything that `--links` names, and make sure that it reaches every modality.

    Raises:
        UsageError: An invalid route, or two modalities linked by matrices and by something else.
        InputError: See `match_links` and `matrix_links`; a modality, or a group of them, that no link
            reaches.
    """
    routes = [parse_route(text) for text in texts]
    tables = tuple(tables_of(routes, features))
    edges = tuple(match_links(tables, features, log=say)) if tables else ()
    matrices: list[MatrixLinks] = []
    for route in routes:
        if isinstance(route, MatrixRoute):
            matrices += matrix_links(route, files)
    joined = [edge.edge for edge in edges]
    for links in matrices:
        if links.edge in joined:
            raise UsageError(
                f"'{links.source}' and '{links.target}' are linked twice, once by matrices",
                field="--links",
                found=links.text,
                hint="matrices must be the only link between two modalities: leave out the other links",
            )
        joined.append(links.edge)
    for summary in (*(edge.summary() for edge in edges), *(links.summary() for links in matrices)):
        say(summary)
    if joined:
        _check_reach(joined, [file.name for file in files])
    elif routes:
        raise InputError(
            "links join two modalities, but the inputs hold only one", field="--links", found=files[0].name
        )
    return Linked(tables, edges, tuple(matrices))


def _check_reach(joined: Sequence[tuple[str, str]], names: Sequence[str]) -> None:
    unlinked = [name for name in names if not any(name in edge for edge in joined)]
    if unlinked:
        raise InputError(
            f"no link reaches the modality {' or '.join(repr(name) for name in unlinked)}",
            field="--links",
            hint="add a table that links it to another modality, or leave the modality out",
        )
    groups = _connected(joined)
    if len(groups) > 1:
        raise InputError(
            "the links leave the modalities in groups that are not connected",
            field="--links",
            found="; ".join(" - ".join(sorted(group)) for group in groups),
            expected="a chain of links from every modality to every other",
            hint="add a table between two of the groups, or integrate them separately",
        )


def _connected(edges: Sequence[tuple[str, str]]) -> list[set[str]]:
    groups: list[set[str]] = []
    for edge in edges:
        touched = [group for group in groups if group & set(edge)]
        groups = [group for group in groups if group not in touched]
        groups.append(set(edge).union(*touched))
    return groups


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything decided from metadata and a sample of the values; what `--dry-run` shows.

    Attributes:
        column_names: The user's names for the columns that are called `batch` and `label` here.
        pairs: Rows of true partners, `(n_pairs, 2)`, of every two modalities that share cells.
        sets: By modality which features belong to which set of genes, `(n_vars, n_sets)`.
    """

    choices: tuple[Choice, ...]
    relation: Relation
    linked: Linked
    traits: Traits
    why_model: str
    columns: Columns
    column_names: Mapping[str, str]
    pairs: Mapping[tuple[str, str], IntArray]
    warnings: tuple[str, ...]
    sets: Mapping[str, CSR] = field(default_factory=dict)

    @property
    def files(self) -> list[ModalityFile]:
        """The modalities in order."""
        return [choice.file for choice in self.choices]


def open_modalities(data: DataOptions) -> list[ModalityFile]:
    """Open the inputs, with the kinds that the user gives."""
    kinds = {
        name: ModalityKind(one_of(k, [m.value for m in ModalityKind], "--kind"))
        for name, k in data.kind.items()
    }
    files = open_inputs([str(text) for text in data.inputs], kinds=kinds)
    files = [file.as_rounded() for file in files] if data.round else files
    return files if data.only_cells is None else named_cells(files, data.only_cells)


def named_cells(files: Sequence[ModalityFile], path: Path) -> list[ModalityFile]:
    """Return the modalities with the cells that a file names, one a line.

    Raises `InputError`: it names fewer than two cells of a modality.
    """
    lines = (line.strip() for _, line in text_lines(path, "the file of --only-cells"))
    wanted = frozenset(filter(None, lines))
    chosen = []
    for file in files:
        rows = np.flatnonzero(file.obs.index.astype(str).isin(wanted))
        if len(rows) < 2:
            raise InputError(
                f"it names {len(rows)} of the {file.n_obs:,} cells of {file.name}",
                file=path,
                field="--only-cells",
                found=", ".join(sorted(wanted)[:3]),
                expected=f"names as in obs of {file.where}: {', '.join(map(str, file.obs.index[:3]))}",
            )
        # what is joined is written anew; a single file's modality is copied as it is, with all of its cells
        one = file if isinstance(file, JoinedModality) else join(file.name, [file], kind=file.kind)
        chosen.append(replace(one.take(rows), notes=file.notes))
    return chosen


def make_plan(
    data: DataOptions,
    train: TrainOptions,
    task: Task,
    say: Callable[[str], None],
    *,
    files: Sequence[ModalityFile] | None = None,
    traits: Traits | None = None,
    compared: Collection[str] = (),
) -> Plan:
    """Open files, choose layers and transforms, match links, choose the model.

    Reads metadata and a few hundred rows of each matrix, so that mistakes show in
    seconds.

    Args:
        files: The modalities, where they are open already, perhaps with some cells only.
        traits: The traits to prepare for, if no model is to be chosen.
        compared: Columns of obs that the task compares: none that tells their values apart is proposed as a
            batch.
    """
    files = open_modalities(data) if files is None else list(files)
    names = [f.name for f in files]
    _check_modalities(data, names)
    for f in files:
        say(f.summary)
        for note in f.notes:
            say(note)
    data, line = inputs_as_batch(files, data)
    if line:
        say(line)
    relation = relate_files(files, data.pairing)
    if len(files) > 1:
        say(f"cells are {relation.pairing} ({relation.reason})")
    why = ""
    if traits is None:
        traits, why = choose_model(
            train.model,
            task=task,
            pairing=relation.pairing,
            kinds=[f.kind for f in files],
            links=bool(data.links),
            demands=Demands.by(data, train),
        )
        why = train.reason or why
        say(f"model: {traits.name} ({why})")
    if (traits.likelihoods or traits.uses_batches) and (line := unused_batches(files, data, compared)):
        say(line)
    choices = tuple(choose(f, data, traits) for f in files)
    for c in choices:
        say(c.summary)
    features = features_of(files, var_key=data.var_key)
    linked = find_links(data.links, files, features, say) if traits.uses_links else Linked()
    pairs = known_pairs(files, relation, data.pair_key)
    columns = Columns.find(files, data, weighted=takes_weights(traits))
    for line in summaries(columns):
        say(line)
    label_name = name_of_column(data.label_key or "")
    corrected = Columns(
        batch=columns.batch if traits.likelihoods or traits.uses_batches else None,
        covariates=columns.covariates if traits.likelihoods else (),
    )
    if columns.continuous or columns.weight:
        rows, _ = index_map(files, relation.pairing)
        numbers_of_cells(columns.continuous, files, rows)
        weights_of_rows(columns.weight, files, rows, lambda _: None)
    return Plan(
        choices=choices,
        relation=relation,
        linked=linked,
        traits=traits,
        why_model=why,
        columns=columns,
        column_names={k: v for k, v in (("batch", data.batch_key), ("label", label_name)) if v},
        pairs=pairs,
        warnings=(
            *_warnings(relation, traits, data, task, unpaired=not pairs),
            *doubts(columns, files),
            *(confounded(corrected, files) if task is Task.INTEGRATE else ()),
        ),
        sets=_gene_sets(data, traits, files, linked.edges, say),
    )


def _gene_sets(
    data: DataOptions,
    traits: Traits,
    files: Sequence[ModalityFile],
    edges: Sequence[EdgeLinks],
    say: Callable[[str], None],
) -> dict[str, CSR]:
    """Read the sets of genes and find their genes, directly or through links."""
    if data.gene_sets is None:
        return {}
    if not traits.uses_sets:
        able = [name for name, other in available().items() if other.uses_sets]
        raise UsageError(
            f"{traits.name} uses no gene sets",
            field="--gene-sets",
            hint="leave it out, or choose another model with -m: " + ", ".join(able),
        )
    sets = read_gene_sets(data.gene_sets)
    sets_of = memberships(sets, {f.name: tuple(map(str, f.var.index)) for f in files}, edges)
    for name, m in sets_of.items():
        n_features = int((np.diff(m.indptr) > 0).sum())
        say(f"{name}: {m.shape[1]:,} of {len(sets.names):,} gene sets, {n_features:,} features in them")
    return sets_of


def _check_modalities(data: DataOptions, names: Sequence[str]) -> None:
    """Raise `UsageError` for an option of single modalities that names one which is not there."""
    for field_name, declared in declared_in(DataOptions).items():
        for name in getattr(data, field_name) if declared.is_mapping else ():
            if name not in names:
                raise UsageError(
                    f"{declared.long} names the modality '{name}', which is not among the inputs",
                    field=declared.long,
                    found=", ".join(names),
                    hint=did_you_mean(name, names, "modalities"),
                )


def known_pairs(
    files: Sequence[ModalityFile], relation: Relation, pair_key: str | None
) -> dict[tuple[str, str], IntArray]:
    """Rows of true partners, `(n_pairs, 2)`, of every two modalities that share cells."""
    columns: dict[str, Any] = {}
    if pair_key is not None:
        by_modality = find_column(files, pair_key, option="--pair-key")
        columns = {name: column for name, column in by_modality.items() if column is not None}
    elif relation.names_mean_cells:
        columns = {f.name: f.obs.index for f in files}
    pairs = {(a, b): true_pairs(columns[a], columns[b]) for a, b in combinations(columns, 2)}
    return {edge: rows for edge, rows in pairs.items() if rows is not None}


def _warnings(
    relation: Relation, traits: Traits, data: DataOptions, task: Task, *, unpaired: bool
) -> tuple[str, ...]:
    warnings = []
    # where cells were measured in both, links are a way of imputing, whatever the model
    serve = task is Task.IMPUTE and relation.pairing is not Pairing.UNPAIRED
    if data.links and not traits.uses_links and not serve:
        warnings.append(f"{traits.name} uses no feature links: --links changes nothing")
    if (data.covariate or data.continuous) and not traits.likelihoods:
        warnings.append(f"{traits.name} uses no covariates: --covariate and --continuous change nothing")
    if data.weight_key and traits.params and not takes_weights(traits):
        warnings.append(f"{traits.name} has no discriminators: --weight-key changes nothing")
    if data.batch_key and not (traits.likelihoods or traits.uses_batches):
        warnings.append(
            f"{traits.name} does not correct batches: --batch-key is only used in pictures and metrics; "
            "correct batch effects beforehand, or give each batch as a modality of its own"
        )
    if unpaired and data.pair_key is not None:
        warnings.append(
            f"obs['{data.pair_key}'] of --pair-key gives no partners: it must be in two modalities and hold "
            "the same value for both cells of a pair; no metric of true pairs is computed"
        )
    if (
        relation.pairing is not Pairing.UNPAIRED
        and relation.pairing not in traits.rank
        and (Pairing.UNPAIRED in traits.rank)
    ):
        warnings.append(
            f"the cells are {relation.pairing}, which {traits.name} does not use: the cells of each "
            "modality are treated as different cells"
        )
    if "counts as chance" in relation.reason:
        warnings.append(relation.reason + "; cells are named modality:cell in the output")
    return tuple(warnings)


FEWEST_PAIRS = 50
"""Cells measured in both, below which nothing is stacked, and no readout fitted to places by one modality."""
MOST_PAIRS = 5_000
"""Cells measured in both that are fitted to; of more, so many drawn at random."""
MOST_FEATURES = 2_500
"""Features of a target to which an integration keeps a stack: wider ones take minutes, and 100 MB."""


@dataclass(frozen=True)
class Aim:
    """What a model is trained for: what memory and time after its training depend on.

    Attributes:
        target: The modality that is imputed; None where none is, or where it is not known.
        silenced: Genes that will fall silent one by one, as many as are asked for, or 0.
        backed: Whether cells stay on disk; None: if they need more memory than the run may use.
        stacked: Whether an integration keeps stacks.
    """

    task: Task
    target: str | None = None
    silenced: int = 0
    backed: bool | None = False
    stacked: bool = True

    def stacks(self, plan: Plan) -> list[tuple[int, int]]:
        """Return cells and features of every stack that will be fitted (`mocli.tasks.infer.stackfitting`)."""
        if plan.relation.pairing is Pairing.UNPAIRED:
            return []
        width = {choice.file.name: choice.file.n_vars for choice in plan.choices}
        targets = [
            (target, min(len(rows), MOST_PAIRS))
            for pair, rows in plan.pairs.items()
            if len(rows) >= FEWEST_PAIRS
            for target in pair
        ]
        if self.task is Task.INTEGRATE:
            targets = targets if self.stacked else []
            return [(n, width[target]) for target, n in targets if width[target] <= MOST_FEATURES]
        if self.task is not Task.IMPUTE:
            return []
        wanted = [(n, width[target]) for target, n in targets if self.target in (None, target)]
        return [max(wanted, key=lambda stack: stack[1])] if wanted else []
