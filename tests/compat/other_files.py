"""Run by the Python of another environment: write files with its anndata and mudata, or read ours with them.

`python other_files.py write FOLDER` writes `rna.h5ad`, `prot.h5ad` and `data.h5mu`;
`python other_files.py read FILE...` prints a line of JSON on what each file holds.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

N, GENES, PROTEINS = 60, 40, 10


def cells(seed, features):
    """Counts of 60 cells with what tools usually leave beside them."""
    import anndata as ad

    rng = np.random.default_rng(seed)
    kind = np.arange(N) % 3
    mean = (rng.gamma(0.5, 1.0, (3, len(features))) + 0.05)[kind] * 3
    x = sparse.csr_matrix(rng.poisson(mean).astype(np.float32))
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type{k}" for k in kind]),
            "sample": [f"s{i % 2}" for i in range(N)],
            "depth": np.asarray(x.sum(1)).ravel(),
        },
        index=[f"c{i}" for i in range(N)],
    )
    made = ad.AnnData(x, obs=obs, var=pd.DataFrame({"long": features}, index=features))
    made.layers["log"] = sparse.csr_matrix(np.log1p(x.toarray()))
    made.obsm["X_pca"] = rng.normal(size=(N, 3))
    made.uns["method"] = {"name": "none", "values": np.arange(3)}
    made.raw = made
    return made


def write(folder):
    """Write one file a modality, and both in one."""
    import mudata as md

    rna = cells(1, [f"GENE{i}" for i in range(GENES)])
    prot = cells(2, [f"Prot{i}" for i in range(PROTEINS)])
    rna.write_h5ad(folder / "rna.h5ad", compression="gzip")
    prot.write_h5ad(folder / "prot.h5ad")
    md.MuData({"rna": rna, "prot": prot}).write(folder / "data.h5mu")


def read(path):
    """Say what a file holds."""
    if path.suffix == ".h5ad":
        import anndata as ad

        return of_one(ad.read_h5ad(path))
    import mudata as md

    both = md.read(str(path))
    found = {name: of_one(one) for name, one in both.mod.items()}
    return dict(found, obsm={key: total(both.obsm[key]) for key in sorted(both.obsm)}, n=both.n_obs)


def of_one(made):
    """Say what one modality holds."""
    return {
        "shape": list(made.shape),
        "X": total(made.X),
        "obs": {key: str(made.obs[key].iloc[0]) for key in sorted(made.obs)},
        "names": [made.obs_names[0], made.var_names[-1]],
        "obsm": {key: total(made.obsm[key]) for key in sorted(made.obsm)},
        "layers": {key: total(made.layers[key]) for key in sorted(made.layers)},
        "uns": sorted(made.uns),
    }


def total(values):
    """Sum up, to as many digits as versions of numpy agree on."""
    values = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return float(f"{np.abs(values.astype(np.float64)).sum():.4g}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        for name in sys.argv[2:]:
            print(json.dumps(read(Path(name))))
