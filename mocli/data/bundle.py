"""`MultiOmics`, the frozen unit that models see, and the minibatch cut from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from mocli.data.packed import blocks_of, on_disk, some_rows
from mocli.errors import InputError, UsageError
from mocli.types import (
    COUNT_LIKELIHOODS,
    CSR,
    DoubleArray,
    FloatArray,
    IntArray,
    ModalityKind,
    NonZeros,
    Pairing,
    RowNumbers,
)

if TYPE_CHECKING:
    from torch import Tensor

Edge = tuple[str, str]


@dataclass(frozen=True, eq=False)
class FeatureMatrix:
    """Cells x features, sparse or dense, plus a constant row, optionally averaged over neighbours.

    The value of cell i and feature j is `values[i, j] + offset[j]`: a
    standardised matrix keeps its zeros, and the offset is added only to a
    densified minibatch. With neighbours it is `1 - smoothing` times that plus
    `smoothing` times the mean over `neighbors[i]`, made for a minibatch as well.

    Attributes:
        values: CSR float32 or dense float32, `(n_obs, n_vars)`, in memory or `PackedRows`.
        names: Feature names, `(n_vars,)`.
        offset: Float32 `(n_vars,)`, or None for zero.
        neighbors: Rows to average over, `(n_obs, k)`, or None.
        deviation: What the features were divided by to standardise them, `(n_vars,)`; None where they were
            not.
    """

    values: CSR | FloatArray
    names: tuple[str, ...]
    offset: FloatArray | None = None
    neighbors: RowNumbers | None = None
    smoothing: float = 0.0
    deviation: FloatArray | None = None

    def __post_init__(self) -> None:
        if self.values.shape[1] != len(self.names):
            raise ValueError(f"{self.values.shape[1]} columns but {len(self.names)} names")

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return int(self.values.shape[0])

    @property
    def n_vars(self) -> int:
        """Number of features."""
        return int(self.values.shape[1])

    @property
    def on_disk(self) -> bool:
        """Whether values are read when they are wanted."""
        return on_disk(self.values)

    def blocks(self) -> Iterator[CSR | FloatArray]:
        """Yield the values without the offset in blocks of rows: in one, where they are in memory."""
        return blocks_of(self.values)

    def some(self, most: int, *, seed: int) -> CSR | FloatArray:
        """Return the values of at most so many cells in memory, drawn where there are more."""
        return some_rows(self.values, most, seed=seed)

    def mean(self, *, binary: bool = False) -> DoubleArray:
        """Return the mean of every feature with the offset, or the share of cells above 0, `(n_vars,)`."""
        mean = np.zeros(self.n_vars)
        for block in self.blocks():
            values, share = block > 0 if binary else block, block.shape[0] / max(self.n_obs, 1)
            mean += np.asarray(values.mean(axis=0), np.float64).ravel() * share
        return mean if self.offset is None else mean + self.offset

    def totals(self) -> DoubleArray:
        """Return the sum of the values of every cell, without the offset, `(n_obs,)`."""
        totals = [np.asarray(block.sum(axis=1), np.float64).ravel() for block in self.blocks()]
        return totals[0] if len(totals) == 1 else np.concatenate([np.zeros(0), *totals])

    def median_total(self) -> float:
        """Return the median total of the cells that have any; 1 where none has."""
        totals = self.totals()
        totals = totals[totals > 0]
        return float(np.median(totals)) if len(totals) else 1.0


@dataclass(frozen=True, eq=False)
class Modality:
    """One modality as a model sees it.

    Attributes:
        features: Encoder input after the fitted transform, `(n_obs, n_vars)`.
        obs_names: `(n_obs,)`.
        library: Total of the raw values of each cell over all its features, `(n_obs,)`.
        likelihood: The likelihood of the values (`nb`, `normal`, ...); None where none was chosen.
    """

    name: str
    kind: ModalityKind
    features: FeatureMatrix
    obs_names: tuple[str, ...]
    library: FloatArray
    likelihood: str | None = None

    @property
    def n_obs(self) -> int:
        """Number of cells measured in this modality."""
        return self.features.n_obs

    @property
    def is_counted(self) -> bool:
        """Whether the values are treated as counts."""
        return self.likelihood in COUNT_LIKELIHOODS


@dataclass(frozen=True, eq=False)
class LinkedFeatures:
    """The linked features of two modalities: column j of one belongs to column j of the other.

    Both matrices are standardised per column, unless they are the user's own. `names` says what
    each column is.
    """

    source: str
    target: str
    source_features: FeatureMatrix
    target_features: FeatureMatrix
    names: tuple[str, ...]

    @property
    def edge(self) -> Edge:
        """The two modalities."""
        return (self.source, self.target)

    @property
    def sides(self) -> dict[str, FeatureMatrix]:
        """The linked features by modality, the source first."""
        return {self.source: self.source_features, self.target: self.target_features}


@dataclass(frozen=True, eq=False)
class Codes:
    """A categorical column over all cells: `codes` index `levels`, -1 is missing."""

    key: str
    codes: IntArray
    levels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Continuous:
    """Covariates that are numbers: values of all cells, `(n_cells, n_keys)`, finite."""

    keys: tuple[str, ...]
    values: FloatArray


@dataclass(frozen=True, eq=False)
class MultiOmics:
    """Modalities, links and covariates of one analysis.

    Attributes:
        rows: `(n_cells, n_modalities)`: the row of a cell in a modality, -1 where it was not measured.
            Presence is this map, never inferred from zeros.
        obs_names: `(n_cells,)`. When the pairing is unpaired each measured row is a cell of its own, also if
            two modalities share names.
        covariates: Categorical columns to account for, besides the batch.
        sets: By modality which of its features belong to which set of genes, `(n_vars, n_sets)`; none where
            no sets were given.
        weights: Weights of the cells in discriminators, by modality, `(n_obs,)`, 0 or more; none where none
            were given.
    """

    modalities: Mapping[str, Modality]
    rows: IntArray
    obs_names: tuple[str, ...]
    pairing: Pairing
    links: tuple[LinkedFeatures, ...] = ()
    batch: Codes | None = None
    label: Codes | None = None
    covariates: tuple[Codes, ...] = ()
    continuous: Continuous | None = None
    sets: Mapping[str, CSR] = field(default_factory=dict, repr=False)
    weights: Mapping[str, FloatArray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.rows.shape != (len(self.obs_names), len(self.modalities)):
            raise ValueError(f"rows has shape {self.rows.shape}")
        for edge in self.links:
            for name in edge.edge:
                if name not in self.modalities:
                    raise InputError(f"a link names the modality '{name}', which is not loaded")

    @property
    def n_cells(self) -> int:
        """Number of distinct cells."""
        return len(self.obs_names)

    @property
    def categorical(self) -> tuple[Codes, ...]:
        """The batch, if there is one, and the other categorical covariates."""
        return (() if self.batch is None else (self.batch,)) + self.covariates

    @property
    def on_disk(self) -> bool:
        """Whether values of some modality are read when they are wanted."""
        return any(m.features.on_disk for m in self.modalities.values())

    def patterns(self) -> IntArray:
        """Return the modalities that a cell has, as a number: bit m is modality m, `(n_cells,)`."""
        bits = 1 << np.arange(len(self.modalities), dtype=np.int64)
        return (self.rows >= 0) @ bits

    def seen_by(self, modality: str) -> tuple[MultiOmics, IntArray]:
        """Return the cells measured in a modality, as if nothing else had been measured, and which they are.

        Cells come in the order of the modality's rows.
        """
        cells, column = self.cells_of(modality), list(self.modalities).index(modality)
        rows = np.full((len(cells), len(self.modalities)), -1, np.int64)
        rows[:, column] = self.rows[cells, column]

        def of(codes: Codes | None) -> Codes | None:
            return None if codes is None else replace(codes, codes=codes.codes[cells])

        numbers = self.continuous
        return replace(
            self,
            rows=rows,
            obs_names=tuple(self.obs_names[i] for i in cells),
            batch=of(self.batch),
            label=of(self.label),
            covariates=tuple(replace(c, codes=c.codes[cells]) for c in self.covariates),
            continuous=None if numbers is None else replace(numbers, values=numbers.values[cells]),
        ), cells

    def cells_of(self, modality: str) -> IntArray:
        """Cell index of each row of a modality, `(n_obs,)`."""
        column = self.rows[:, list(self.modalities).index(modality)]
        cells = np.flatnonzero(column >= 0)
        return cells[np.argsort(column[cells], kind="stable")].astype(np.int64)

    def codes_of(self, codes: Codes | None, modality: str) -> IntArray | None:
        """Return a covariate's codes in the order of a modality's rows, `(n_obs,)`."""
        return None if codes is None else codes.codes[self.cells_of(modality)]

    def labels(self) -> dict[str, IntArray]:
        """Return the label's codes by modality in the order of its rows, -1 for none.

        Raises `UsageError`: there is no label.
        """
        if self.label is None:
            raise UsageError(
                "the model weighs cells by their labels, but the cells have none",
                hint="name the column of labels with --label-key",
            )
        return {name: self.label.codes[self.cells_of(name)] for name in self.modalities}


@dataclass(frozen=True, eq=False)
class Minibatch:
    """A few cells of each modality, dense, on the device.

    Attributes:
        x: Encoder features by modality, `(B, n_vars)`, apart from those in `counts`.
        counts: Encoder features of modalities that are stored sparse and taken for counts, by their
            non-zeros.
        links: Linked features by edge: two tensors `(B, n_links)`.
        rows: Row numbers drawn by modality, `(B,)`.
        library: Totals of those rows by modality, `(B,)`.
        step: Step of the training loop, from 0.
        cells: Cells drawn, `(B,)`; None where every modality drew rows of its own. Of a cell's modalities
            only those measured are in `x`, `rows` and `library`, so that these hold `(B_m,)` rows.
        positions: By modality, for each of its rows the position of its cell in `cells`, `(B_m,)`.
        codes: Categorical covariates of the cells by key, `(B,)`, -1 where missing.
        continuous: Continuous covariates of the cells, `(B, n_keys)`, or None.
        processes: Among how many a step's cells are shared; these are the cells of one.
    """

    x: Mapping[str, Tensor]
    links: Mapping[Edge, tuple[Tensor, Tensor]]
    rows: Mapping[str, Tensor]
    counts: Mapping[str, NonZeros] = field(default_factory=dict)
    library: Mapping[str, Tensor] = field(default_factory=dict)
    step: int = 0
    cells: Tensor | None = None
    positions: Mapping[str, Tensor] = field(default_factory=dict)
    codes: Mapping[str, Tensor] = field(default_factory=dict)
    continuous: Tensor | None = None
    processes: int = 1

    def values(self, name: str) -> Tensor | NonZeros:
        """Return encoder features of a modality, `(B, n_vars)`; as their non-zeros where it is stored so."""
        return self.counts[name] if name in self.counts else self.x[name]
