"""The interface of models: traits, parameters, training phases, capabilities.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    TypeVar,
    runtime_checkable,
)

from mocli.types import Json, ModalityKind, Pairing, Preset, Task

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from mocli.data.bundle import Edge, Minibatch, MultiOmics

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Traits:
    """The needs and capabilities of a model; printed by `mocli models`.

    Attributes:
        expects: What each kind of modality must be before the model's own transform: `"counts"`, `"any"`.
            Kinds that are absent are not supported.
        pairings, rank: Pairings the model accepts, and by pairing its position, from 1, among the models that
            `--model auto` takes: the first that fits. Its evidence is tests/benchmarks/auto_choice.py.
        params, model: Import paths (`package.module:Class`), so that reading traits stays cheap.
        uses_links: Whether feature links change anything; if not, they are ignored with a message.
        links_replace_pairs, uses_sets: Whether links are needed only where no cell was measured in two
            modalities; whether gene sets are accepted.
        likelihoods: By kind of modality the likelihoods its values may have, the first that fits them being
            the default; empty for models that accept one kind of values only.
        backed: Whether it can be trained on cells that stay on disk.
        selects_features: Whether highly variable features are chosen by default; if not, all are kept.
    """

    name: str
    title: str
    doi: str
    summary: str
    pairings: frozenset[Pairing]
    rank: Mapping[Pairing, int]
    expects: Mapping[ModalityKind, str]
    min_modalities: int
    max_modalities: int | None
    needs_links: bool
    tasks: frozenset[Task]
    params: str
    model: str
    uses_links: bool = True
    links_replace_pairs: bool = False
    uses_sets: bool = False
    likelihoods: Mapping[ModalityKind, tuple[str, ...]] = field(default_factory=dict)
    selects_features: bool = True
    uses_batches: bool = False  # though without covariates
    solves: bool = False  # its weights have a closed form: there are no steps
    leads: frozenset[Task] = frozenset()  # tasks that it does first
    backed: bool = False


@dataclass(frozen=True, slots=True)
class StepGroup:
    """Parameters that step together inside a phase.

    `repeats` optimiser steps are taken per minibatch; groups run in order.

    Attributes:
        joins: Whether the group shares the loss and the backward pass of the group before it.
        rows: Whether parameters are tables with a row per cell, of which only rows with a gradient are
            updated.
        every: `epoch` sums up gradients and takes a step whenever all cells have been drawn once.
    """

    name: str
    parameters: Sequence[nn.Parameter] = field(repr=False)
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    decoupled_decay: bool = False  # AdamW instead of Adam with L2
    repeats: int = 1
    clip_norm: float | None = None
    joins: bool = False
    rows: bool = False
    every: Literal["step", "epoch"] = "step"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How minibatches are drawn.

    `independent`: every modality draws its own rows; otherwise cells are drawn
    and every modality contributes the rows those cells have.
    `balance`: strata that share every minibatch of cells equally: the levels of the
    `"batch"`, or the `"presence"`, that is which modalities a cell has.
    """

    batch_size: int
    independent: bool
    replacement: bool
    balance: str | None = None


@dataclass(frozen=True, slots=True)
class Plateau:
    """When to stop before the last step.

    The weighted sum of the named terms is averaged over the last `window` steps and over the `window`
    before; training ends when the difference is less than `tolerance` of all the progress since the first
    window. With `lr_factor`, all learning rates are multiplied by it first, when `lr_patience` checks in a
    row (ten per window) have found this; without `ends`, each time.
    """

    weights: Mapping[str, float]
    window: int
    tolerance: float
    min_steps: int
    lr_factor: float | None = None
    lr_patience: int = 1
    ends: bool = True


