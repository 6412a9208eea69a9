"""As many threads give the same bytes; another number of them the same cells, up to rounding."""

import h5py
import numpy as np
import pytest
import torch

import mocli


@pytest.mark.slow
@pytest.mark.parametrize("model", ["scmodal", "multigrate"])
def test_two_threads_repeat_themselves_and_say_much_the_same_as_one(model, paired, tmp_path, small):
    found = []
    before = torch.get_num_threads()
    for k, threads in enumerate((1, 2, 2)):
        out = tmp_path / f"o{k}.h5mu"
        report = mocli.integrate(
            [paired / "data.h5mu"],
            links=paired / "links.tsv",
            output=out,
            model=model,
            metrics="none",
            max_steps=20,
            html=False,
            threads=threads,
            device="cpu",
            params=small if model == "scmodal" else {k: v for k, v in small.items() if k != "n_neighbors"},
        ).report
        assert report["determinism"]["level"] == "bitwise"
        with h5py.File(out) as h5:
            found.append(h5[f"mod/rna/obsm/X_{model}"][()])
    assert torch.get_num_threads() == before
    np.testing.assert_array_equal(found[1], found[2])
    np.testing.assert_allclose(found[0], found[1], atol=0.02 * np.abs(found[0]).max())
