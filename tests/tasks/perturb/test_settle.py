"""Places of cells without encoders after a change: the closed form against autograd and a new search."""

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import minimize

import mocli
from mocli.models.base import Conditions
from mocli.tasks.infer.align import align
from mocli.tasks.infer.query import settle_cells
from mocli.tasks.perturb import reencode
from mocli.tasks.perturb.cells import Effect
from mocli.tasks.perturb.reencode import Replacement, Settled
from mocli.tasks.perturb.shifts import Perturbation, stream
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.run.frame import Foresight
from mocli.tasks.run.options import DataOptions
from mocli.tasks.trained.saved import load_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cells(paired, tmp_path_factory):
    """Cells settled by expression alone, in float64."""
    folder = tmp_path_factory.mktemp("settled")
    mocli.integrate(
        paired / "data.h5mu", output=folder / "o.h5mu", model="multidgd", max_steps=60, html=False, threads=1,
        device="cpu", params={"n_latent": 3, "n_components": 2, "n_hidden": 8},
    )  # fmt: skip
    saved = load_model(folder / "o.model")
    data = DataOptions([str(paired / "data.h5mu")])
    file = next(f for f in open_modalities(data) if f.name == "rna")
    aligned = align(saved, "rna", file, layers={}, warn=print)
    placed = settle_cells(saved, "rna", aligned, data, device=CPU, seed=0, tell=Foresight())
    rows = np.array([3, 50, 8, 21])
    made = Replacement.settled(saved, "rna", aligned.read(rows), aligned.absent, placed, rows)
    placed.model.module.double()
    object.__setattr__(placed, "z", placed.z.astype(np.float64))
    mover = made.mover
    again = Settled(
        placed, "rna", rows, mover.library.numpy().astype(np.float64), measured=np.ones(made.x.shape[1], bool)
    )
    object.__setattr__(made, "mover", again)
    return made


def loss(cells, k, values):
    """Negative log-joint of one cell's values and place."""
    placed, mover = cells.mover.placed, cells.mover
    row = cells.mover.rows[k : k + 1]
    model, conditions = placed.model, placed.conditions(row)

    def of(z):
        mean = model.decode("rna", z[None], Conditions(*conditions), mover.library[k : k + 1])
        columns = torch.arange(mean.shape[1])
        data = model.surprise("rna", columns, torch.from_numpy(values)[None], mean).sum()
        return data - model.module.mixture.log_density(z[None]).sum()

    return of


def test_curvature_and_answers_are_those_of_autograd(cells, monkeypatch):
    mover, placed = cells.mover, cells.mover.placed
    model = placed.model
    p, d = cells.x.shape[1], mover.z.shape[1]
    size = torch.exp(model.module.branch("rna").log_dispersion).detach().numpy()
    delta = sparse.random(6, p, 0.1, random_state=np.random.default_rng(0), format="csr")
    which = np.array([2, 0, 3, 0, 1, 2])
    wanted = []
    for k, change in zip(which, delta.toarray(), strict=True):
        row = mover.rows[k : k + 1]

        def mean(z, row=row, k=k):
            return model.decode("rna", z[None], placed.conditions(row), mover.library[k : k + 1])[0]

        z = torch.from_numpy(mover.z[k])
        slope = torch.autograd.functional.jacobian(mean, z).detach().numpy()
        mu = mean(z).detach().numpy()
        weight = 1 / (mu + mu**2 / size)
        mixture = model.module.mixture
        share = mixture.posterior(z[None]).detach().numpy()[0]
        prior = share @ np.broadcast_to(mixture.log_precision.detach().exp().numpy(), (len(share), d))
        curvature = slope.T @ (weight[:, None] * slope) + np.diag(prior)
        wanted.append(mover.z[k] + np.linalg.solve(curvature, slope.T @ (weight * change)))
    np.testing.assert_allclose(mover.place(which, delta), wanted, rtol=1e-6, atol=1e-9)
    monkeypatch.setattr(reencode, "SLOPES", 1)
    np.testing.assert_allclose(mover.place(which, delta), wanted, rtol=1e-6, atol=1e-9)


def test_cells_go_where_a_new_search_finds_them(cells):
    """From the best place for the measured counts to the best for one gene's counts raised by a tenth."""
    mover = cells.mover
    for k in range(len(mover.rows)):
        counts = cells.x[k].toarray().ravel().astype(np.float64)
        gene = int(np.argmax(counts))

        def best(values, start, k=k):
            of = loss(cells, k, values)

            def with_slope(z):
                z = torch.from_numpy(z).requires_grad_()
                value = of(z)
                (slope,) = torch.autograd.grad(value, z)
                return float(value.detach()), slope.numpy()

            return minimize(with_slope, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x

        home = best(counts, mover.z[k])
        after = counts.copy()
        after[gene] *= 1.1
        found = best(after, home) - home
        z = mover.placed.z.copy()
        z[mover.rows[k]] = home
        object.__setattr__(mover.placed, "z", z)
        every = np.ones(len(counts), bool)
        there = Settled(mover.placed, "rna", mover.rows, mover.library.numpy(), measured=every)
        change = sparse.csr_matrix((after - counts)[None])
        told = there.place(np.array([k]), change)[0] - home
        np.testing.assert_allclose(told, found, atol=1e-3 * np.linalg.norm(found))


def test_a_cell_without_counts_stays_and_stops_nobody(cells):
    mover = cells.mover
    library = mover.library.numpy().copy()
    library[1] = 0
    p = cells.x.shape[1]
    every = np.ones(p, bool)
    there = Settled(mover.placed, "rna", mover.rows, library, measured=every)
    whole = Settled(mover.placed, "rna", mover.rows, mover.library.numpy(), measured=every)
    change = sparse.csr_matrix((np.ones(2), ([0, 1], [5, 5])), shape=(2, p))
    after = there.place(np.array([0, 1]), change)
    np.testing.assert_allclose(after[0], whole.place(np.array([0]), change[:1])[0])
    np.testing.assert_array_equal(after[1], there.z[1])


def test_nothing_changed_is_nothing_moved(cells):
    knocked = list(stream(cells, [Perturbation("g", (0,))], Effect.parse("knockout"), "down"))
    moved = {int(c) for _, at, _ in knocked for c in at}
    assert moved == set(np.flatnonzero(cells.x[:, [0]].toarray().ravel()))
    none = cells.mover.place(np.arange(4), sparse.csr_matrix((4, cells.x.shape[1])))
    np.testing.assert_array_equal(none, cells.z)
