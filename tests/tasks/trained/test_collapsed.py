"""A model that gives all cells one place says so in words."""

import numpy as np

from mocli.tasks.trained.latent import Latent


def test_cells_at_one_place_have_collapsed_but_for_rounding():
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(50, 4)).astype(np.float32)
    point = np.tile(spread[:1], (50, 1))
    nearly = (point * (1 + 1e-7 * rng.normal(size=point.shape))).astype(np.float32)
    line = point.copy()
    line[:, 2] += np.linspace(0, 0.01, 50, dtype=np.float32)
    assert Latent({"rna": spread, "prot": point, "atac": nearly}).collapsed == ["prot", "atac"]
    assert Latent({"rna": line, "one": point[:1], "none": point[:0]}).collapsed == []
    assert Latent({"rna": np.zeros((9, 2), np.float32)}).collapsed == ["rna"]


def test_a_run_says_so(unpaired, tmp_path, monkeypatch):
    import mocli
    from mocli.tasks.trained import train

    monkeypatch.setattr(
        train, "encode_rows", lambda model, name, features, device: np.ones((features.n_obs, 4))
    )
    done = mocli.integrate(
        [unpaired / "rna.h5ad", unpaired / "prot.h5ad"],
        links=unpaired / "links.tsv",
        output=tmp_path / "o.h5mu",
        model="scmodal",
        metrics="none",
        max_steps=2,
        html=False,
        threads=1,
        device="cpu",
        params={"n_hidden": 8, "n_latent": 4},
    )
    assert [w for w in done.report["warnings"] if "cells of rna and of prot lie at one place" in w]
