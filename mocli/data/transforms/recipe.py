"""Transforms fitted on training cells and saved with the model, and how they respond to one feature.

`Recipe` makes the encoder features of one modality, `LinkRecipe` the linked
features of one side of a link table. Both turn raw values into a
`FeatureMatrix`, treat new cells exactly as the training cells were treated, and
go through `state()` and `from_state()` without loss.

In a response the depth of a cell is held fixed: its normalising factor stays that of the values measured, so
that lowering one feature does not raise all others. A recipe is then a function of every single value,
followed by something linear (components of an SVD, or nothing).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from mocli.data.bundle import FeatureMatrix
from mocli.data.packed import some_rows
from mocli.data.transforms.components import SCALE, Components, Lsi
from mocli.data.transforms.transform import (
    DENSE_ABOVE,
    Scaler,
    Transform,
    canonical,
    column_means,
    density,
    find_transform,
    layout,
    median_total,
    moments,
    occurrences,
    packed,
)
from mocli.errors import UsageError
from mocli.types import CSR, DoubleArray, FloatArray, IntArray, ModalityKind, ValueKind

HVG_CELLS = 30_000
# Logs of counts or intensities stay far below this; their expm1 must not overflow.
_LOG_LIKE_MAX = 30.0

_DEFAULTS = {
    ModalityKind.RNA: ("lognorm", "identity", "lognorm", "identity"),
    ModalityKind.ATAC: ("tfidf-lsi", "tfidf-lsi", "tfidf-lsi", "identity"),
    ModalityKind.PROT: ("clr", "identity", "arcsinh", "identity"),
    ModalityKind.CYTO: ("arcsinh", "identity", "arcsinh", "identity"),
    ModalityKind.METHYL: ("identity", "identity", "identity", "identity"),
    ModalityKind.OTHER: ("lognorm", "identity", "arcsinh", "identity"),
}
_COLUMNS = (ValueKind.COUNTS, ValueKind.LOGNORM, ValueKind.POSITIVE, ValueKind.REAL)


def default_transform(kind: ModalityKind, values: ValueKind, *, max_value: float | None = None) -> str:
    """Return the transform for a kind of modality whose numbers look like `values`.

    ======== ========= ========= ========= ========
    kind     counts    lognorm   positive  real
    ======== ========= ========= ========= ========
    rna      lognorm   identity  lognorm   identity
    atac     tfidf-lsi tfidf-lsi tfidf-lsi identity
    prot     clr       identity  arcsinh   identity
    cyto     arcsinh   identity  arcsinh   identity
    methyl   identity  identity  identity  identity
    other    lognorm   identity  arcsinh   identity
    ======== ========= ========= ========= ========

    Values that are already on a log scale, or have negatives, are used as they are. Accessibility that was
    smoothed or weighted but is not negative still gains from TF-IDF, as its depth remains in it. Counts of
    an `other` modality whose `max_value` is 1 are binary, and stay so.
    """
    if kind is ModalityKind.OTHER and values is ValueKind.COUNTS and max_value is not None and max_value <= 1:
        return "identity"
    return _DEFAULTS[kind][_COLUMNS.index(values)]


@dataclass(frozen=True)
class RecipeOptions:
    """How to transform one modality; raises `UsageError` for invalid values.

    Attributes:
        n_top: Number of highly variable features to keep; None keeps all. `tfidf-lsi` always uses all.
        seen_in: Share of the cells, or from 1 on their number, in which a feature must be detected (not 0)
            before the highly variable ones are chosen; None for any. `tfidf-lsi` uses all.
        n_components: Components of the SVD of `tfidf-lsi`, before those that follow depth go.
        target_sum: Total to which `lognorm` scales a cell; None is the median total of the training cells.
        cofactor: Divisor of `arcsinh`.
        standardise: Mean 0 and standard deviation 1 per feature; never for `counts`.
        clip: Bound on absolute standardised values, or None.
        n_pcs: Principal components that replace the features where those are more; None or 0 keeps the
            features.
        seed: For the SVD, and for sampling when there are very many cells.
    """

    transform: str
    n_top: int | None = 3000
    n_components: int = 50
    target_sum: float | None = None
    cofactor: float = 5.0
    standardise: bool = True
    clip: float | None = None
    n_pcs: int | None = None
    seed: int = 0
    seen_in: float | None = None

    def __post_init__(self) -> None:
        find_transform(self.transform)
        for name in ("n_top", "n_components", "target_sum", "cofactor", "clip", "seen_in"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"'{name}' must be positive", field=name, found=value)


def seen(x: CSR, seen_in: float | None) -> IntArray:
    """Return the columns of raw values that are not 0 in so many cells: a share below 1, else a number."""
    if seen_in is None:
        return np.arange(x.shape[1], dtype=np.int64)
    n_seen = occurrences(x)
    enough = n_seen / max(x.shape[0], 1) >= seen_in if seen_in < 1 else n_seen >= seen_in
    return np.flatnonzero(enough).astype(np.int64)


def highly_variable(x: CSR, options: RecipeOptions) -> IntArray:
    """Return the `n_top` most variable of the columns of raw values that are `seen`, in their own order.

    Values on a log scale, and counts after `lognorm`, are ranked by scanpy's
    normalised dispersion (flavour `seurat`); all others by the variance of the
    transformed values. Above 30,000 cells a seeded sample of so many is ranked.
    """
    n_top = options.n_top
    transform = find_transform(options.transform)
    if transform.reduces:
        return np.arange(x.shape[1], dtype=np.int64)
    among = seen(x, options.seen_in)
    if n_top is None or n_top >= len(among):
        return among
    x = some_rows(x, HVG_CELLS, seed=options.seed)
    target = options.target_sum if options.target_sum is not None else median_total(x)
    values = transform.readable.forward(x, target_sum=target, cofactor=options.cofactor, columns=among)
    low, high = (values.data.min(), values.data.max()) if values.nnz else (0.0, 0.0)
    log_like = transform.sums_counts or (transform.keeps_values and low >= 0 and high < _LOG_LIKE_MAX)
    if log_like and x.shape[0] > 1:
        import scanpy as sc
        from anndata import AnnData

        table = sc.pp.highly_variable_genes(
            AnnData(values), flavor="seurat", n_top_genes=n_top, inplace=False
        )
        # Ranked here, because scanpy's own flag passes all ties at the cut-off.
        score = table["dispersions_norm"].to_numpy(dtype=np.float64, na_value=-np.inf)
    else:
        score = moments(values)[1]
    return among[np.sort(np.argsort(-score, kind="stable")[:n_top])]


@dataclass(frozen=True, eq=False)
class Recipe:
    """A fitted transform of one modality.

    Attributes:
        feature_names: Names of the scaled features: the selected ones in their original order, or `lsi_1`,
            `lsi_2`, ...
        n_vars: Number of input features.
        selected: Input columns used, `(n_selected,)`, ascending.
        target_sum: Total that `lognorm` scales to, None for other transforms.
        dense: Whether the scaled features are a dense array (above half of the values stored).
        components: The projection of the scaled features, or None.
        means: Mean over the training cells of features that are not standardised, `(n_selected,)`: the values
            of a feature that new cells were not measured for.
    """

    options: RecipeOptions
    feature_names: tuple[str, ...]
    n_vars: int
    selected: IntArray
    target_sum: float | None
    dense: bool
    scaler: Scaler | None
    lsi: Lsi | None
    components: Components | None = None
    means: FloatArray | None = None

    @classmethod
    def fit(
        cls, x: CSR, *, var_names: Sequence[str], options: RecipeOptions, keep: IntArray | Sequence[int] = ()
    ) -> Recipe:
        """Fit on the raw values of the training cells, `(n_obs, n_vars)`; `x` is not changed.

        `keep`: columns selected besides the highly variable ones. Raises `InputError`: values that are not
        finite, or negative where the transform forbids it.
        """
        if x.shape[1] != len(var_names):
            raise ValueError(f"{x.shape[1]} columns but {len(var_names)} names")
        x = canonical(x)
        transform = find_transform(options.transform)
        transform.check(x)
        selected = np.union1d(highly_variable(x, options), np.asarray(keep, dtype=np.int64))
        lsi = None
        target_sum = None
        if transform.reduces:
            lsi = Lsi.fit(x, n_components=options.n_components, seed=options.seed)
            values: CSR | FloatArray = lsi.apply(x)
            dense = True
        else:
            if transform.scales_to_total:
                target_sum = options.target_sum or median_total(x)
            values = transform.forward(x, target_sum=target_sum, cofactor=options.cofactor, columns=selected)
            dense = density(values) > DENSE_ABOVE
        scale = options.standardise and not transform.is_for_counts
        fitted = cls(
            options=options,
            feature_names=tuple(var_names[j] for j in selected) if lsi is None else lsi.names,
            n_vars=x.shape[1],
            selected=selected,
            target_sum=target_sum,
            dense=dense,
            scaler=Scaler.fit(values, clip=options.clip) if scale else None,
            lsi=lsi,
            means=None if scale or lsi is not None else column_means(values).astype(np.float32),
        )
        n_pcs = options.n_pcs
        if not n_pcs or values.shape[1] <= n_pcs or min(values.shape) < 3:
            return fitted
        # laid out as in `apply`: the offset is part of a dense matrix's mean, not of a sparse one's
        laid_out = values if lsi is not None else layout(values, dense=dense)
        components = Components.fit(fitted.scale(laid_out), n_components=n_pcs, seed=options.seed)
        return replace(fitted, components=components)

    def apply(self, x: CSR, absent: IntArray | None = None) -> FeatureMatrix:
        """Transform raw values `(n, n_vars)` to `(n, n_out)`; `x` is not changed.

        The columns of `x` are those of `fit`, in their order.

        `absent`: columns that these cells were not measured for; they count as the mean of the training
        cells, counts at the depth of the cell. For `tfidf-lsi` they count as no signal.
        """
        if x.shape[1] != self.n_vars:
            raise ValueError(f"{x.shape[1]} columns, fitted on {self.n_vars}")
        x = canonical(x)
        self.transform.check(x)
        if self.lsi is not None:
            values: CSR | FloatArray = self.lsi.apply(x)
        else:
            values = layout(
                self.transform.forward(
                    x, target_sum=self.target_sum, cofactor=self.options.cofactor, columns=self.selected
                ),
                dense=self.dense,
            )
        scaled = self.scale(values)
        missing = np.zeros(0, np.int64)
        if absent is not None and self.lsi is None:
            missing = np.flatnonzero(np.isin(self.selected, absent))
        if self.components is not None:
            return self.components.apply(scaled, missing)
        if not len(missing):
            return packed(scaled)
        if self.transform.is_for_counts and self.means is not None:
            return replace(scaled, values=at_shares(scaled.values, missing, self.means))
        return at_mean(scaled, missing, self.means)

    @property
    def transform(self) -> Transform:
        """The transform that is fitted."""
        return find_transform(self.options.transform)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the output, `(n_out,)`: the features, or `pc_1`, `pc_2`, ..."""
        return self.feature_names if self.components is None else self.components.names

    def scale(self, values: CSR | FloatArray) -> FeatureMatrix:
        """Standardise normalised values; the array is overwritten and becomes part of the result."""
        if self.scaler is None:
            return FeatureMatrix(values, self.feature_names)
        return self.scaler.apply(values, self.feature_names)

    def unscale(self, values: FloatArray) -> FloatArray:
        """Return standardised `(n, n_out)` to the scale before standardisation (log1p, CLR, ...)."""
        return values if self.scaler is None else self.scaler.unscale(values)

    @property
    def constant_names(self) -> tuple[str, ...]:
        """Features without any spread over the training cells; they are columns of zeros."""
        if self.scaler is None:
            return ()
        return tuple(self.feature_names[j] for j in np.flatnonzero(self.scaler.constant))

    @property
    def n_constant(self) -> int:
        """Number of features without any spread over the training cells."""
        return len(self.constant_names)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what `from_state` needs: a JSON-able part and arrays by name."""
        options = asdict(self.options)
        if self.options.seen_in is None:
            # so that earlier versions read the file
            del options["seen_in"]
        json = {
            "options": options,
            "names": list(self.feature_names),
            "n_vars": self.n_vars,
            "target_sum": self.target_sum,
            "dense": self.dense,
            "scaled": self.scaler is not None,
            "projected": self.components is not None,
        }
        arrays: dict[str, Any] = {"selected": self.selected}
        if self.means is not None:
            arrays["means"] = self.means
        for part in (self.scaler, self.lsi, self.components):
            arrays |= {} if part is None else part.arrays()
        return json, arrays

    @classmethod
    def from_state(cls, json: Mapping[str, Any], arrays: Mapping[str, Any]) -> Recipe:
        """Rebuild; the result applies bit for bit as the original."""
        options = RecipeOptions(**json["options"])
        return cls(
            options=options,
            feature_names=tuple(json["names"]),
            n_vars=json["n_vars"],
            selected=np.asarray(arrays["selected"], dtype=np.int64),
            target_sum=json["target_sum"],
            dense=json["dense"],
            scaler=Scaler.from_arrays(arrays, clip=options.clip) if json["scaled"] else None,
            lsi=Lsi.from_arrays(arrays) if find_transform(options.transform).reduces else None,
            components=Components.from_arrays(arrays) if json.get("projected") else None,
            means=arrays.get("means"),
        )


LEAST_FILLED = 0.05
"""Counts of features whose mean is a smaller part of the average feature's are left at 0."""


