"""Sets of genes for models that use them: read, and their genes found among the features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mocli.data.links.genesets import memberships, read_gene_sets
from mocli.errors import UsageError
from mocli.models.registry import available

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mocli.data.files.inputs import ModalityFile
    from mocli.data.links.links import EdgeLinks
    from mocli.models.base import Traits
    from mocli.tasks.run.options import DataOptions
    from mocli.types import CSR


def gene_sets(
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
        raise UsageError(
            f"{traits.name} uses no gene sets",
            field="--gene-sets",
            hint="leave it out, or choose another model with -m: " + ", ".join(_with_sets()),
        )
    sets = read_gene_sets(data.gene_sets)
    found = memberships(sets, {f.name: tuple(map(str, f.var.index)) for f in files}, edges)
    for name, m in found.items():
        n_features = int((np.diff(m.indptr) > 0).sum())
        say(f"{name}: {m.shape[1]:,} of {len(sets.names):,} gene sets, {n_features:,} features in them")
    return found


def _with_sets() -> list[str]:
    return [name for name, traits in available().items() if traits.uses_sets]