@dataclass(frozen=True, slots=True)
class Validation:
    """Held-out cells, and when they end training.

    The weighted sum of the named terms over `share` of the cells is checked every `every` steps; training
    ends when `patience` checks in a row have not lowered it, and always keeps the weights of the best
    check.

    Attributes:
        lr_factor, lr_patience: The factor of all learning rates when this many checks in a row, since the
            best or the last such time, have not lowered the sum; training then ends after the first such time
            only, and `patience` is counted from there. None leaves the rates alone.
        learns: Name of a group of tables whose rows of held-out cells are updated at every check, all else
            frozen: a model without encoders knows such cells only by their rows.
    """

    share: float
    every: int
    patience: int
    weights: Mapping[str, float]
    learns: str | None = None
    lr_factor: float | None = None
    lr_patience: int = 1

    def n_held_out(self, n_cells: int) -> int:
        """Return the number of cells that are not trained on."""
        return max(1, round(self.share * n_cells))


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training.

    Attributes:
        weight_average: Decay per step of the running mean of all weights that replaces them at the end; 0
            keeps the last ones.
        steady_from: Step from which losses no longer depend on the number of the step.
    """

    name: str
    groups: tuple[StepGroup, ...]
    sampling: Sampling
    max_steps: int
    plateau: Plateau | None = None
    validation: Validation | None = None
    weight_average: float = 0.0
    steady_from: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long training may take: a preset, and an explicit number of steps that overrides it."""

    preset: Preset = Preset.AUTO
    max_steps: int | None = None


@dataclass(frozen=True, slots=True)
class Losses:
    """Loss terms by name, unweighted scalars, and the weighted total to minimise."""

    terms: Mapping[str, Tensor]
    total: Tensor


class Model(Protocol):
    """A model built from a bundle.

    It never calls backward, moves devices, logs or writes files: the loop does.
    """

    traits: ClassVar[Traits]
    params: Any
    module: nn.Module

    @classmethod
    def from_bundle(cls, bundle: MultiOmics, params: Any) -> Self:
        """Build with fresh weights; torch's global generator is seeded by the caller."""

    @classmethod
    def from_spec(cls, spec: Mapping[str, Json], params: Any) -> Self:
        """Rebuild the empty networks from what `spec` returned."""

    def spec(self) -> dict[str, Json]:
        """Return what `from_spec` needs: sizes, modalities, edges; the order of keys is not kept."""

    def phases(self, schedule: Schedule, bundle: MultiOmics) -> list[Phase]:
        """Return the stretches of training in order."""

    def prepare(self, batch: Minibatch) -> Any:
        """Run the forward part that all groups of one step share."""

    def losses(self, prepared: Any, group: str) -> Losses:
        """Return the loss of one group; called `repeats` times per minibatch."""


SOLVED = "solved"
"""The reason why training ended if the weights have a closed form."""


@runtime_checkable
class Solves(Protocol):
    """Capability: weights in closed form, found before any phase; without phases the model is then ready."""

    def solve(
        self, bundle: MultiOmics, read: Callable[[Mapping[str, Tensor]], Minibatch], generator: Generator
    ) -> Mapping[str, float]:
        """Set the weights and return figures that say how well they hold, by name.

        `read` returns rows by modality, whose numbers are given on the host, as a minibatch on the
        device; the generator is the CPU's.
        """


@runtime_checkable
class Begins(Protocol):
    """Capability: use all training cells before the first step, for initial weights and kept inputs."""

    def begin(
        self,
        bundle: MultiOmics,
        read: Callable[[Mapping[str, Tensor]], Minibatch],
        generator: Generator,
        *,
        fresh: bool,
    ) -> dict[str, float]:
        """Set the stored data of the cells and, where weights are `fresh` and not frozen, the weights.

        Returns figures that say what was found, by name; none where nothing was.
        `read` and `generator` are those of `Solves.solve`. A resumed run calls this again, and then loads
        the weights of its checkpoint.
        """


@runtime_checkable
class SmoothsLinks(Protocol):
    """Parameters of a model that may average linked features over a cell's neighbours in its own modality."""

    smooth_links: bool


