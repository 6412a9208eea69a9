from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from mocli.data.batches import Batches, BundleRows, ResidentCsr, Rows, dense_rows, densify
from mocli.data.bundle import FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.models.base import Sampling
from mocli.types import ModalityKind, NonZeros, Pairing

CPU = torch.device("cpu")


def matrix(n: int, p: int, seed: int = 0, *, dense: bool = False, offset: bool = True) -> FeatureMatrix:
    rng = np.random.default_rng(seed)
    values = (rng.random((n, p)) * (rng.random((n, p)) < 0.3)).astype(np.float32)
    return FeatureMatrix(
        values if dense else sparse.csr_matrix(values),
        tuple(f"f{j}" for j in range(p)),
        rng.random(p).astype(np.float32) if offset else None,
    )


def whole(features: FeatureMatrix) -> np.ndarray:
    values = features.values
    values = values.toarray() if sparse.issparse(values) else values
    return values if features.offset is None else values + features.offset


def bundle(n_rna: int = 23, n_prot: int = 17, *, pairing: str = "unpaired") -> MultiOmics:
    """With `mosaic`, cell i has rna below n_rna, and the last n_prot of all 30 cells have prot."""
    features = {"rna": matrix(n_rna, 9), "prot": matrix(n_prot, 4, 1, dense=True, offset=False)}
    modalities = {
        name: Modality(
            name,
            ModalityKind(name),
            f,
            tuple(f"{name}{i}" for i in range(f.n_obs)),
            np.ones(f.n_obs, np.float32),
        )
        for name, f in features.items()
    }
    if pairing == "unpaired":
        n = n_rna + n_prot
        rows = np.full((n, 2), -1)
        rows[:n_rna, 0] = np.arange(n_rna)
        rows[n_rna:, 1] = np.arange(n_prot)
    else:
        n = 30
        rows = np.full((n, 2), -1)
        rows[:n_rna, 0] = np.arange(n_rna)[::-1]
        rows[n - n_prot :, 1] = np.arange(n_prot)
    link = LinkedFeatures("rna", "prot", matrix(n_rna, 3, 2), matrix(n_prot, 3, 3), ("a", "b", "c"))
    return MultiOmics(modalities, rows, tuple(map(str, range(n))), Pairing(pairing), (link,))


def batches(data: MultiOmics, size: int, *, independent: bool, replacement: bool, seed: int = 0) -> Batches:
    return Batches(
        data,
        Sampling(size, independent, replacement),
        device="cpu",
        generator=torch.Generator().manual_seed(seed),
    )


def check_contents(data: MultiOmics, batch) -> None:
    for name, modality in data.modalities.items():
        rows = batch.rows[name].numpy()
        assert batch.x[name].dtype == torch.float32
        np.testing.assert_array_equal(batch.x[name].numpy(), whole(modality.features)[rows])
    for link in data.links:
        for values, features, name in zip(
            batch.links[link.edge], (link.source_features, link.target_features), link.edge, strict=True
        ):
            np.testing.assert_array_equal(values.numpy(), whole(features)[batch.rows[name].numpy()])


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("offset", [False, True])
def test_rows_equal_plain_indexing(dense, offset):
    features = matrix(20, 6, dense=dense, offset=offset)
    index = torch.tensor([3, 3, 19, 0])
    taken = Rows(features, "cpu").take(index)
    np.testing.assert_array_equal(taken.numpy(), whole(features)[index.numpy()])
    taken.zero_()
    np.testing.assert_array_equal(Rows(features, "cpu").take(index).numpy(), whole(features)[index.numpy()])
    assert Rows(features, "cpu").take(torch.empty(0, dtype=torch.int64)).shape == (0, 6)
    columns = np.array([4, 1])
    np.testing.assert_array_equal(dense_rows(features, index.numpy()), whole(features)[index.numpy()])
    np.testing.assert_array_equal(
        dense_rows(features, index.numpy(), columns), whole(features)[index.numpy()][:, columns]
    )


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_scatter_of_resident_rows_equals_plain_indexing(data):
    n, p = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 9))
    features = matrix(n, p, data.draw(st.integers(0, 99)), offset=False)
    index = data.draw(st.lists(st.integers(0, n - 1), max_size=20))
    taken = ResidentCsr(features.values, CPU).take(torch.tensor(index, dtype=torch.int64))
    np.testing.assert_array_equal(taken.numpy(), whole(features)[index])


def test_densify_gives_contiguous_float32():
    x = sparse.random(5, 4, 0.5, format="csc", random_state=0)
    for y in (densify(x), densify(np.asfortranarray(x.toarray()))):
        assert y.dtype == np.float32
        assert y.flags.c_contiguous
        np.testing.assert_allclose(y, x.toarray(), rtol=1e-6)


