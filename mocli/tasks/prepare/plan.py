"""From input files to a bundle: layers, checks, links, fitted transforms, index map."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.data.bundle import LinkedFeatures, Modality, MultiOmics
from mocli.data.features.index import features_of
from mocli.data.files.columns import find_column
from mocli.data.files.inputs import ModalityFile, open_inputs
from mocli.data.files.values import Health, check_values
from mocli.data.links.matrices import read_linked
from mocli.data.transforms.recipe import LinkRecipe, Recipe, RecipeOptions, default_transform
from mocli.data.transforms.transform import find_transform
from mocli.errors import UsageError, did_you_mean
from mocli.models.base import ProjectsInput
from mocli.tasks.prepare.choice import Choice, choose, tell_seen
from mocli.tasks.prepare.columns import codes_of_cells, numbers_of_cells
from mocli.tasks.prepare.genesets import gene_sets
from mocli.tasks.prepare.links import Linked, find_links
from mocli.tasks.prepare.pairing import Relation, index_map, relate, true_pairs
from mocli.tasks.prepare.select import choose_model
from mocli.tasks.prepare.weights import takes_weights, weights_of_rows
from mocli.tasks.run.options import one_of
from mocli.tasks.trained.start import check_kind
from mocli.types import ModalityKind, Pairing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from mocli.data.links.links import EdgeLinks, LinkTable
    from mocli.data.links.matrices import MatrixLinks
    from mocli.models.base import Traits
    from mocli.tasks.run.options import DataOptions, TrainOptions
    from mocli.tasks.trained.start import Origin
    from mocli.types import CSR, IntArray, Task


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything decided from metadata and a sample of the values; what `--dry-run` shows.

    Attributes
    ----------
    columns
        The user's names of the columns that are `batch` and `label` here.
    sets
        By modality which features belong to which set of genes, `(n_vars, n_sets)`.
    """

    choices: tuple[Choice, ...]
    relation: Relation
    linked: Linked
    traits: Traits
    why_model: str
    batch: Mapping[str, pd.Series | None] | None
    label: Mapping[str, pd.Series | None] | None
    covariates: Mapping[str, Mapping[str, pd.Series | None]]
    continuous: Mapping[str, Mapping[str, pd.Series | None]]
    pairs: Mapping[tuple[str, str], IntArray]
    warnings: tuple[str, ...]
    columns: Mapping[str, str]
    weights: Mapping[str, Mapping[str, pd.Series | None]] = field(default_factory=dict)
    sets: Mapping[str, CSR] = field(default_factory=dict)

    @property
    def files(self) -> list[ModalityFile]:
        """The modalities in order."""
        return [choice.file for choice in self.choices]

    @property
    def tables(self) -> tuple[LinkTable, ...]:
        """Tables of links, as read."""
        return self.linked.tables

    @property
    def edges(self) -> tuple[EdgeLinks, ...]:
        """Links of features, by pairs of modalities."""
        return self.linked.edges

    @property
    def matrices(self) -> tuple[MatrixLinks, ...]:
        """Pairs of modalities whose linked features the user made."""
        return self.linked.matrices


@dataclass(frozen=True, eq=False)
class Prepared:
    """The bundle with the fitted recipes that made it."""

    bundle: MultiOmics
    recipes: Mapping[str, Recipe]
    link_recipes: Mapping[tuple[str, str], tuple[LinkRecipe, LinkRecipe]]
    health: Mapping[str, Health]


def open_modalities(data: DataOptions) -> list[ModalityFile]:
    """Open the inputs, with the kinds that the user names."""
    kinds = {
        name: ModalityKind(one_of(k, [m.value for m in ModalityKind], "--kind"))
        for name, k in data.kind.items()
    }
    return open_inputs([str(text) for text in data.inputs], kinds=kinds)


