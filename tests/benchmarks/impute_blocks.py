"""Memory and pace of `mocli impute`: many features for many cells, from a model that is there.

    python tests/benchmarks/impute_blocks.py [--cells 50000] [--genes 20000] [--out FOLDER]

A model is trained for a few steps on 2,000 cells; then genes are imputed for all proteins' cells by a
process of its own. Prints peak memory, size of the output, seconds per million values and what bounds them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse


def write(path, x, names):
    """Write counts."""
    cells = pd.DataFrame(index=[f"{path.stem}{i}" for i in range(x.shape[0])])
    ad.AnnData(x, cells, pd.DataFrame(index=names)).write_h5ad(path)


def mocli(*words):
    """Run a command; peak memory in MB and wall seconds."""
    begun = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "mocli", *map(str, words)], stderr=subprocess.PIPE)
    said = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(said)
    return usage.ru_maxrss * 1024 / 1e6, time.monotonic() - begun, said


def main():
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(asked.genes)]
    with tempfile.TemporaryDirectory(dir=asked.out) as name:
        folder = Path(name)
        x = sparse.random(2000, asked.genes, 0.07, "csr", np.float32, rng)
        x.data = np.ceil(x.data * 5)
        write(folder / "rna.h5ad", x, genes)
        for file, n in (("prot", 2000), ("many", asked.cells)):
            y = sparse.csr_matrix(rng.poisson(3, (n, 40)).astype(np.float32))
            write(folder / f"{file}.h5ad", y, [f"P{i}" for i in range(40)])
        (folder / "links.tsv").write_text("rna\tprot\n" + "".join(f"G{i}\tP{i}\n" for i in range(40)))
        common = ["--device", "cpu", "--threads", "1", "--no-html", "--force"]
        inputs = [f"rna={folder / 'rna.h5ad'}", f"prot={folder / 'prot.h5ad'}"]
        links = ["--links", folder / "links.tsv", "--max-steps", "20"]
        mocli("integrate", *inputs, *links, "-o", folder / "o.h5mu", *common)
        options = ["--from-model", folder / "o.model", "--to", "rna", "-o", folder / "filled.h5ad", *common]
        peak, seconds, said = mocli("impute", f"prot={folder / 'many.h5ad'}", *options)
        pace = next(line for line in said.splitlines() if "million values" in line)
        report = json.loads((folder / "filled.report.json").read_text())
        size = (folder / "filled.h5ad").stat().st_size / 1e6
        print(pace.split(" ", 2)[2])
        found = {
            "peak_mb": round(peak),
            "wall_s": round(seconds, 1),
            "output_mb": round(size),
            "dense_mb": round(4 * asked.cells * asked.genes / 1e6),
            "timing": report["timing"],
        }
        print(json.dumps(found))


if __name__ == "__main__":
    main()
