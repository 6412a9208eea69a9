"""From a plan to a bundle: matrices read and checked, transforms fitted and applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mocli.data.bundle import Codes, FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.data.files.contents import Health, check_values
from mocli.data.links.edges import Aggregation, EdgeLinks
from mocli.data.links.route import read_linked
from mocli.data.packed import PackedRows, rows_at_a_time
from mocli.data.transforms.linkrecipe import LinkRecipe
from mocli.data.transforms.recipe import Recipe, RecipeOptions, default_transform
from mocli.data.transforms.transform import find_transform
from mocli.models.base import ProjectsInput
from mocli.nn.neighbors import chunks
from mocli.tasks.prepare.choice import Choice, tell_seen
from mocli.tasks.prepare.obscolumns import ObsColumn, numbers_of_cells, weights_of_rows
from mocli.tasks.prepare.pairing import index_map
from mocli.tasks.prepare.plan import Plan
from mocli.types import CSR, IntArray

Known = Callable[[Choice, RecipeOptions, IntArray], Recipe | None]


@dataclass(frozen=True, eq=False)
class Prepared:
    """The bundle with the fitted recipes that made it."""

    bundle: MultiOmics
    recipes: Mapping[str, Recipe]
    link_recipes: Mapping[tuple[str, str], tuple[LinkRecipe, LinkRecipe]]
    health: Mapping[str, Health]


def load(
    plan: Plan,
    params: object,
    *,
    seed: int,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    known_recipe: Known = lambda *_: None,
    backed: bool = False,
    device: str = "cpu",
) -> Prepared:
    """Read the matrices one by one, check them, fit and apply the transforms that `params` ask for.

    Args:
        known_recipe: Gives the transform of a modality that was fitted before, for these options and features
            that must be kept; None where it is to be fitted.
        backed: Whether matrices stay on disk, see `packed`.
        device: Where neighbours to average over are searched.

    Raises:
        InputError: Values that cannot be used, or columns of obs that do not fit their option.
    """
    projects = params if isinstance(params, ProjectsInput) else None
    n_pcs = projects.n_pcs if projects else None
    aggregations = {e.edge: e.aggregation() for e in plan.linked.edges}
    sides: dict[tuple[str, str], dict[str, tuple[LinkRecipe, FeatureMatrix]]] = {e: {} for e in aggregations}
    modalities: dict[str, Modality] = {}
    recipes: dict[str, Recipe] = {}
    health: dict[str, Health] = {}
    for choice in plan.choices:
        name = choice.file.name
        x, health[name] = pack_modality(choice, warn) if backed else read_modality(choice, warn)
        for edge, recipe in fit_links(choice, x, aggregations).items():
            sides[edge][name] = recipe, recipe.apply(x)
        keep = _kept(choice, plan.linked.edges)
        tell_seen(choice, x, keep, say)
        recipes[name] = fit_recipe(choice, x, keep, known_recipe, n_pcs=n_pcs, seed=seed)
        modalities[name] = Modality(
            name=name,
            kind=choice.file.kind,
            features=recipes[name].apply(x),
            obs_names=tuple(map(str, choice.file.obs.index)),
            library=health[name].total,
            likelihood=choice.likelihood,
        )
        del x
    links = [LinkedFeatures(a, b, s[a][1], s[b][1], aggregations[a, b].names) for (a, b), s in sides.items()]
    bundle = assemble(plan, modalities, [*links, *read_matrices(plan, warn)], recipes, say)
    if projects and projects.input_smoothing > 0:
        # imported here: a dry run must not pay for torch
        from mocli.tasks.prepare.smoothing import smooth_inputs

        bundle = smooth_inputs(bundle, projects.input_smoothing, seed=seed, say=say, device=device)
    link_recipes = {(a, b): (s[a][0], s[b][0]) for (a, b), s in sides.items()}
    return Prepared(bundle, recipes, link_recipes, health)


def read_modality(choice: Choice, warn: Callable[[str], None]) -> tuple[CSR, Health]:
    """Read the values `(n_obs, n_vars)` of a modality and check them."""
    x = choice.file.read(choice.layer.layer)
    health = check_values(x, choice.file, layer=choice.layer.layer, allow_negative=choice.signed)
    _tell_health(choice.file.name, health, warn)
    return x, health


def pack_modality(choice: Choice, warn: Callable[[str], None]) -> tuple[PackedRows, Health]:
    """Read the values of a modality block by block, check them, and keep them on disk."""
    file, layer = choice.file, choice.layer.layer
    packed, health_of_blocks = PackedRows(file.n_vars), []
    for rows in chunks(file.n_obs, rows_at_a_time(file.nbytes(layer) // 8, file.n_obs)):
        part = file.take(np.arange(rows.start, rows.stop))
        x = part.read(layer)
        health_of_blocks.append(check_values(x, part, layer=layer, allow_negative=choice.signed))
        packed.append(x)
    health = Health.joined(health_of_blocks)
    _tell_health(file.name, health, warn)
    return packed, health


def fit_links(
    choice: Choice, x: CSR, aggregations: Mapping[tuple[str, str], Aggregation]
) -> dict[tuple[str, str], LinkRecipe]:
    """Fit the transforms of a modality's linked features, by pair of linked modalities."""
    name, transform = choice.file.name, choice.transform
    if find_transform(transform).is_for_counts:
        # counts have to be comparable between cells of any depth
        transform = default_transform(choice.file.kind, choice.layer.values)
    return {
        edge: LinkRecipe.fit(
            x,
            aggregation=aggregation.source if name == edge[0] else aggregation.target,
            transform=transform,
            names=aggregation.names,
        )
        for edge, aggregation in aggregations.items()
        if name in edge
    }