def plan(
    data: DataOptions,
    train: TrainOptions,
    task: Task,
    say: Callable[[str], None],
    *,
    files: Sequence[ModalityFile] | None = None,
    traits: Traits | None = None,
) -> Plan:
    """Open files, choose layers and transforms, match links, choose the model.

    Reads metadata and a few hundred rows of each matrix, so that mistakes show in
    seconds.

    Parameters
    ----------
    files
        The modalities, where they are open already, perhaps with some cells only.
    traits
        What to prepare for, where that is not a model to be chosen.
    """
    files = open_modalities(data) if files is None else list(files)
    names = [f.name for f in files]
    for option, mapping in _by_modality(data).items():
        _check_modalities(option, mapping, names)
    for f in files:
        say(f"{f.name}: {f.n_obs:,} cells x {f.n_vars:,} {f.kind} features from {f.where}")
        for note in f.notes:
            say(note)
    relation = relate([f.obs.index for f in files], data.pairing)
    say(f"cells are {relation.pairing} ({relation.reason})")
    why = ""
    if traits is None:
        traits, why = choose_model(
            train.model,
            task=task,
            pairing=relation.pairing,
            kinds=[f.kind for f in files],
            links=bool(data.links),
        )
        say(f"model: {traits.name} ({why})")
        check_kind(train.init_from, traits)
    choices = tuple(choose(f, data, traits) for f in files)
    for c in choices:
        say(c.summary)
    features = features_of(files, var_key=data.var_key)
    linked = find_links(data.links, files, features, say) if traits.uses_links else Linked()
    pairs = known_pairs(files, relation, data.pair_key)
    return Plan(
        choices=choices,
        relation=relation,
        linked=linked,
        traits=traits,
        why_model=why,
        batch=find_column(files, data.batch_key, option="--batch-key") if data.batch_key else None,
        label=find_column(files, data.label_key, option="--label-key") if data.label_key else None,
        covariates={k: find_column(files, k, option="--covariate") for k in data.covariate_keys},
        continuous={k: find_column(files, k, option="--continuous") for k in data.continuous_keys},
        pairs=pairs,
        weights={
            k: find_column(files, k, option="--weight-key")
            for k in (data.weight_key,)
            if k and takes_weights(traits)
        },
        warnings=_warnings(relation, traits, data, unpaired=not pairs),
        columns={k: v for k, v in (("batch", data.batch_key), ("label", data.label_key)) if v},
        sets=gene_sets(data, traits, files, linked.edges, say),
    )


def load(
    made: Plan,
    params: object,
    *,
    seed: int,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    origin: Origin | None = None,
) -> Prepared:
    """Read the matrices one by one, check them, fit and apply the transforms that `params` ask for.

    Transforms of a saved model that the weights come from are taken over where they are the same.
    """
    projects = params if isinstance(params, ProjectsInput) else None
    modalities: dict[str, Modality] = {}
    recipes: dict[str, Recipe] = {}
    health: dict[str, Health] = {}
    sides: dict[tuple[str, str], dict[str, tuple[LinkRecipe, Any]]] = {e: {} for e in map(_edge, made.edges)}
    aggregations = {_edge(e): e.aggregation() for e in made.edges}
    for c in made.choices:
        name = c.file.name
        x = c.file.read(c.layer.layer)
        health[name] = check_values(x, c.file, layer=c.layer.layer, allow_negative=c.signed)
        _tell_health(name, health[name], warn)
        linked: list[int] = []
        for edge in made.edges:
            if name in _edge(edge):
                first = name == edge.source
                linked.extend(edge.source_index if first else edge.target_index)
                aggregation = aggregations[_edge(edge)]
                recipe = LinkRecipe.fit(
                    x,
                    aggregation=aggregation.source if first else aggregation.target,
                    transform=_of_links(c),
                    names=aggregation.names,
                )
                sides[_edge(edge)][name] = (recipe, recipe.apply(x))
        # a likelihood is of the values themselves, not of standardised ones
        options = RecipeOptions(
            transform=c.transform,
            n_top=c.n_top,
            n_pcs=projects.n_pcs if projects else None,
            standardise=c.likelihood is None,
            seed=seed,
            seen_in=c.seen_in,
        )
        linked.extend(np.flatnonzero(c.file.var.index.isin(c.keep)))
        keep = np.unique(np.asarray(linked, dtype=np.int64))
        known = None if origin is None else origin.recipe(c, options, keep)
        var_names = tuple(map(str, c.file.var.index))
        tell_seen(c, x, keep, say)
        recipes[name] = known or Recipe.fit(x, var_names=var_names, options=options, keep=keep)
        modalities[name] = Modality(
            name=name,
            kind=c.file.kind,
            features=recipes[name].apply(x),
            obs_names=tuple(map(str, c.file.obs.index)),
            library=health[name].total,
            likelihood=c.likelihood,
        )
        del x
    links = [LinkedFeatures(a, b, s[a][1], s[b][1], aggregations[a, b].names) for (a, b), s in sides.items()]
    by_name = {f.name: f for f in made.files}
    for m in made.matrices:
        keys = ((m.source, m.source_key), (m.target, m.target_key))
        own = [read_linked(by_name[name], key, m.names, warn=warn) for name, key in keys]
        links.append(LinkedFeatures(m.source, m.target, own[0], own[1], m.names))
    order = list(by_name)
    links.sort(key=lambda link: (order.index(link.source), order.index(link.target)))
    rows, obs_names = index_map(made.files, made.relation.pairing)
    alike = made.relation.names_mean_cells
    bundle = MultiOmics(
        modalities=modalities,
        rows=rows,
        obs_names=obs_names,
        pairing=made.relation.pairing,
        links=tuple(links),
        batch=codes_of_cells("batch", made.batch, made.files, rows, by_name=alike),
        label=codes_of_cells("label", made.label, made.files, rows, by_name=alike),
        covariates=tuple(
            codes
            for key, columns in made.covariates.items()
            if (codes := codes_of_cells(key, columns, made.files, rows, by_name=alike))
        ),
        continuous=numbers_of_cells(made.continuous, made.files, rows),
        # a recipe may have chosen some of the features
        sets={name: found[recipes[name].selected] for name, found in made.sets.items()},
        weights=weights_of_rows(made.weights, made.files, rows, say),
    )
    if projects and projects.input_smoothing > 0:
        # imported here: a dry run must not pay for torch
        from mocli.tasks.prepare.smoothing import smooth_inputs

        bundle = smooth_inputs(bundle, projects.input_smoothing, seed=seed, say=say)
    return Prepared(
        bundle=bundle,
        recipes=recipes,
        link_recipes={(a, b): (s[a][0], s[b][0]) for (a, b), s in sides.items()},
        health=health,
    )