def at_mean(features: FeatureMatrix, columns: IntArray, means: FloatArray | None) -> FeatureMatrix:
    """Set columns to the training cells' mean for every cell; of standardised features it is 0."""
    fill = np.zeros(len(columns), np.float32) if means is None else means[columns]
    values, offset = features.values.copy(), features.offset
    if isinstance(values, np.ndarray):
        values[:, columns] = fill
    else:
        values.data[np.isin(values.indices, columns)] = 0
    if offset is not None or (fill.any() and not isinstance(values, np.ndarray)):
        offset = np.zeros(features.n_vars, np.float32) if offset is None else offset.copy()
        offset[columns] = 0 if isinstance(values, np.ndarray) else fill
    return replace(features, values=values, offset=offset)


def at_shares(values: CSR | FloatArray, columns: IntArray, means: FloatArray) -> CSR | FloatArray:
    """Set columns of counts to their expectation at the cell's depth, which its other counts give."""
    measured = np.ones(len(means), bool)
    measured[columns] = False
    share_measured: float = float(means[measured].sum(dtype=np.float64)) or 1.0
    if isinstance(values, np.ndarray):
        depth = values[:, measured].sum(axis=1, dtype=np.float64) / share_measured
        filled = values.copy()
        filled[:, columns] = np.outer(depth, means[columns])
        return filled
    x = sparse.csr_matrix(values)
    depth = np.asarray(x[:, np.flatnonzero(measured)].sum(axis=1), np.float64).ravel() / share_measured
    # features hardly ever seen are left at 0: thousands of tiny values would make the matrix dense
    worth = columns[means[columns] > LEAST_FILLED * means.mean()]
    place = sparse.csr_matrix(
        (means[worth], (np.zeros(len(worth), np.int64), worth)), shape=(1, len(means)), dtype=np.float32
    )
    keep = sparse.diags(measured.astype(np.float32))
    completed = sparse.csr_matrix(x @ keep + sparse.csr_matrix(depth[:, None].astype(np.float32)) @ place)
    completed.sort_indices()
    return completed