@pytest.mark.parametrize("pairing", ["unpaired", "mosaic"])
@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("replacement", [False, True])
def test_minibatches_hold_what_their_rows_say(pairing, independent, replacement):
    data = bundle(pairing=pairing)
    source = batches(data, 8, independent=independent, replacement=replacement)
    for step in range(12):
        batch = source.next(step)
        assert batch.step == step
        check_contents(data, batch)
        if independent:
            assert {len(rows) for rows in batch.rows.values()} == {8}


def test_features_held_on_the_host_go_to_the_device_as_drawn():
    data = bundle()
    data.modalities["rna"] = replace(
        data.modalities["rna"], features=matrix(23, 9, offset=False), likelihood="nb"
    )
    source = BundleRows(data, "meta", held_on="cpu")
    assert {rows.device.type for rows in source.rows.values()} == {"cpu"}
    batch = source.take({"rna": torch.arange(3), "prot": torch.arange(2)}, 0)
    drawn = [batch.x["prot"], *batch.counts["rna"][:4], *batch.rows.values(), *batch.library.values()]
    drawn += [side for pair in batch.links.values() for side in pair]
    assert {tensor.device.type for tensor in drawn} == {"meta"}
    assert batch.x["prot"].shape == (2, 4)
    assert batch.counts["rna"].shape == (3, 9)


def test_independent_rows_with_replacement_are_uniform_and_may_exceed_the_data():
    data = bundle(5, 3)
    source = batches(data, 1000, independent=True, replacement=True)
    drawn = np.bincount(source.next(0).rows["rna"].numpy(), minlength=5)
    assert drawn.sum() == 1000
    assert drawn.min() > 150


def test_independent_rows_without_replacement_cycle_through_permutations():
    data = bundle(23, 17)
    source = batches(data, 5, independent=True, replacement=False)
    drawn = [source.next(i).rows for i in range(23 * 17)]
    for name, n in (("rna", 23), ("prot", 17)):
        rows = torch.cat([d[name] for d in drawn]).numpy()
        epochs = rows.reshape(-1, n)
        assert (np.sort(epochs, axis=1) == np.arange(n)).all()
        assert len({tuple(e) for e in epochs}) == len(epochs)


def test_small_modalities_are_given_whole_when_not_replaced():
    data = bundle(23, 3)
    rows = batches(data, 8, independent=True, replacement=False).next(0).rows
    assert sorted(rows["prot"].tolist()) == [0, 1, 2]
    assert len(rows["rna"]) == 8


def test_cells_are_permuted_epoch_by_epoch():
    data = bundle(20, 20, pairing="mosaic")
    source = batches(data, 8, independent=False, replacement=False)
    for _ in range(3):
        seen: dict[str, list[int]] = {"rna": [], "prot": []}
        for step in range(4):  # 8 + 8 + 8 + 6 of 30 cells
            for name, rows in source.next(step).rows.items():
                seen[name] += rows.tolist()
        assert {name: sorted(rows) for name, rows in seen.items()} == {
            "rna": list(range(20)),
            "prot": list(range(20)),
        }


def test_shared_cells_stay_side_by_side():
    data = bundle(30, 30, pairing="mosaic")  # rna is stored backwards
    rows = batches(data, 8, independent=False, replacement=False).next(0).rows
    assert (rows["rna"] == 29 - rows["prot"]).all()


@pytest.mark.parametrize(
    ("n", "size", "lengths"), [(9, 4, [4, 4, 4, 4]), (10, 4, [4, 4, 2, 4]), (3, 8, [3] * 4)]
)
def test_a_last_minibatch_of_one_cell_is_left_out(n, size, lengths):
    data = bundle(n - 2, 2)
    source = batches(data, size, independent=False, replacement=False)
    drawn = [sum(len(r) for r in source.next(i).rows.values()) for i in range(4)]
    assert drawn == lengths


def test_one_cell_alone_and_size_one_do_not_hang():
    data = bundle(1, 1)
    source = batches(data, 1, independent=False, replacement=False)
    assert sorted(sum(len(r) for r in source.next(i).rows.values()) for i in range(4)) == [1] * 4


def test_an_absent_modality_gives_an_empty_tensor():
    data = bundle(23, 1)
    source = batches(data, 2, independent=False, replacement=False)
    empty = [b for b in (source.next(i) for i in range(12)) if not len(b.rows["prot"])]
    assert empty
    assert empty[0].x["prot"].shape == (0, 4)
    assert empty[0].links["rna", "prot"][1].shape == (0, 3)


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("replacement", [False, True])
def test_draws_repeat_with_the_seed_and_resume_exactly(independent, replacement, tmp_path):
    from safetensors.torch import load_file, save_file

    data = bundle()
    options = {"independent": independent, "replacement": replacement}

    def draws(source: Batches, n: int) -> list[list[int]]:
        return [[r for rows in source.next(i).rows.values() for r in rows.tolist()] for i in range(n)]

    first, second, other = (batches(data, 5, seed=s, **options) for s in (7, 7, 8))
    expected = draws(first, 20)
    assert draws(second, 20) == expected
    assert draws(other, 20) != expected

    for stop in (0, 3, 11):
        source = batches(data, 5, seed=7, **options)
        draws(source, stop)
        save_file(source.state_dict(), tmp_path / "state.safetensors")
        resumed = batches(data, 5, seed=99, **options)
        resumed.load_state_dict(load_file(tmp_path / "state.safetensors"))
        assert draws(resumed, 20 - stop) == expected[stop:]