def _of_links(choice: Choice) -> str:
    """Return the transform of linked features: counts have to be comparable between cells of any depth."""
    if not find_transform(choice.transform).is_for_counts:
        return choice.transform
    return default_transform(choice.file.kind, choice.layer.values)


def _edge(edge: EdgeLinks) -> tuple[str, str]:
    return (edge.source, edge.target)


def _by_modality(data: DataOptions) -> dict[str, Mapping[str, object]]:
    return {
        "--kind": data.kind,
        "--layer": data.layer,
        "--transform": data.transform,
        "--likelihood": data.likelihood,
        "--hvg": data.hvg,
        "--seen-in": data.seen_in,
    }


def _check_modalities(option: str, mapping: Mapping[str, object], names: Sequence[str]) -> None:
    for name in mapping:
        if name not in names:
            raise UsageError(
                f"{option} names the modality '{name}', which is not among the inputs",
                field=option,
                found=", ".join(names),
                hint=did_you_mean(name, names, "modalities"),
            )


def known_pairs(
    files: Sequence[ModalityFile], relation: Relation, pair_key: str | None
) -> dict[tuple[str, str], IntArray]:
    """Rows of true partners, `(n_pairs, 2)`, of every two modalities that share cells."""
    columns: dict[str, Any] = {}
    if pair_key is not None:
        found = find_column(files, pair_key, option="--pair-key")
        columns = {name: column for name, column in found.items() if column is not None}
    elif relation.names_mean_cells:
        columns = {f.name: f.obs.index for f in files}
    pairs = {}
    names = list(columns)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            found_pairs = true_pairs(columns[a], columns[b])
            if found_pairs is not None:
                pairs[a, b] = found_pairs
    return pairs


def _tell_health(name: str, health: Health, warn: Callable[[str], None]) -> None:
    if health.n_empty:
        share = health.n_empty / health.n_obs
        warn(
            f"{name}: {health.n_empty:,} of {health.n_obs:,} cells ({share:.1%}) have no signal at all; "
            "they are kept, cannot be anchors, and their place in the latent means nothing"
        )
    if health.n_constant:
        warn(f"{name}: {health.n_constant:,} features are constant and carry no information")


def _warnings(
    relation: Relation,
    traits: Traits,
    data: DataOptions,
    *,
    unpaired: bool,
) -> tuple[str, ...]:
    found = []
    if data.links and not traits.uses_links:
        found.append(f"{traits.name} uses no feature links: --links changes nothing")
    if (data.covariate_keys or data.continuous_keys) and not traits.likelihoods:
        found.append(f"{traits.name} uses no covariates: --covariate and --continuous change nothing")
    if data.weight_key and traits.params and not takes_weights(traits):
        found.append(f"{traits.name} has no discriminators: --weight-key changes nothing")
    if data.batch_key and not traits.likelihoods:
        found.append(
            f"{traits.name} does not correct batches: --batch-key serves pictures and metrics alone; where a "
            "batch differs, correct it before, or give each batch as a modality of its own"
        )
    if unpaired and data.pair_key is not None:
        found.append(
            f"obs['{data.pair_key}'] of --pair-key names no partner: it must be in two modalities and hold "
            "the same value for both cells of a pair; no metric of true pairs is computed"
        )
    if (
        relation.pairing is not Pairing.UNPAIRED
        and relation.pairing not in traits.prefers
        and (Pairing.UNPAIRED in traits.prefers)
    ):
        found.append(
            f"the cells are {relation.pairing}, which {traits.name} does not use: "
            "each modality is treated as cells of its own"
        )
    if "taken for chance" in relation.reason:
        found.append(relation.reason + "; cells are named modality:cell in the output")
    return tuple(found)
