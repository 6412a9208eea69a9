"""Words shared by every package: tasks, pairings, kinds of modality, array aliases."""

from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray: TypeAlias = NDArray[np.float32]
    DoubleArray: TypeAlias = NDArray[np.float64]
    IntArray: TypeAlias = NDArray[np.int64]
    BoolArray: TypeAlias = NDArray[np.bool_]
    StrArray: TypeAlias = NDArray[np.object_]
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
    """What a modality measures, whatever the user calls it."""

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