@dataclass(frozen=True, eq=False)
class RecipeResponse:
    """How a recipe responds to changes of single raw values.

    Attributes:
        place: Position of every input feature among those used, -1 for none, `(n_vars,)`.
        directions: How the output moves with a used feature's value, `(n_used, n_out)`; None where the values
            are the output.
    """

    recipe: Recipe
    place: IntArray
    directions: FloatArray | None

    @classmethod
    def of(cls, recipe: Recipe) -> RecipeResponse:
        """Take a fitted recipe apart."""
        used = np.arange(recipe.n_vars) if recipe.lsi is not None else recipe.selected
        place = np.full(recipe.n_vars, -1, dtype=np.int64)
        place[used] = np.arange(len(used))
        directions: FloatArray | None = None
        if recipe.lsi is not None:
            directions = np.ascontiguousarray(recipe.lsi.components.T)
            if recipe.scaler is not None:
                if recipe.scaler.clip is not None:
                    raise ValueError("clipped components do not respond in closed form")
                directions = directions * np.where(recipe.scaler.constant, 0, 1 / recipe.scaler.std)
        if recipe.components is not None:
            loadings = recipe.components.loadings
            directions = loadings if directions is None else directions @ loadings
        return cls(recipe, place, None if directions is None else directions.astype(np.float32))

    @property
    def used(self) -> IntArray:
        """Input features that the output depends on, `(n_used,)`."""
        return np.flatnonzero(self.place >= 0)

    def factor(self, x: CSR) -> DoubleArray:
        """Return the normalising factor of each cell, `(n,)`; 1 where the recipe has none."""
        target = self.recipe.target_sum if self.recipe.lsi is None else SCALE
        factor = self.recipe.transform.factor(x, target)
        return np.ones(x.shape[0]) if factor is None else factor

    def values(self, raw: DoubleArray, factor: DoubleArray, used: IntArray) -> DoubleArray:
        """Return the input of the linear part for raw values.

        `raw`, `factor`, `used`: values, factors of their cells, positions of their features among those used,
        `(n,)`.
        """
        recipe, scaler = self.recipe, self.recipe.scaler
        idf = 1.0 if recipe.lsi is None else recipe.lsi.idf[used]
        raw = recipe.transform.element(raw * factor * idf, recipe.options.cofactor)
        if recipe.lsi is not None:
            return raw
        if scaler is None:
            return raw
        scaled: DoubleArray = (raw - scaler.mean[used]) / scaler.std[used]
        if scaler.clip is not None:
            scaled = np.clip(scaled, -scaler.clip, scaler.clip)
        return np.where(scaler.constant[used], 0.0, scaled)