def test_a_state_of_other_data_is_refused():
    state = batches(bundle(23, 17), 5, independent=True, replacement=False)
    state.next(0)
    with pytest.raises(ValueError, match="does not fit 22 rows"):
        batches(bundle(22, 17), 5, independent=True, replacement=False).load_state_dict(state.state_dict())


def test_padding_adds_zeros_after_the_non_zeros_and_leaves_few_sizes():
    rng = np.random.default_rng(2)
    x = sparse.csr_matrix(rng.poisson(0.4, size=(60, 40)).astype(np.float32))
    resident, sizes = ResidentCsr(x, torch.device("cpu")), set()
    for rows in (torch.arange(59, 39, -1), torch.arange(20), torch.arange(5), torch.tensor([59])):
        shape = (len(rows), 40)
        exact = NonZeros(*resident.nonzeros(rows), shape)
        padded = NonZeros(*resident.nonzeros(rows, padded=True), shape)
        n = len(exact.values)
        assert n <= len(padded.values) <= 1.25 * n
        assert not padded.values[n:].any()
        for some, all_ in zip(padded[:3], exact[:3], strict=True):
            assert torch.equal(some[:n], all_)
        assert torch.equal(padded.starts, exact.starts)
        assert torch.equal(padded.dense, exact.dense)
        assert torch.equal(padded.totals, exact.totals)
        sizes.add(len(padded.values))
    assert len(sizes) == 3  # twenty rows have one size, whichever they are
    empty = ResidentCsr(sparse.csr_matrix((3, 40), dtype=np.float32), torch.device("cpu"))
    assert len(empty.nonzeros(torch.arange(2), padded=True)[0]) == 0


@pytest.mark.gpu
def test_minibatches_on_cuda_equal_those_on_the_cpu():
    data = bundle()
    for independent in (False, True):
        for replacement in (False, True):
            on_cpu = batches(data, 8, independent=independent, replacement=replacement)
            on_gpu = Batches(
                data,
                Sampling(8, independent, replacement),
                device="cuda",
                generator=torch.Generator().manual_seed(0),
            )
            for step in range(5):
                a, b = on_cpu.next(step), on_gpu.next(step)
                for name in data.modalities:
                    assert b.x[name].is_cuda
                    assert torch.equal(a.rows[name], b.rows[name].cpu())
                    torch.testing.assert_close(a.x[name], b.x[name].cpu(), rtol=0, atol=0)
                for edge in a.links:
                    for i in range(2):
                        torch.testing.assert_close(a.links[edge][i], b.links[edge][i].cpu(), rtol=0, atol=0)


@pytest.mark.parametrize("dense", [True, False])
def test_rows_averaged_over_neighbours_equal_brute_force(dense, monkeypatch):
    monkeypatch.setattr("mocli.data.batches.AVERAGED", 3)
    rng = np.random.default_rng(3)
    x = rng.poisson(0.5, size=(20, 7)).astype(np.float32)
    offset = rng.normal(size=7).astype(np.float32)
    near = np.stack([rng.choice(20, 4, replace=False) for _ in range(20)])
    values = x if dense else sparse.csr_matrix(x)
    features = FeatureMatrix(values, tuple("abcdefg"), offset, near, 0.7)
    expected = 0.3 * x + 0.7 * x[near].mean(1) + offset
    index = torch.tensor([3, 3, 19, 0])
    got = Rows(features, "cpu").take(index).numpy()
    np.testing.assert_allclose(got, expected[index], rtol=1e-5, atol=1e-6)
    some = dense_rows(features, index.numpy(), np.array([5, 0]))
    np.testing.assert_allclose(some, expected[index][:, [5, 0]], rtol=1e-5, atol=1e-6)
    weights = torch.tensor([0.3] + [0.7 / 4] * 4)
    bags = torch.cat([index[:, None], torch.from_numpy(near[index])], dim=1)
    resident = ResidentCsr(sparse.csr_matrix(x), torch.device("cpu")).take(bags, weights)
    np.testing.assert_allclose(resident.numpy() + offset, expected[index], rtol=1e-5, atol=1e-6)
