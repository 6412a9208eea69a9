"""Time and memory of a screen: 2,000 genes raised and lowered in 5,000 cells of simulated counts.

python tests/benchmarks/perturb_speed.py [--cells 5000] [--genes 2000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import mocli
from mocli.train.device import peak_memory


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--genes", type=int, default=2000)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    n, p = 2 * asked.cells, asked.genes
    state = np.arange(n) % 2
    mean = rng.gamma(0.3, 1.0, p) * np.where(state[:, None] == 1, rng.lognormal(0, 0.2, p), 1)
    x = sparse.csr_matrix(rng.poisson(mean).astype(np.float32))
    obs = pd.DataFrame(
        {"state": np.where(state == 1, "b", "a"), "kind": [f"k{i % 6}" for i in range(n)]},
        index=[f"c{i}" for i in range(n)],
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        var = pd.DataFrame(index=[f"g{j}" for j in range(p)])
        ad.AnnData(x, obs=obs, var=var).write_h5ad(work / "rna.h5ad")
        common = {"threads": 2, "device": "cpu", "html": False}
        mocli.integrate(
            [work / "rna.h5ad"],
            output=work / "m.h5mu",
            model="multigrate",
            max_steps=20,
            hvg={"rna": 0},
            **common,
        )
        for effect in ("scale=0.5", "log-shift=1"):
            before = time.perf_counter()
            result = mocli.perturb(
                [work / "rna.h5ad"], from_model=work / "m.model", output=work / "s.tsv", source="state=a",
                target="state=b", group_key="kind", screen="all", effect=effect, force=True, **common,
            )  # fmt: skip
            took = time.perf_counter() - before
            share = x.nnz / n / p
            print(
                f"{effect}, both directions: {p:,} genes x {asked.cells:,} cells ({share:.0%} expressed), "
                f"6 groups: {took:.1f} s in all, {result.report['timing']['perturb_s']:.1f} s to perturb, "
                f"peak {peak_memory() / 1e6:.0f} MB"
            )


if __name__ == "__main__":
    main()
