"""Modalities in memory: what is read of them, and how much room it takes."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from mocli.data.files.modality import of_anndata


def test_values_that_are_stored_twice_are_added():
    twice = sp.csr_matrix((np.array([1.0, 2.0, -3.0, 3.0]), [1, 1, 0, 0], [0, 2, 4]), shape=(2, 3))
    file = of_anndata(ad.AnnData(twice), "rna")
    for part in (file, file.take(np.array([0, 1]))):
        x = part.read()
        assert x.has_canonical_format
        assert x.nnz == 1
        assert x[0, 1] == 3
    assert file.as_rounded().read()[0, 1] == 3
    assert twice.nnz == 4, "the matrix of the caller stays"


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_the_size_is_that_of_csr_and_takes_no_copy(make, monkeypatch):
    dense = np.random.default_rng(0).poisson(0.3, (4000, 30)).astype(np.float32)
    file = of_anndata(ad.AnnData(make(dense)), "rna")
    rows, read = [], type(file).read

    def reading(self, *args, **kwargs):
        x = read(self, *args, **kwargs)
        rows.append(x.shape[0])
        return x

    monkeypatch.setattr(type(file), "read", reading)
    exact = 8 * np.count_nonzero(dense) + 4 * 4001
    assert file.nbytes() == pytest.approx(exact, rel=0.1 if make is np.asarray else 0)
    half = file.take(np.arange(0, 4000, 2))
    assert half.nbytes() == pytest.approx(exact / 2, rel=0.1)
    assert max(rows) <= 256
