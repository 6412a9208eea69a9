"""mocli: single-cell multi-omics from the command line, and from Python.

The functions below are the subcommands without the shell; they import their
heavy dependencies only when called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mocli.tasks.benchmark.benchmark import benchmark
    from mocli.tasks.gene2peak.gene2peak import gene2peak
    from mocli.tasks.impute.impute import impute
    from mocli.tasks.integrate.integrate import integrate
    from mocli.tasks.perturb.perturb import perturb
    from mocli.tasks.simulate.simulate import simulate

__version__ = "0.1.0"
__all__ = ["__version__", "benchmark", "gene2peak", "impute", "integrate", "perturb", "simulate"]

_LAZY = {name: f"mocli.tasks.{name}.{name}" for name in __all__[1:]}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mocli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
