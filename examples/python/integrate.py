"""The same as `mocli integrate`, from Python: integrate.py RNA.h5ad PROT.h5ad LINKS.tsv OUT.h5mu."""

import sys

import mudata

import mocli

rna, prot, links, out = sys.argv[1:5]
result = mocli.integrate([rna, prot], links=[links], output=out, max_steps=100, html=False, force=True)

cells = mudata.read_h5mu(result.output)
print(cells.obsm["X_scmodal"].shape, result.report["metrics"]["mixing"]["value"])