@runtime_checkable
class KeepsInputs(Protocol):
    """A model that keeps data of the training cells: their encoder inputs, or their coordinates."""

    def look_again(self, bundle: MultiOmics, *, same_cells: bool) -> None:
        """Compute these data again after the weights were replaced by those of another training."""


@runtime_checkable
class ProjectsInput(Protocol):
    """Parameters of a model whose encoders may take principal components, averaged over neighbours."""

    n_pcs: int
    input_smoothing: float


@runtime_checkable
class Encodes(Protocol):
    """Capability: features of one modality to the latent that users see."""

    def encode(self, modality: str, x: Tensor) -> Tensor:
        """`(B, n_vars)` to `(B, n_latent)`, deterministic (the posterior mean where there is one)."""


@runtime_checkable
class EntersLinearly(Protocol):
    """Capability: an encoder that begins with a linear layer: `leave` of `enter` is `encode`.

    A changed feature adds a row of its weights; the neighbours over which inputs are averaged do not change.
    """

    def entry_weights(self, modality: str) -> Tensor:
        """Return the first layer's weights, `(n_vars, n_hidden)`."""

    def entry_values(self, modality: str, values: Tensor, library: Tensor) -> Tensor:
        """Return single values `(n,)` as the first layer sees them in cells of a total `(n,)`."""

    def enter(self, modality: str, x: Tensor) -> Tensor:
        """`(B, n_vars)` to the first layer's output, `(B, n_hidden)`, before anything that is not linear."""

    def leave(self, modality: str, hidden: Tensor) -> Tensor:
        """`(B, n_hidden)` to `(B, n_latent)`."""


@runtime_checkable
class EncodesJointly(Protocol):
    """Capability: everything measured of a cell to one latent."""

    def encode_cells(self, batch: Minibatch) -> Tensor:
        """Return `(B, n_latent)` for the cells of a minibatch, deterministic (the posterior mean)."""


class Conditions(NamedTuple):
    """Covariates of some cells.

    Attributes:
        codes: Codes of categorical covariates by key, `(B,)`, -1 for none; a key that is left out gets the
            mean of its levels.
        continuous: `(B, n_keys)`, or None for their mean.
    """

    codes: Mapping[str, Tensor]
    continuous: Tensor | None = None


@runtime_checkable
class Decodes(Protocol):
    """Capability: decode latent coordinates to expected values."""

    def decode(
        self, modality: str, z: Tensor, conditions: Conditions | None = None, library: Tensor | None = None
    ) -> Tensor:
        """Return expected values `(B, n_vars)` on the scale of the model's input.

        Counts are those of cells with library size `(B,)`, by default the median of training; without
        conditions, covariates are at their mean.
        """


@runtime_checkable
class Samples(Protocol):
    """Capability: draw values of cells at latent coordinates."""

    def sample(
        self,
        modality: str,
        z: Tensor,
        conditions: Conditions | None = None,
        library: Tensor | None = None,
        *,
        generator: Generator,
    ) -> Tensor:
        """Return one draw of every value from its likelihood, `(B, n_vars)`, on the scale of the input.

        Conditions and library are those of `Decodes.decode`, whose values are the means of such
        draws; the generator is that of the device of `z`.
        """


@runtime_checkable
class Surprised(Protocol):
    """Capability: how unlikely values are, given expected ones."""

    def surprise(self, modality: str, columns: Tensor, values: Tensor, mean: Tensor) -> Tensor:
        """Return -log p of values of some features given their means on `decode`'s scale, `(B, k)` each."""


@runtime_checkable
class HasPrior(Protocol):
    """Capability: coordinates have a prior density."""

    def prior_precision(self, z: Tensor) -> Tensor:
        """Return the curvature of -log p at coordinates, `(B, d)`, nowhere below 0."""


@runtime_checkable
class Clusters(Protocol):
    """Capability: the model itself clusters cells."""

    def clusters(self, z: Tensor) -> Tensor:
        """`(B, n_latent)`, as users see it, to the probability of every cluster, `(B, K)`."""


