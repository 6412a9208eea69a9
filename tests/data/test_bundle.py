"""What a bundle says of its own values."""

import numpy as np
import pytest
import torch
from scipy import sparse

from mocli.data.bundle import FeatureMatrix, Minibatch
from mocli.types import NonZeros

VALUES = np.array([[0, 2, 0], [0, 0, 0], [4, 2, 0]], np.float32)


@pytest.mark.parametrize("form", [sparse.csr_matrix, np.asarray])
def test_means_and_totals_of_features(form):
    features = FeatureMatrix(form(VALUES), ("a", "b", "c"), offset=np.array([1, 0, 0], np.float32))
    np.testing.assert_allclose(features.mean(), [4 / 3 + 1, 4 / 3, 0])
    plain = FeatureMatrix(form(VALUES), ("a", "b", "c"))
    np.testing.assert_allclose(plain.mean(binary=True), [1 / 3, 2 / 3, 0])
    np.testing.assert_allclose(plain.totals(), [2, 0, 6])
    assert plain.median_total() == 4, "cells without any count say nothing of depth"
    assert FeatureMatrix(form(VALUES * 0), ("a", "b", "c")).median_total() == 1


def test_a_minibatch_gives_non_zeros_where_it_has_them():
    at = NonZeros(torch.ones(1), torch.zeros(1).long(), torch.zeros(1).long(), torch.zeros(1).long(), (1, 2))
    batch = Minibatch(x={"prot": torch.ones(1, 2)}, counts={"rna": at}, links={}, rows={})
    assert batch.values("rna") is at
    assert batch.values("prot").shape == (1, 2)
