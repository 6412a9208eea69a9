"""Change features of cells, and see where the cells go.

For example: mocli perturb data.h5mu --from-model out.model --from state=ill --to state=well -o out.tsv
"""
