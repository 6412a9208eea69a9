"""Every console block of README and guide runs, on small data under the names that the lines use.

A block that cannot run here stands behind a comment in the page, `<!-- not run: REASON -->`.
"""

import gzip
import re
import shlex
import shutil
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

from mocli.__main__ import main
from mocli.data.demo import write_demo

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README": ROOT / "README.md"} | {
    page.stem: page for page in sorted((ROOT / "examples" / "guide").glob("*.md"))
}
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^\n]*) -->\n)?^```\n(?P<lines>.*?)\n```$", re.DOTALL | re.MULTILINE)
MARKED = {"demo", "test"}  # run elsewhere, in tests/cli/test_readme.py and .ci/run

TRAINED = {"integrate", "impute", "simulate", "perturb", "gene2peak"}
QUICK = shlex.split("--max-steps 2 --n-latent 4 --batch-size 32 --no-html --threads 1 --device cpu --force")
MORE = {
    "integrate": ["--metrics", "none", "--no-umap"],
    "links": ["--force"],
    "benchmark": shlex.split(
        "--max-steps 2 --models multigrate --seeds 0 --threads 1 --device cpu --no-html --force"
    ),
}
"""Options that make a run small; they come last, and each line stays as it is before them."""

BEFORE = {
    "README": "mocli integrate cite.h5mu multiome.h5mu --label-key cell_type --batch-key sample -o out.h5mu",
    "perturb": "mocli integrate cite.h5mu -o out.h5mu",
    "simulate": "mocli integrate multiome.h5mu --label-key cell_type -o out.h5mu",
}
"""What makes the model that a page takes for granted."""


def blocks(page):
    """The blocks of a page with their mark, None without one."""
    return [(found["mark"], found["lines"]) for found in BLOCK.finditer(PAGES[page].read_text())]


def lines_of(page):
    """The commands of a page that can run here, in order; of the README, those of its table, too."""
    lines = [
        part.strip()
        for mark, block in blocks(page)
        if mark not in MARKED and not (mark or "").startswith("not run: ")
        for line in block.splitlines()
        for part in line.split("&&")
    ]
    if page == "README":
        table = PAGES[page].read_text().split("## I have")[1].split("\n## ")[0]
        lines += re.findall(r"`(mocli [^`]+)`", table)
    return [line for line in lines if line.startswith("mocli ")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The demo under the names of the guide: paired cells, runs, a query, proteins in obsm, genes as GTF."""
    folder = tmp_path_factory.mktemp("guide")
    write_demo(folder, n_cells=120)
    multiome = md.read_h5mu(folder / "multiome.h5mu")
    rna, prot = (ad.read_h5ad(folder / f"{name}.h5ad") for name in ("rna", "prot"))
    rng = np.random.default_rng(0)
    for cells in (rna, prot, *multiome.mod.values()):
        cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).replace("myelo_c", "Astro")
        cells.obs["condition"] = np.where(np.arange(cells.n_obs) % 2, "ctrl", "stim")
        cells.obs["sample"] = cells.obs["site"] = cells.obs["batch"]
        cells.obsm["X_genes" if cells is rna else "X_proteins"] = rng.normal(size=(cells.n_obs, 6))
        cells.obsm["spatial"] = rng.normal(size=(cells.n_obs, 2))
    same = [cells[np.argsort(cells.obs["true_cell"])].copy() for cells in (rna, prot)]
    same[1].var_names = [name + "_ab" if name in rna.var_names else name for name in prot.var_names]
    for cells in same:
        cells.obs_names = [f"cell_{i}" for i in range(cells.n_obs)]
    held = same[0].copy()
    held.obsm["protein_expression"] = pd.DataFrame(
        same[1].X.toarray(), index=held.obs_names, columns=same[1].var_names
    )
    written = {"rna": rna, "prot": prot, "cite": held, "atac": multiome["atac"], "query": rna, "more": rna}
    written |= {f"run{i + 1}": same[0][i::2].copy() for i in range(2)} | {"run1-prot": same[1][::2].copy()}
    for name, cells in written.items():
        copy = cells.copy()
        if name in {"atac", "query", "more"}:
            copy.obs_names = [f"{name}_{cell}" for cell in copy.obs_names]
        copy.write_h5ad(folder / f"{name}.h5ad")
    with md.set_options(pull_on_update=False):
        for name in ("cite", "data"):
            md.MuData({"rna": same[0], "prot": same[1]}).write_h5mu(folder / f"{name}.h5mu")
        md.MuData(dict(multiome.mod)).write_h5mu(folder / "multiome.h5mu")
    (folder / "links.tsv").write_text((folder / "rna-prot.tsv").read_text())
    rows = "".join(f"{i}\t{i}\n" for i in range(30))
    (folder / "positions.tsv").write_text(f"rna_index\tprot_index\n{rows}")
    genes = multiome["rna"].var
    with gzip.open(folder / "genes.gtf.gz", "wt") as out:
        for name, gene in genes.iterrows():
            place = f"{gene['chrom']}\tx\tgene\t{gene['start']}\t{gene['end']}\t.\t{gene['strand']}\t."
            out.write(f'{place}\tgene_id "{name}"; gene_name "{name}";\n')
    return folder


def run_line(line, capsys):
    """Run one line of a page in this process, with options that make it small."""
    command, _, to = line.partition(">")
    argv = shlex.split(command)[1:]
    more = (QUICK if argv[0] in TRAINED else []) + MORE.get(argv[0], [])
    if {"check", "--config", "--collect", "-h"} & set(argv):  # these make nothing, or have their options
        more = []
    code = main(argv + more)
    printed = capsys.readouterr()
    assert code == 0, f"{line}\n{printed.err[-2000:]}"
    if to:
        Path(to.strip()).write_text(printed.out)


SLOW = {"benchmark", "hpc", "README"}
"""Pages whose lines take more than ten seconds together; .ci/run runs them."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else [])
        for page in PAGES
        if lines_of(page)
    ],
)
def test_every_line_of_a_page_runs(page, data, tmp_path, monkeypatch, capsys):
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    made = ""
    for line in lines_of(page):
        if "out.model" in line and made != BEFORE[page]:
            made = BEFORE[page]
            run_line(made, capsys)
        if "-o out.h5mu" in line:
            made = line
        run_line(line, capsys)


def test_a_block_that_does_not_run_says_why():
    for page in PAGES:
        for mark, _ in blocks(page):
            assert mark is None or mark in MARKED or re.fullmatch(r"not run: \S.{10,}", mark), (page, mark)
