"""`mocli integrate` from Python: integrate.py RNA.h5ad PROT.h5ad LINKS.tsv OUT.h5mu [MAX_STEPS]."""

import sys

import mudata

import mocli

rna, prot, links, out, *steps = sys.argv[1:]
max_steps = int(steps[0]) if steps else None  # None: as many as the data need
result = mocli.integrate([rna, prot], links=[links], output=out, max_steps=max_steps, html=False)

cells = mudata.read_h5mu(result.output)
print(cells.obsm[f"X_{result.report['model']['name']}"].shape, result.report["metrics"]["mixing"]["value"])
