"""Minibatches of cells: what was measured of them, their covariates, strata that share every minibatch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from mocli.data.batches import Batches, BundleRows, strata_of
from mocli.data.bundle import Codes, Continuous, FeatureMatrix, Modality, MultiOmics
from mocli.models.base import Sampling
from mocli.types import ModalityKind, Pairing

N = 40
RNA, ATAC = np.arange(0, 30), np.arange(20, 40)  # cells that have each; 20 to 29 have both


def bundle():
    rng = np.random.default_rng(0)
    rows = np.full((N, 2), -1)
    modalities = {}
    for column, (name, cells, p) in enumerate((("rna", RNA, 6), ("atac", ATAC, 4))):
        order = rng.permutation(len(cells))
        rows[cells, column] = order
        x = rng.poisson(1.0, size=(len(cells), p)).astype(np.float32)
        modalities[name] = Modality(
            name,
            ModalityKind(name),
            FeatureMatrix(sparse.csr_matrix(x), tuple(map(str, range(p)))),
            tuple(f"{name}{i}" for i in range(len(cells))),
            x.sum(1),
            {"rna": "nb", "atac": "normal"}[name],
        )
    batch = Codes("batch", np.r_[np.zeros(35, int), np.ones(4, int), -1], ("a", "b"))
    donor = Codes("donor", rng.integers(-1, 3, N), ("x", "y", "z"))
    ages = Continuous(("age",), rng.normal(size=(N, 1)).astype(np.float32))
    names = tuple(map(str, range(N)))
    return MultiOmics(
        modalities, rows, names, Pairing.MOSAIC, batch=batch, covariates=(donor,), continuous=ages
    )


def draw(data, *, size=16, balance=None, replacement=False, cells=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sampling = Sampling(size, independent=False, replacement=replacement, balance=balance)
    return Batches(data, sampling, device="cpu", generator=generator, cells=cells)


def test_positions_lead_from_rows_to_the_cells_drawn():
    data = bundle()
    batches = draw(data)
    for step in range(6):
        batch = batches.next(step)
        cells = batch.cells.numpy()
        for column, name in enumerate(data.modalities):
            position = batch.positions[name].numpy()
            # exactly the drawn cells that were measured, in the order drawn
            np.testing.assert_array_equal(position, np.flatnonzero(data.rows[cells, column] >= 0))
            np.testing.assert_array_equal(batch.rows[name].numpy(), data.rows[cells[position], column])
            whole = data.modalities[name].features.values.toarray()
            x = batch.counts[name].dense if name == "rna" else batch.x[name]
            np.testing.assert_array_equal(x.numpy(), whole[batch.rows[name].numpy()])
            np.testing.assert_array_equal(batch.library[name].numpy(), x.sum(1).numpy())
        # what is taken for counts comes by its non-zeros, and only so
        assert (set(batch.x), set(batch.counts)) == ({"atac"}, {"rna"})
        assert set(batch.codes) == {"batch", "donor"}
        for codes in data.categorical:
            np.testing.assert_array_equal(batch.codes[codes.key].numpy(), codes.codes[cells])
        np.testing.assert_array_equal(batch.continuous.numpy(), data.continuous.values[cells])


def test_a_measured_row_of_zeros_is_present():
    data = bundle()
    rna = data.modalities["rna"]
    empty = replace(
        rna, features=FeatureMatrix(sparse.csr_matrix((30, 6), dtype=np.float32), rna.features.names)
    )
    batch = BundleRows(replace(data, modalities={**data.modalities, "rna": empty}), "cpu").take_cells(
        torch.arange(N), 0
    )
    np.testing.assert_array_equal(batch.positions["rna"].numpy(), RNA)


def test_no_cell_of_a_modality_is_an_empty_minibatch():
    batch = BundleRows(bundle(), "cpu").take_cells(torch.tensor([0, 3]), 0)
    assert batch.x["atac"].shape == (0, 4)
    assert batch.positions["atac"].shape == (0,)


def test_cells_held_out_are_never_drawn():
    kept = np.arange(0, N, 3)
    batches = draw(bundle(), size=5, cells=kept)
    drawn = [batches.next(i).cells.numpy() for i in range(3)]
    np.testing.assert_array_equal(np.sort(np.concatenate(drawn)), kept)
    with pytest.raises(ValueError, match="rows of their own"):
        Batches(
            bundle(),
            Sampling(4, independent=True, replacement=True),
            device="cpu",
            generator=torch.Generator(),
            cells=kept,
        )


def test_strata_are_batches_or_what_was_measured():
    data = bundle()
    assert [len(set(strata_of(data, by))) for by in ("batch", "presence")] == [3, 3]
    assert set(strata_of(replace(data, batch=None), "batch")) == {0}
    with pytest.raises(ValueError, match="balanced"):
        strata_of(data, "depth")


@pytest.mark.parametrize("by", ["batch", "presence"])
@pytest.mark.parametrize("size", [4, 12, 31, 100])
@pytest.mark.parametrize("replacement", [False, True])
def test_strata_share_every_minibatch(by, size, replacement):
    data = bundle()
    strata, available = strata_of(data, by), np.bincount(strata_of(data, by))
    batches = draw(data, size=size, balance=by, replacement=replacement)
    for step in range(10):
        cells = batches.next(step).cells.numpy()
        share = np.bincount(strata[cells], minlength=len(available))
        assert len(cells) == min(size, N)
        assert (share > 0).all()
        assert (share <= available).all()
        # whoever gives less than another, by more than one, has no more to give
        assert all(n == a for n, a in zip(share, available, strict=True) if n < share.max() - 1)
        if not replacement:
            assert len(set(cells)) == len(cells) or size > available.min()


def test_balanced_draws_go_on_where_they_were_saved():
    data = bundle()
    first = draw(data, size=7, balance="batch")
    for step in range(3):
        first.next(step)
    second = draw(data, size=7, balance="batch", seed=99)
    second.load_state_dict(first.state_dict())
    for step in range(5):
        assert torch.equal(first.next(step).cells, second.next(step).cells)


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("replacement", [False, True])
def test_shares_of_processes_make_the_whole_minibatch(independent, replacement):
    sampling = Sampling(15, independent=independent, replacement=replacement)

    def drawn(share):
        generator = torch.Generator().manual_seed(0)
        batches = Batches(bundle(), sampling, device="cpu", generator=generator, share=share)
        made = [batches.next(step) for step in range(6)]
        assert {batch.processes for batch in made} == {share[1]}
        return [batch.rows["rna"] if independent else batch.cells for batch in made]

    for whole, *parts in zip(drawn((0, 1)), *(drawn((k, 3)) for k in range(3)), strict=True):
        np.testing.assert_array_equal(torch.cat(parts).sort().values, whole.sort().values)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_end_of_an_epoch_is_left_out_where_a_process_would_have_a_single_cell(world):
    """Of 40 cells one remains after three times 13, and 6, too few for four processes, after twice 17."""
    for size, sizes in ((13, [13, 13, 13]), (17, [17, 17, 6] if world < 4 else [17, 17])):
        sampling = Sampling(size, independent=False, replacement=False)
        shares = []
        for rank in range(world):
            generator = torch.Generator().manual_seed(0)
            batches = Batches(bundle(), sampling, device="cpu", generator=generator, share=(rank, world))
            shares.append([len(batches.next(step).cells) for step in range(len(sizes))])
            assert batches.epoch_over
        assert np.sum(shares, axis=0).tolist() == sizes
        assert np.min(shares) >= 2
