"""Simulated cells beside real ones: what metrics of generation see."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, TypeVar, cast

import numpy as np

from mocli.metrics.registry import Metric, Score, Scored, available_metrics
from mocli.report.figures import Entry
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

T = TypeVar("T")

N_COMPONENTS = 20
MOST_FEATURES = 3_000
"""Features of the greatest variance that principal components are made of."""


@dataclass(frozen=True, eq=False)
class Generated:
    """Real and simulated cells, by modality.

    Attributes:
        real, simulated: Measured values `(n, p)` of each modality, the same features in both; rows of
            simulated cells are the same cells in every modality.
        real_label, simulated_label: Codes of each modality's real cells, -1 for none, and of all simulated
            cells.
        levels: What the codes mean.
        counted: Modalities whose values are counts: they are compared at equal depth, logged.
        paired: Whether rows of real cells are the same cells in every modality.
        latent: By modality, latent coordinates of real and simulated cells, `(n, d)` each.
    """

    real: Mapping[str, CSR]
    simulated: Mapping[str, CSR]
    real_label: Mapping[str, IntArray]
    simulated_label: IntArray
    levels: tuple[str, ...]
    counted: frozenset[str]
    paired: bool = False
    latent: Mapping[str, tuple[FloatArray, FloatArray]] = field(default_factory=dict)
    seed: int = 0
    _shared: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, x in self.real.items():
            y = self.simulated[name]
            if x.shape[1] != y.shape[1]:
                raise ValueError(f"'{name}' has {x.shape[1]} real and {y.shape[1]} simulated features")
            if (len(self.real_label[name]), len(self.simulated_label)) != (x.shape[0], y.shape[0]):
                raise ValueError(f"labels of '{name}' do not fit its cells")

    def labels(self, name: str) -> list[int]:
        """Labels with real and simulated cells in a modality."""
        return sorted({*self.real_label[name].tolist()} & {*self.simulated_label.tolist()} - {-1})

    def rows(self, name: str, code: int) -> tuple[IntArray, IntArray]:
        """Real and simulated cells of a label."""
        return np.flatnonzero(self.real_label[name] == code), np.flatnonzero(self.simulated_label == code)

    def raw(self, name: str, code: int) -> tuple[CSR, CSR]:
        """Measured values of real and simulated cells of a label."""
        real, simulated = self.rows(name, code)
        return self.real[name][real], self.simulated[name][simulated]

    def logged(self, name: str) -> tuple[CSR, CSR]:
        """Return all cells: counts logged at the real cells' median library size, other values unchanged."""

        def make() -> tuple[CSR, CSR]:
            from scipy import sparse

            if name not in self.counted:
                return sparse.csr_matrix(self.real[name]), sparse.csr_matrix(self.simulated[name])
            totals = np.asarray(self.real[name].sum(1), np.float64).ravel()
            depth = float(np.median(totals[totals > 0])) if (totals > 0).any() else 1.0
            return log_at_depth(self.real[name], depth), log_at_depth(self.simulated[name], depth)

        return self.share(("logged", name), make)

    def logged_of(self, name: str, code: int) -> tuple[CSR, CSR]:
        """As `logged`, the cells of a label."""
        real, simulated = self.rows(name, code)
        x, y = self.logged(name)
        return x[real], y[simulated]

    def components(self, name: str) -> tuple[DoubleArray, DoubleArray]:
        """Return all cells on the principal components of the real cells' logged values."""

        def make() -> tuple[DoubleArray, DoubleArray]:
            x, y = self.logged(name)
            first, second = project(x, x, y, seed=self.seed)
            return first, second

        return self.share(("components", name), make)

    def share(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute` returned the first time."""
        if key not in self._shared:
            self._shared[key] = compute()
        return cast("T", self._shared[key])

    def halves(self) -> list[Generated]:
        """Return real cells of which half play the simulated ones: what the best simulation would score.

        Modalities whose rows are not the same cells are returned one by one.
        """
        simulated_labels = {*self.simulated_label.tolist()}
        halves = []
        for names in [list(self.real)] if self.paired else [[name] for name in self.real]:
            label = self.real_label[names[0]]
            order = np.random.default_rng(self.seed).permutation(len(label))
            first, second = np.sort(order[::2]), np.sort(order[1::2])
            second = second[np.isin(label[second], list(simulated_labels))]
            latent = {m: self.latent[m][0] for m in names if m in self.latent}
            halves.append(
                replace(
                    self,
                    real={m: self.real[m][first] for m in names},
                    simulated={m: self.real[m][second] for m in names},
                    real_label={m: self.real_label[m][first] for m in names},
                    simulated_label=label[second],
                    latent={m: (z[first], z[second]) for m, z in latent.items()},
                )
            )
        return halves


@dataclass(frozen=True, eq=False)
class LabelView(Scored):
    """Real and simulated cells of one label in one modality, or in two: what metrics of simulated cells see.

    Attributes:
        of: The modality or modalities.
        code: The label.
    """

    cells: Generated
    of: tuple[str, ...]
    code: int
    kind = "simulated"

    def holds(self, need: str) -> bool:
        """Whether `counts`, several `labels`, a `latent`, `paired` cells or `two` modalities are there."""
        match need:
            case "counts":
                return all(m in self.cells.counted for m in self.of)
            case "labels":
                return all(len(np.unique(self.cells.real_label[m])) > 1 for m in self.of)
            case "latent":
                return all(m in self.cells.latent for m in self.of)
            case "two":
                return len(self.of) == 2
            case _:
                return self.cells.paired

    @property
    def n(self) -> int:
        """Simulated cells."""
        return len(self.cells.rows(self.of[0], self.code)[1])

    @property
    def modality(self) -> str:
        """The modality, the first of two."""
        return self.of[0]

    @property
    def label(self) -> IntArray:
        """Codes of all real cells."""
        return self.cells.real_label[self.modality]

    def rows(self) -> tuple[IntArray, IntArray]:
        """Real and simulated cells."""
        return self.cells.rows(self.modality, self.code)

    def raw(self) -> tuple[CSR, CSR]:
        """Measured values of real and simulated cells."""
        return self.cells.raw(self.modality, self.code)

    def logged(self, position: int = 0) -> tuple[CSR, CSR]:
        """Return logged values of real and simulated cells in the modality at a position."""
        return self.cells.logged_of(self.of[position], self.code)


@dataclass(frozen=True, eq=False)
class Judged:
    """One metric of one modality or two: its values by label, and as the report has it."""

    key: str
    metric: Metric[LabelView]
    by_label: Mapping[int, float]
    entry: Entry


def by_label(metric: Metric[LabelView], cells: Generated, modalities: tuple[str, ...]) -> dict[int, float]:
    """Compute a metric of one modality or two for every label that has real and simulated cells."""
    codes = set.intersection(*(set(cells.labels(m)) for m in modalities))
    return {code: metric(LabelView(cells, modalities, code))[0].value for code in sorted(codes)}


def judge(cells: Generated) -> list[Judged]:
    """Compute all metrics whose needs are met; the report's value is the mean over labels."""
    judged = []
    for metric in available_metrics("simulated").values():
        parts: list[tuple[str, ...]] = [(m,) for m in cells.real]
        if "two" in metric.needs:
            parts = [*combinations(cells.real, 2)]
        for modalities in (
            modalities for modalities in parts if metric.applies_to(LabelView(cells, modalities, -1))
        ):
            values = by_label(metric, cells, modalities)
            finite = [v for v in values.values() if math.isfinite(v)]
            mean = Score(float(np.mean(finite)) if finite else math.nan, len(cells.simulated_label))
            entry = metric.entry(mean, more=" Mean over labels.")
            judged.append(Judged(f"{metric.name}[{'-'.join(modalities)}]", metric, values, entry))
    return judged


def log_at_depth(x: CSR, depth: float) -> CSR:
    """Scale cells to a library size and take log1p; cells without counts stay empty."""
    from scipy import sparse  # imported here: listing the metrics costs nothing

    totals = np.asarray(x.sum(1), np.float64).ravel()
    factor = np.divide(depth, totals, out=np.zeros_like(totals), where=totals > 0)
    scaled = sparse.csr_matrix(sparse.diags_array(factor) @ x)
    scaled.data = np.log1p(scaled.data)
    return scaled


def principal_axes(
    fitted_on: CSR, *, n_components: int, seed: int
) -> tuple[IntArray, DoubleArray, DoubleArray]:
    """Compute principal components of cells from their most variable features.

    Returns:
        The features, at most 3,000, in order; their means `(n_features,)`; axes `(n_features, k)`, a single
        one of zeros where there are too few cells or features.
    """
    from sklearn.decomposition import PCA

    mean, variance = moments(fitted_on)
    chosen = np.sort(np.argsort(-variance, kind="stable")[:MOST_FEATURES])
    n, p = fitted_on.shape[0], len(chosen)
    k = min(n_components, n - 1, p - 1)
    if k < 1:
        return chosen, mean[chosen], np.zeros((p, 1))
    model = PCA(k, svd_solver="arpack" if k < min(n, p) else "auto", random_state=seed)
    model.fit(fitted_on[:, chosen].astype(np.float64))
    return chosen, np.asarray(model.mean_).ravel(), np.asarray(model.components_.T)


def project(fitted_on: CSR, *others: CSR, seed: int) -> tuple[DoubleArray, ...]:
    """Project cells on the principal components of the first matrix's most variable features, `(n, k)`."""
    chosen, mean, axes = principal_axes(fitted_on, n_components=N_COMPONENTS, seed=seed)
    return tuple(np.asarray(x[:, chosen].astype(np.float64) @ axes - mean @ axes) for x in others)


def moments(x: CSR) -> tuple[DoubleArray, DoubleArray]:
    """Mean and variance of every feature, `(p,)`."""
    mean = np.asarray(x.mean(0), np.float64).ravel()
    square = np.asarray(x.multiply(x).mean(0), np.float64).ravel()
    return mean, np.maximum(square - mean**2, 0)
