"""Sets of cells aligned in closed form: coupled by optimal transport of linked features, then mapped.

Sinkhorn's iterations (Cuturi 2013) on exp(-cost / t) give every cell partners in equal shares, so that no
cell is a hub and none is left out; with a dummy on either side some of the mass may stay without a partner
(partial transport, Chapel et al. 2020).

(1) cost of two cells: 1 - cosine of linked features, that of cells near the mean damped, over its standard
    deviation;
(2) entropic optimal transport gives a soft coupling P, in which every cell has the same weight;
(3) canonical correlation with P in place of pairs, components scaled by their correlations, rows to
    length 1 (Hotelling 1936, doi:10.1093/biomet/28.3-4.321); it needs only products of features over
    coupled cells;
(4) once more with a cost that is partly that of the latent coordinates. Two things are found before, in five
folds: cells are aligned by four fifths of the linked features, and the held-out fifth is compared between
cells that then lie together. The agreement on a link is its weight, so that links that do not hold in these
data lose it. And where agreement is better when cells need not all have the same weight, they need not:
samples of different composition are aligned as such, without any pair or label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from mocli.nn.alignment_settings import AlignmentSettings
from mocli.nn.threads import column_means, one_thread, total

TINY = 1e-30


def cosine_cost(a: Tensor, b: Tensor, *, damping: float = 0) -> Tensor:
    """1 - cosine of rows, over its standard deviation, `(n_a, n_b)`.

    So the softness of a coupling does not depend on the distance between the modalities.

    Args:
        a, b: `(n_a, s)` and `(n_b, s)`; pairs with a row of zeros do not count in the deviation.
        damping: Lengths are divided by sqrt(length^2 + damping x mean length^2 of the rows): rows near the
            mean count less, while a plain cosine would trust the direction of the shortest row as much as any
            other.
    """
    cost = 1 - _shortened(a, damping) @ _shortened(b, damping).T
    measured = a.any(1)[:, None] & b.any(1)[None, :]
    n = measured.sum()
    mean = total(cost * measured) / n.clamp_min(1)
    variance = total(((cost - mean) * measured).square()) / (n - 1).clamp_min(1)
    return cost / variance.sqrt().clamp_min(1e-6)


def _shortened(x: Tensor, damping: float) -> Tensor:
    if not damping:
        return F.normalize(x, dim=1)
    square = x.square().sum(1, keepdim=True)
    mean = square.sum() / x.any(1).sum().clamp_min(1)
    return x / (square + damping * mean).sqrt().clamp_min(TINY)


def soft_assignment(
    a: Tensor, b: Tensor, temperature: float, n_iter: int = 30, evenness: float = 1
) -> Tensor:
    """Soft partners by cosine: entropic optimal transport between two minibatches.

    Args:
        a, b: `(n_a, s)` and `(n_b, s)`; zero rows are ignored.
        evenness: As in `couple`.

    Returns:
        Weights `(n_a, n_b)` that sum to 1, or to 0 if there is nothing to assign.
    """
    usable = a.any(1), b.any(1)
    return couple(cosine_cost(a, b), *usable, temperature=temperature, n_iter=n_iter, evenness=evenness)


def couple(
    cost: Tensor,
    usable_a: Tensor,
    usable_b: Tensor,
    *,
    temperature: float,
    n_iter: int,
    unmatched: float = 0,
    evenness: float = 1,
) -> Tensor:
    """Entropic optimal transport between two sets of cells, in which every cell of a set weighs the same.

    Below an `evenness` of 1 cells of a kind that is commoner in one set share partners with each other
    instead of being pushed to those of another kind (unbalanced transport: Chizat et al. 2018,
    doi:10.1090/mcom/3303).

    Args:
        cost: `(n_a, n_b)`, best with a standard deviation of 1.
        usable_a, usable_b: Booleans, `(n_a,)` and `(n_b,)`: cells that take part.
        temperature: Softness, on the scale of the costs.
        n_iter: Iterations, each of which sets the sums of rows and then of columns; those of columns are
            exact.
        unmatched: Share of the mass of either side that goes to a dummy of the other side, to which all cells
            lie equally far: those whose best partners are the worst give most of theirs.

    Returns:
        Weights `(n_a, n_b)` that sum to 1, or to 0 if there is nothing to couple.
    """
    least = cost.amin(1, keepdim=True)
    kernel = torch.exp((least - cost) / temperature) * (usable_a[:, None] & usable_b[None, :])
    share_a, share_b = (u.to(cost.dtype) / u.sum().clamp_min(1) for u in (usable_a, usable_b))
    v = usable_b.to(cost.dtype)
    u = torch.zeros_like(share_a)
    # a row's least cost is taken off above: what compares rows with each other needs it again
    rise = ((least - least.mean()) / temperature).squeeze(1).clamp(-60, 60)
    if evenness < 1:
        row_scale = torch.exp((evenness - 1) * rise)
        for _ in range(n_iter):
            u = (share_a / (kernel @ v).clamp_min(TINY)).pow(evenness) * row_scale
            v = (share_b / (kernel.T @ u).clamp_min(TINY)).pow(evenness)
        return _of_one(u[:, None] * kernel * v)
    if not unmatched:
        for _ in range(n_iter):
            u = share_a / (kernel @ v).clamp_min(TINY)
            v = share_b / (kernel.T @ u).clamp_min(TINY)
        return _of_one(u[:, None] * kernel * v)
    # to the dummies all rows, and all columns, are equally far
    to_dummy, from_dummy = torch.exp(rise) * usable_a, usable_b.to(cost.dtype)
    rest_a = rest_b = cost.new_ones(())
    for _ in range(n_iter):
        u = share_a / (kernel @ v + unmatched * rest_b * to_dummy).clamp_min(TINY)
        rest_a = 1 / (from_dummy @ v).clamp_min(TINY)
        v = share_b / (kernel.T @ u + unmatched * rest_a * from_dummy).clamp_min(TINY)
        rest_b = 1 / (to_dummy @ u).clamp_min(TINY)
    return _of_one(u[:, None] * kernel * v)


def _of_one(plan: Tensor) -> Tensor:
    return plan / total(plan).clamp_min(TINY)


FOLDS = 5
WEIGHED_ON = 1000
"""Cells of each set among which links are weighed."""
NEAREST = 15
"""Cells of the other set over which held-out links are averaged."""
EVENNESS = (1, 0.9, 0.8, 0.7, 0.6, 0.5)
"""What is tried where none is given, as long as links agree better and better."""
CLEARLY, LEAST_GAIN = 2, 0.005
"""1 stays where another is not better by so many standard errors, and by so much of a correlation."""

SetPair = tuple[int, int]
"""Two sets by their numbers."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Linear maps of sets of cells to one space, z = x W - shift.

    Attributes:
        maps, shifts: `(p_m, k)` and `(k,)` of every set.
        correlations: `(k,)`.
        agreement: Mean weight of the links of each edge; empty where links are not weighed.
        evenness: How evenly the cells of each edge share partners, 1 as evenly as can be.
    """

    maps: Sequence[Tensor]
    shifts: Sequence[Tensor]
    correlations: Tensor
    agreement: Sequence[float] = ()
    evenness: Sequence[float] = ()

    def place(self, m: int, x: Tensor) -> Tensor:
        """`(B, p_m)` of a set to `(B, k)`, rows of length 1."""
        return F.normalize(x @ self.maps[m] - self.shifts[m], dim=1)

    def figures(self) -> dict[str, float]:
        """Return how well the maps fit: correlations, the least evenness of partners, agreement of links."""
        figures = {"correlation": float(self.correlations.mean())}
        figures["first_correlation"] = float(self.correlations[0])
        if self.evenness:
            figures["evenness"] = min(self.evenness)
        if self.agreement:
            figures["link_agreement"] = sum(self.agreement) / len(self.agreement)
        return figures


def align(
    points: Sequence[Tensor],
    linked: Mapping[SetPair, tuple[Tensor, Tensor]],
    settings: AlignmentSettings,
    generator: Generator,
) -> Alignment:
    """Align sets of cells.

    Args:
        points: `(n_m, p_m)` of each set.
        linked: Linked features of two sets, `(n_a, s)` and `(n_b, s)`, by their numbers; rows of zeros are
            ignored.
        generator: Random generator on the CPU.
    """
    links, agreement, evenness = {}, [], {}
    for (i, j), (a, b) in linked.items():
        held = _HeldOut.draw((points[i], points[j]), (a, b), settings, generator)
        evenness[i, j], agree = held.choose()
        weight = a.new_ones(a.shape[1])
        if settings.weigh_links:
            agreement.append(float(agree.mean()))
            weight = (settings.least_link_weight + agree.clamp_min(0)).sqrt()
        links[i, j] = a * weight, b * weight
    costs = {edge: cosine_cost(a, b, damping=settings.damping) for edge, (a, b) in links.items()}
    usable = {edge: (a.any(1), b.any(1)) for edge, (a, b) in links.items()}

    def fit(costs: Mapping[SetPair, Tensor]) -> Alignment:
        plans = {edge: _couple(cost, *usable[edge], settings, evenness[edge]) for edge, cost in costs.items()}
        maps = canonical_maps(points, plans, settings.n_components, settings.ridge)
        return Alignment(*maps, agreement, list(evenness.values()))

    alignment = fit(costs)
    for _ in range(settings.n_rounds - 1):
        z = [alignment.place(m, x) for m, x in enumerate(points)]
        alignment = fit(
            {
                (a, b): torch.lerp(cost, cosine_cost(z[a], z[b]), settings.latent_weight)
                for (a, b), cost in costs.items()
            }
        )
    return alignment


def found_evenness(
    points: tuple[Tensor, Tensor], linked: tuple[Tensor, Tensor], generator: Generator
) -> float:
    """Return how evenly the cells of two sets share partners, as links held out tell.

    `points` are `(n_a, p_a)` and `(n_b, p_b)`, `linked` `(n_a, s)` and `(n_b, s)`.
    """
    return _HeldOut.draw(points, linked, AlignmentSettings(), generator).choose()[0]


def draw(n: int, most: int, generator: Generator) -> Tensor:
    """Return row numbers in order, all or `most` drawn at random, on the host."""
    return torch.arange(n) if n <= most else torch.randperm(n, generator=generator)[:most].sort().values


def _couple(
    cost: Tensor, usable_a: Tensor, usable_b: Tensor, s: AlignmentSettings, evenness: float
) -> Tensor:
    return couple(
        cost,
        usable_a,
        usable_b,
        temperature=s.temperature,
        n_iter=s.n_iter,
        unmatched=s.unmatched,
        evenness=evenness,
    )


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """Some cells of two sets and how to align them.

    Attributes:
        x: `(n_a, p_a)` and `(n_b, p_b)`.
        a, b: Their linked features, `(n_a, n_links)` and `(n_b, n_links)`.
    """

    x: tuple[Tensor, Tensor]
    a: Tensor
    b: Tensor
    settings: AlignmentSettings

    @classmethod
    def draw(
        cls,
        points: tuple[Tensor, Tensor],
        linked: tuple[Tensor, Tensor],
        settings: AlignmentSettings,
        generator: Generator,
    ) -> _HeldOut:
        """Draw among the cells that have linked features."""
        rows = []
        for side in linked:
            usable = side.any(1).nonzero().squeeze(1)
            rows.append(usable[draw(len(usable), WEIGHED_ON, generator).to(usable.device)])
        x, y = (of[which] for of, which in zip(points, rows, strict=True))
        a, b = (of[which] for of, which in zip(linked, rows, strict=True))
        return cls((x, y), a, b, settings)

    def choose(self) -> tuple[float, Tensor]:
        """Return the evenness and the agreement of each link under it, `(n_links,)`."""
        n, given = self.a.shape[1], self.settings.evenness
        if n < 2 or not min(len(self.a), len(self.b)):  # a single link has no other to be held against
            return given or 1, self.a.new_ones(n)
        even = self._agreement(given or 1)
        if given or n < FOLDS:  # too few links to choose by
            return given or 1, even
        best, agreement = 1.0, even
        for evenness in EVENNESS[1:]:
            uneven = self._agreement(evenness)
            if uneven.mean() <= agreement.mean():
                break
            best, agreement = evenness, uneven
        gain = agreement - even
        clear = float(gain.mean()) > max(LEAST_GAIN, CLEARLY * float(gain.std()) / n**0.5)
        return (best, agreement) if clear else (1, even)

    def _agreement(self, evenness: float) -> Tensor:
        """Correlation of each linked feature with its mean over the nearest cells of the other set.

        Nearest after an alignment by other links, `(n_links,)`; the mean of both directions.
        """
        a, b, s = self.a, self.b, self.settings
        agreement = a.new_zeros(a.shape[1])
        for fold in range(min(FOLDS, len(agreement))):
            out = slice(fold, None, FOLDS)
            other_links = [j for j in range(len(agreement)) if j % FOLDS != fold]
            side_a, side_b = a[:, other_links], b[:, other_links]
            cost = cosine_cost(side_a, side_b, damping=s.damping)
            plan = _couple(cost, side_a.any(1), side_b.any(1), s, evenness)
            alignment = Alignment(*canonical_maps(self.x, {(0, 1): plan}, s.n_components, s.ridge))
            cosine = alignment.place(0, self.x[0]) @ alignment.place(1, self.x[1]).T
            agreement[out] = (
                column_correlations(a[:, out], _mean_of_nearest(cosine, b[:, out]))
                + column_correlations(b[:, out], _mean_of_nearest(cosine.T, a[:, out]))
            ) / 2
        return agreement


def _mean_of_nearest(cosine: Tensor, values: Tensor) -> Tensor:
    """`(n_a, n_b)` and `(n_b, s)` to the mean of the nearest rows of values, `(n_a, s)`."""
    return values[cosine.topk(min(NEAREST, len(values)), dim=1).indices].mean(1)


ROUNDING = 1e-6
"""A spread below this share of the largest value is float32 noise."""


def canonical_maps(
    points: Sequence[Tensor], couplings: Mapping[tuple[int, int], Tensor], n_components: int, ridge: float
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Linear maps of several sets of cells to one space in which coupled cells lie together.

    The leading eigenvectors of the matrix whose blocks are Ca^-1/2 A' P B Cb^-1/2, where Ca sums the
    squares of a set's cells over all its couplings: of two sets the canonical vectors. Components are
    scaled by their correlation and, in each set, by their variance there: a set unrelated to the others
    lies near 0. The largest weight of each in the first set is positive.

    Args:
        points: `(n_m, p_m)` of each set.
        couplings: By pairs of sets, `(n_a, n_b)`, each of a sum of 1.
        ridge: Added to covariances, as a share of the mean variance.

    Returns:
        Maps `(p_m, k)` and shifts `(k,)` of every set, z = x W - shift, and the correlations `(k,)`, 1 where
        all coupled cells are at one position; k is at most the least number of features.
    """
    weights = [x.new_zeros(len(x)) for x in points]
    for (a, b), plan in couplings.items():
        weights[a] = weights[a] + plan.sum(1)
        weights[b] = weights[b] + plan.sum(0)
    means = [(w / w.sum().clamp_min(TINY)) @ x for w, x in zip(weights, points, strict=True)]
    centred = [(x - mean).double() for x, mean in zip(points, means, strict=True)]
    roots = [
        _inverse_root((x * w.double()[:, None]).T @ x, ridge) for x, w in zip(centred, weights, strict=True)
    ]
    ends = torch.tensor([0, *(x.shape[1] for x in points)]).cumsum(0).tolist()
    blocks = centred[0].new_zeros(ends[-1], ends[-1])
    for (a, b), plan in couplings.items():
        crossed = centred[a].T @ (plan.double() @ centred[b])
        with one_thread():
            product = roots[a] @ crossed @ roots[b]
        blocks[ends[a] : ends[a + 1], ends[b] : ends[b + 1]] = product
        blocks[ends[b] : ends[b + 1], ends[a] : ends[a + 1]] = product.T
    with one_thread():
        values, vectors = torch.linalg.eigh(blocks)
    k = min(n_components, *(x.shape[1] for x in points))
    correlations, vectors = values.flip(0)[:k].clamp_min(0), vectors.flip(1)[:, :k]
    lead = vectors[: ends[1]]
    sign = torch.sign(lead.gather(0, lead.abs().argmax(0, keepdim=True)))
    vectors = vectors * torch.where(sign == 0, torch.ones_like(sign), sign)
    # the sum of squares over all couplings of both ends: a variance of 1 where all cells agree
    scale = correlations * (2 * len(couplings)) ** 0.5
    with one_thread():
        maps = [root @ vectors[ends[m] : ends[m + 1]] * scale for m, root in enumerate(roots)]
    shifts = [mean.double() @ weight for mean, weight in zip(means, maps, strict=True)]
    kind = points[0].dtype
    return [w.to(kind) for w in maps], [s.to(kind) for s in shifts], correlations.to(kind)


def _inverse_root(covariance: Tensor, ridge: float) -> Tensor:
    """C^-1/2 with a ridge of a share of the mean variance; directions without variance stay 0."""
    with one_thread():
        values, vectors = torch.linalg.eigh(covariance)
    mean = values.mean().clamp_min(0)
    values = values.clamp_min(0) + ridge * mean
    inverse = torch.where(values > 1e-9 * mean.clamp_min(TINY), values.clamp_min(TINY).rsqrt(), 0.0 * values)
    with one_thread():
        return (vectors * inverse) @ vectors.T


def column_correlations(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each column of two matrices `(n, s)`, `(s,)`.

    0 where a column is constant up to rounding.
    """
    return (_unit_columns(a) * _unit_columns(b)).sum(0)


def _unit_columns(x: Tensor) -> Tensor:
    least = ROUNDING * x.abs().amax(0) * len(x) ** 0.5
    x = x - column_means(x)
    norm = x.norm(dim=0)
    return torch.where(norm > least, x / norm.clamp_min(TINY), torch.zeros_like(x))