def fit_recipe(
    choice: Choice, x: CSR, keep: IntArray, known_recipe: Known, *, n_pcs: int | None, seed: int
) -> Recipe:
    """Fit the transform of a modality, unless it was fitted before.

    Args:
        keep: Features that are always kept.
        n_pcs: Principal components to reduce features to; None for none.
    """
    options = RecipeOptions(
        transform=choice.transform,
        n_top=choice.n_top,
        n_pcs=n_pcs,
        # a likelihood is of the values themselves, not of standardised ones
        standardise=choice.likelihood is None,
        seed=seed,
        seen_in=choice.seen_in,
    )
    var_names = tuple(map(str, choice.file.var.index))
    return known_recipe(choice, options, keep) or Recipe.fit(
        x, var_names=var_names, options=options, keep=keep
    )


def _kept(choice: Choice, edges: Sequence[EdgeLinks]) -> IntArray:
    """Columns of linked features and of those that were asked for by name, increasing."""
    name = choice.file.name
    linked = [half.linked for edge in edges for half in edge.halves if half.modality == name]
    named = np.flatnonzero(choice.file.var.index.isin(choice.keep))
    return np.unique(np.concatenate([*linked, named])).astype(np.int64)


def read_matrices(plan: Plan, warn: Callable[[str], None]) -> Iterator[LinkedFeatures]:
    """Read the linked features that the user made."""
    by_name = {f.name: f for f in plan.files}
    for m in plan.linked.matrices:
        source, target = (
            read_linked(by_name[name], key, m.names, warn=warn)
            for name, key in ((m.source, m.source_key), (m.target, m.target_key))
        )
        yield LinkedFeatures(m.source, m.target, source, target, m.names)


def assemble(
    plan: Plan,
    modalities: Mapping[str, Modality],
    links: Sequence[LinkedFeatures],
    recipes: Mapping[str, Recipe],
    say: Callable[[str], None],
) -> MultiOmics:
    """Put modalities and links together with the index map and the columns of obs."""
    files, columns, relation = plan.files, plan.columns, plan.relation
    rows, obs_names = index_map(files, relation.pairing)
    order = list(modalities)

    def codes(column: ObsColumn) -> Codes:
        return column.codes(files, rows, by_name=relation.names_mean_cells)

    return MultiOmics(
        modalities=modalities,
        rows=rows,
        obs_names=obs_names,
        pairing=relation.pairing,
        links=tuple(sorted(links, key=lambda link: (order.index(link.source), order.index(link.target)))),
        batch=codes(columns.batch) if columns.batch else None,
        label=codes(columns.label) if columns.label else None,
        covariates=tuple(codes(column) for column in columns.covariates),
        continuous=numbers_of_cells(columns.continuous, files, rows),
        # a recipe may have chosen some of the features
        sets={name: memberships[recipes[name].selected] for name, memberships in plan.sets.items()},
        weights=weights_of_rows(columns.weight, files, rows, say),
    )


def _tell_health(name: str, health: Health, warn: Callable[[str], None]) -> None:
    if health.n_empty:
        share = health.n_empty / health.n_obs
        warn(
            f"{name}: {health.n_empty:,} of {health.n_obs:,} cells ({share:.1%}) have no signal at all; "
            "they are kept, cannot be anchors, and their latent coordinates are not meaningful"
        )
    if health.n_constant:
        many = "feature is" if health.n_constant == 1 else "features are"
        warn(f"{name}: {health.n_constant:,} {many} constant and of no use to a model")
