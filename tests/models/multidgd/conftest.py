"""Cells for the tests of multiDGD."""

import numpy as np
import pytest
from dgd_cells import make


@pytest.fixture
def mosaic():
    """Cells of which some lack peaks or proteins, and two have no batch."""
    return make(have={"atac": np.arange(10, 60), "prot": np.arange(0, 45)}, missing=(3, 30))
