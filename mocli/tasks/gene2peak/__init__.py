"""Find the peaks that go with each gene.

For example: mocli gene2peak multiome.h5mu --from-model out.model --gtf genes.gtf.gz -o links.tsv
"""