@runtime_checkable
class DrawsCoordinates(Protocol):
    """Capability: draw coordinates of new cells from the clusters' own distributions."""

    def cluster_weights(self) -> Tensor:
        """Return the share of every cluster, `(K,)`."""

    def draw_coordinates(self, clusters: Tensor, generator: Generator) -> Tensor:
        """Draw coordinates in each of some clusters `(n,)`, `(n, n_latent)`; the generator is the CPU's."""


@runtime_checkable
class Extends(Protocol):
    """Capability: take in cells of a query by training new weights only."""

    def extended(self, bundle: MultiOmics) -> Self:
        """Return a copy for a query whose `phases` train only the new weights.

        The bundle has all modalities of the model in its order, without rows where none was
        measured; levels of covariates begin with the model's own. No phase means nothing is new.
        """


@runtime_checkable
class Draws(Protocol):
    """Capability: draw coordinates from a cell's posterior."""

    def draw_cells(self, batch: Minibatch, generator: Generator) -> Tensor:
        """Return one draw from the posterior of each cell, `(B, n_latent)`; the generator is the CPU's."""


@runtime_checkable
class HasCovariateSpaces(Protocol):
    """Capability: every categorical covariate has a space of its own, apart from the latent."""

    def covariate_coordinates(self, batch: Minibatch) -> Mapping[str, Tensor]:
        """Return a minibatch's coordinates in each space, `(B, q)` by the covariate's key, deterministic."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The sizes that networks are built from, saved with a model as JSON.

    Attributes:
        modalities: Name, number of features and likelihood of each, in order.
        levels: Levels by categorical covariate; the batch, if there is one, comes first.
        continuous: Names of continuous covariates.
    """

    modalities: tuple[tuple[str, int, str], ...]
    levels: Mapping[str, tuple[str, ...]]
    continuous: tuple[str, ...]

    @classmethod
    def of(cls, bundle: MultiOmics, **others: Any) -> Self:
        """Read the sizes from a bundle; other fields as given."""
        return cls(
            modalities=tuple(
                (name, m.features.n_vars, m.likelihood or "normal") for name, m in bundle.modalities.items()
            ),
            levels={codes.key: codes.levels for codes in bundle.categorical},
            continuous=bundle.continuous.keys if bundle.continuous else (),
            **others,
        )

    @property
    def widths(self) -> dict[str, int]:
        """Number of features by modality."""
        return {name: width for name, width, _ in self.modalities}

    @property
    def likelihoods(self) -> dict[str, str]:
        """Name of the likelihood by modality."""
        return {name: taken_for for name, _, taken_for in self.modalities}


@dataclass(frozen=True)
class Widths:
    """The sizes that a model of plain features is built from, saved with it as JSON.

    Attributes:
        widths: Number of features by modality, in the order of the networks.
        edges: Pairs of modalities with linked features.
    """

    widths: Mapping[str, int]
    edges: tuple[Edge, ...]

    @classmethod
    def of(cls, bundle: MultiOmics) -> Self:
        """Read a bundle."""
        widths = {name: m.features.n_vars for name, m in bundle.modalities.items()}
        return cls(widths, tuple(link.edge for link in bundle.links))


def spec_of(shape: Any) -> dict[str, Json]:
    """Return the fields of a dataclass as JSON; mappings as pairs, since objects may lose their order."""
    return {f.name: _plain(getattr(shape, f.name)) for f in fields(shape)}


def rebuilt(cls: type[S], spec: Mapping[str, Any]) -> S:
    """Return the dataclass that `spec_of` wrote; fields that a spec lacks take their default."""
    values = {f.name: _frozen(spec[f.name]) for f in fields(cls) if f.name in spec}  # type: ignore[arg-type]
    mappings = {f.name for f in fields(cls) if str(f.type).startswith("Mapping")}  # type: ignore[arg-type]
    return cls(**{name: dict(value) if name in mappings else value for name, value in values.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [[key, _plain(item)] for key, item in value.items()]
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
