"""mocli: single-cell multi-omics from the command line, and from Python.

The subcommands are functions: `mocli.integrate(inputs, output=...)` is the shell's `mocli integrate`.
Their parts can be called on arrays and AnnData, without a file in between:

    saved = mocli.load_model("out.model")
    filled = mocli.impute_values(saved, cells, "prot")

Everything is imported when it is first used; `import mocli` is light.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "integrate": "mocli.tasks.integrate.integrate",
    "impute": "mocli.tasks.impute.impute",
    "simulate": "mocli.tasks.simulate.simulate",
    "perturb": "mocli.tasks.perturb.perturb",
    "gene2peak": "mocli.tasks.gene2peak.gene2peak",
    "benchmark": "mocli.tasks.benchmark.benchmark",
    "load_model": "mocli.tasks.trained.saved",
    "impute_values": "mocli.tasks.impute.work",
    "silence_genes": "mocli.tasks.gene2peak.gene2peak",
    "relate_features": "mocli.tasks.relate.relate",
    "perturb_cells": "mocli.tasks.perturb.shifts",
    "simulate_cells": "mocli.tasks.simulate.write",
    "build_links": "mocli.tasks.links.build",
    "score_latents": "mocli.tasks.score.evaluate",
    "silhouette_widths": "mocli.metrics.clusters",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'mocli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
