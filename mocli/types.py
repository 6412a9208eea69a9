"""Words shared by every package: tasks, pairings, kinds of modality, array aliases."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

# written as text, so that whoever imports a name does not load numpy
FloatArray: TypeAlias = "NDArray[np.float32]"
DoubleArray: TypeAlias = "NDArray[np.float64]"
IntArray: TypeAlias = "NDArray[np.int64]"
RowNumbers: TypeAlias = "NDArray[np.integer[Any]]"  # in as many bytes as they need
BoolArray: TypeAlias = "NDArray[np.bool_]"
StrArray: TypeAlias = "NDArray[np.object_]"
CSR: TypeAlias = Any  # scipy.sparse.csr_matrix, which ships no types
Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


class Task(StrEnum):
    """The six subcommands."""

    INTEGRATE = "integrate"
    IMPUTE = "impute"
    SIMULATE = "simulate"
    PERTURB = "perturb"
    GENE2PEAK = "gene2peak"
    BENCHMARK = "benchmark"


class Pairing(StrEnum):
    """How the cells of the modalities relate."""

    PAIRED = "paired"
    UNPAIRED = "unpaired"
    MOSAIC = "mosaic"


class ModalityKind(StrEnum):
    """What a modality measures, whatever its name."""

    RNA = "rna"
    ATAC = "atac"
    PROT = "prot"
    CYTO = "cyto"
    METHYL = "methyl"
    OTHER = "other"


class ValueKind(StrEnum):
    """What the numbers look like."""

    COUNTS = "counts"  # non-negative integers
    LOGNORM = "lognorm"  # non-negative, not integer, small: log-normalised or alike
    POSITIVE = "positive"  # non-negative, not integer, large: intensities, scaled counts
    REAL = "real"  # some negative


class Preset(StrEnum):
    """How long and how carefully to train."""

    AUTO = "auto"
    PAPER = "paper"
    FAST = "fast"


ANY_VALUES, NON_NEGATIVE = "any values", "values that are not negative"

LIKELIHOODS = {
    "nb": "counts",
    "zinb": "counts",
    "poisson": "counts",
    "bernoulli": "counts",
    "ziln": NON_NEGATIVE,
    "normal": ANY_VALUES,
}
"""Likelihoods on the command line (classes in `mocli.nn.heads`), and the values they need."""


def takes_counts(likelihood: str | None) -> bool:
    """Say whether a likelihood is one of counts, or of counts above zero."""
    return LIKELIHOODS.get(likelihood or "") == "counts"


COUNT_LIKELIHOODS = frozenset({"nb", "zinb", "poisson"})
"""Likelihoods of counts whose mean is a proportion times a library size, computed from non-zeros alone."""


class NonZeros(NamedTuple):
    """A few rows of a sparse matrix by their non-zeros, on a device.

    Attributes:
        values, row, column: `(nnz,)` each, row by row. Zeros may be among the values, at any place.
        starts: Where each row starts, `(B,)`.
        shape: Rows, columns.
    """

    values: Tensor
    row: Tensor
    column: Tensor
    starts: Tensor
    shape: tuple[int, int]

    @property
    def at(self) -> Tensor:
        """Positions in the flattened matrix, `(nnz,)`."""
        return self.row * self.shape[1] + self.column

    @property
    def totals(self) -> Tensor:
        """Sum of each row, `(B,)`."""
        return self.values.new_zeros(self.shape[0]).index_add_(0, self.row, self.values)

    @property
    def dense(self) -> Tensor:
        """The matrix itself, `(B, p)`."""
        flat = self.values.new_zeros(self.shape[0] * self.shape[1])
        return flat.index_add_(0, self.at, self.values).view(self.shape)


class Route(StrEnum):
    """A stack of ways weighed by their predictions, the model's decoder, or a readout of its latent."""

    AUTO = "auto"
    STACK = "stack"
    DECODER = "decoder"
    READOUT = "readout"


EXPORT_TOOLS = ("cellphonedb", "commot")
"""The tools that `mocli export` writes for."""
EXPORT_VALUES = ("auto", "counts", "log", "normalised")
"""The scales that exported values may have."""
