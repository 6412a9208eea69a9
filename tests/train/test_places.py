"""Coordinates that a model gives to cells are numbers, or the run says so."""

import numpy as np
import pytest
import torch

from mocli.data.bundle import FeatureMatrix
from mocli.errors import InputError
from mocli.train.predict import encode_rows


class Overflowing:
    """Squares its input twice: single floats end at 3e38."""

    def encode(self, modality, x):
        return x[:, :2] ** 2 * x[:, :2] ** 2


def test_coordinates_that_overflow_are_told_and_counted():
    values = np.ones((10, 3), np.float32)
    device, model = torch.device("cpu"), Overflowing()
    assert encode_rows(model, "rna", FeatureMatrix(values, ("a", "b", "c")), device).shape == (10, 2)
    values[4:6, 0] = 1e12
    with pytest.raises(InputError, match="not finite") as caught:
        encode_rows(model, "rna", FeatureMatrix(values, ("a", "b", "c")), device)
    assert caught.value.found == "2 of 10 cells"
    assert caught.value.exit_code == 3
