"""Studies: models trained with fewer links or cells, wrong links, or other hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path

from mocli import parsing
from mocli.data.links.edges import EdgeLinks
from mocli.errors import UsageError, did_you_mean
from mocli.models.registry import params_class, traits_of
from mocli.report.file import write_text
from mocli.tasks.benchmark.ground import (
    HELD_OUT,
    TRAINING,
    Ground,
    fewer,
    fewer_of,
    halves,
    in_batch,
    informative,
    part_of,
    some,
    told_apart,
    wrong,
)
from mocli.tasks.benchmark.options import INFORMATIVE, StudyOptions
from mocli.tasks.benchmark.runs import Study, check_parameters, parameters_of, safe
from mocli.tasks.run.options import DataOptions
from mocli.types import Task

WEIGHT = "weight_"
"""Prefix of the hyper-parameters that weigh terms of a loss."""

FRACTION = "fraction="
"""Prefix of the names of studies of fewer cells to train on."""

LEAST_FRACTION = 0.01
"""Least share of the cells to train on; `mocli impute --hold-out` holds out no more than the rest."""

NOT_TERMS = frozenset({"weight_decay", "weight_average"})

MOST_SETTINGS = 200
"""Most settings of a sweep; each is trained with every seed."""


@dataclass(frozen=True, eq=False)
class Setting:
    """The data of studies, and the folder of their drawn cells and links.

    Attributes:
        write: Whether files are written; a dry run writes none.
        reconstructs: Whether held-out cells are reconstructed.
    """

    ground: Ground
    data: DataOptions
    seeds: Sequence[int]
    models: Sequence[str]
    folder: Path
    write: bool
    reconstructs: bool = False

    def drawn(self, folder: str, name: str, text_of: Callable[[int], list[str]]) -> dict[int, Path]:
        """Write the draws of each seed, one line each, and return the files."""
        files = {}
        for seed in self.seeds:
            path = files[seed] = self.folder / folder / f"{safe(name)}-seed{seed}.tsv"
            lines = text_of(seed)
            if self.write:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, "\n".join(lines) + "\n")
        return files


def studies_of(options: StudyOptions, setting: Setting) -> list[Study]:
    """Return the benchmark itself and every study asked for.

    Raises `UsageError`: there are no links to draw from, too few cells, no model with such a term or
    hyper-parameter, or no batch to leave out.
    """
    return [Study(), *(study for family in FAMILIES for study in family(options, setting))]


def _links(options: StudyOptions, setting: Setting) -> Iterator[Study]:
    """Fewer linked features (`panel`), and a share of the links with a wrong partner (`corrupt`)."""
    if not (options.panel or options.corrupt):
        return
    ground = setting.ground
    edges, matrices = ground.plan.linked.edges, ground.plan.linked.matrices
    if matrices:
        raise UsageError(
            "fewer or wrong links are drawn from links of single features, but matrices in obsm have none",
            field="--panel, --corrupt",
            found=", ".join(links.text for links in matrices),
            hint="give a table of links, or leave these studies out",
        )
    if not edges:
        raise UsageError(
            "fewer or wrong links need links to begin with", field="--panel, --corrupt", hint="add --links"
        )
    by_name = all(told_apart(edge) for edge in edges)
    what = "feature" if by_name else "index"
    header = f"source_modality\tsource_{what}\ttarget_modality\ttarget_{what}\tweight\tsign"

    def study(name: str, draw: Callable[[EdgeLinks, int], list[str]]) -> Study:
        def table(seed: int) -> list[str]:
            return [header, *(line for edge in edges for line in draw(edge, seed))]

        return Study(name, links=setting.drawn("links", name, table))

    most = max(len(edge.aggregation().names) for edge in edges)
    worth = {}
    if options.panel and options.panel_order == INFORMATIVE:
        worth = {link.edge: informative(ground.bundle, link) for link in ground.bundle.links}
    for n in options.panel:
        if not 0 < n <= most:
            raise UsageError(
                f"there are {most} linked features", field="--panel", found=n, expected=f"1 to {most}"
            )
        name = f"informative panel={n}" if worth else f"panel={n}"
        yield study(
            name,
            lambda edge, seed, n=n: fewer(  # type: ignore[misc]
                edge, n, seed, by_name=by_name, worth=worth.get((edge.source, edge.target))
            ),
        )
    for share in options.corrupt:
        yield study(
            f"corrupt={share:g}",
            lambda edge, seed, share=share: wrong(edge, share, seed, by_name=by_name),  # type: ignore[misc]
        )


def _terms(options: StudyOptions, setting: Setting) -> Iterator[Study]:
    """Give the weight of a term 0, in models that have it."""
    every = sorted(
        {
            f.name.removeprefix(WEIGHT)
            for name in setting.models
            for f in fields(params_class(traits_of(name)))
            if f.name.startswith(WEIGHT) and f.name not in NOT_TERMS
        }
    )
    for term in options.ablate:
        if term not in every:
            raise UsageError(
                f"no model of this benchmark has a loss term '{term}' with its own weight",
                field="--ablate",
                hint=did_you_mean(term, every, "terms"),
            )
        yield Study(f"without={term}", params={WEIGHT + term: 0.0})


def _sweep(options: StudyOptions, setting: Setting) -> Iterator[Study]:
    """All combinations of the values of hyper-parameters, for each model those that it has."""
    check_parameters(options.grid, setting.models, option="--grid")
    for model in setting.models:
        values_of = {
            key: grid_values(values) for key, values in parameters_of(traits_of(model), options.grid).items()
        }
        settings = (
            [dict(zip(values_of, values, strict=True)) for values in product(*values_of.values())]
            if values_of
            else []
        )
        if len(settings) > MOST_SETTINGS:
            raise UsageError(
                f"the sweep of {model} has too many settings",
                field="--grid",
                found=len(settings),
                expected=f"at most {MOST_SETTINGS}",
            )
        for values in settings:
            name = " ".join(f"{key}={value}" for key, value in values.items())
            yield Study(name, params={f"{model}.{key}": v for key, v in values.items()}, swept=values)


def _features(options: StudyOptions, _: Setting) -> Iterator[Study]:
    """Train on the features that a share of the cells has."""
    for share in options.features_seen_in:
        yield Study(f"seen-in={share:g}", seen_in=share)


def grid_values(text: object) -> list[object]:
    """Return the values that a sweep tries, each once."""
    return list(dict.fromkeys(parsing.scalar(word.strip(), "--grid") for word in str(text).split(",")))


def _training_cells(options: StudyOptions, setting: Setting) -> Iterator[Study]:
    """Give the models a share of the cells, or all but a batch; others are imputed or reconstructed.

    Models that impute also place all cells for integration.
    """
    if any(share < LEAST_FRACTION for share in options.fractions):
        raise UsageError(
            "too few cells are left to train on",
            field="--fractions",
            found=min(options.fractions),
            expected=f"at least {LEAST_FRACTION:g}",
        )
    ground = setting.ground
    only_impute = frozenset({Task.IMPUTE})

    def drawn(name: str, part: str, keep: Callable[[list[str], int], list[str]]) -> dict[int, Path]:
        if not setting.reconstructs:
            return {}
        return setting.drawn(
            "cells", f"{part} {name}", lambda seed: keep(halves(ground, seed, part=part), seed)
        )

    for share in options.fractions:
        name, both = f"{FRACTION}{share:g}", only_impute | {Task.INTEGRATE}
        training = drawn(name, TRAINING, lambda cells, seed, share=share: part_of(cells, share, seed))  # type: ignore[misc]
        yield Study(name, hold_out=f"{1 - share:.6g}", tasks=both, training=training)
    if not options.leave_one_batch_out:
        return
    batch, key = ground.bundle.batch, ground.plan.column_names.get("batch")
    if batch is None or key is None or len(batch.levels) < 2:
        raise UsageError(
            "there are not two batches, of which one could be left out",
            field="--leave-one-batch-out",
            hint="name their column with --batch-key",
        )
    for level in batch.levels:
        name, out = f"without-batch={level}", in_batch(ground, key, level) if setting.reconstructs else set()
        yield Study(
            name,
            hold_out=f"{key}={level}",
            tasks=only_impute,
            training=drawn(name, TRAINING, lambda cells, _, out=out: [c for c in cells if c not in out]),  # type: ignore[misc]
            held_out=drawn(name, HELD_OUT, lambda cells, _, out=out: [c for c in cells if c in out]),  # type: ignore[misc]
        )


def _cells(options: StudyOptions, setting: Setting) -> Iterator[Study]:
    """Train and score on fewer cells, or on fewer of one label, as on a data set of their own."""
    ground, data = setting.ground, setting.data
    for n in options.subsample:
        name = f"cells={n}"
        yield Study(name, cells=setting.drawn("cells", name, partial(some, ground, data, n)))
    for label, share in options.rare.items():
        name = f"{label}={share:g}"
        cells = setting.drawn("cells", name, partial(fewer_of, ground, data, label, share))
        yield Study(f"rare {name}", cells=cells)


FAMILIES: tuple[Callable[[StudyOptions, Setting], Iterator[Study]], ...] = (
    _links,
    _terms,
    _sweep,
    _features,
    _training_cells,
    _cells,
)
