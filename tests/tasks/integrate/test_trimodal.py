"""Three modalities in a chain: cells of the two that share no link still find each other."""

import pytest

import mocli
from mocli.data.demo import write_demo

# in the middle: gex, adt, atac; the order of the command line differs as well
CHAINS = {
    "gex": (["adt", "gex", "atac"], ["adt-gex", "gex-atac"]),
    "adt": (["gex", "atac", "adt"], ["adt-gex", "adt-atac"]),
    "atac": (["atac", "adt", "gex"], ["adt-atac", "gex-atac"]),
}
# the demo's files say what they measure, and so they are named
NAMES = {"gex": "rna", "adt": "prot", "atac": "atac"}


def ends_meet(folder, output, middle, *, params, max_steps=None):
    """Label transfer between the two ends of a chain, both ways."""
    inputs, links = CHAINS[middle]
    result = mocli.integrate(
        [folder / f"{name}.h5ad" for name in inputs],
        links=[folder / f"{name}.tsv" for name in links],
        output=output,
        label_key="cell_type",
        params=params,
        max_steps=max_steps,
        threads=1,
        metrics="all",
        device="cpu",
        html=False,
    )
    # which of two comes first is settled by the command line
    edges = {frozenset((r["source"], r["target"])) for r in result.report["links"]}
    assert edges == {frozenset(NAMES[name] for name in link.split("-")) for link in links}
    a, b = (NAMES[name] for name in inputs if name != middle)
    metrics = result.report["metrics"]
    return [metrics[f"label_transfer[{x}->{y}]"]["value"] for x, y in ((a, b), (b, a))]


def test_the_ends_of_a_chain_are_linked_and_scored(tmp_path):
    write_demo(tmp_path / "demo", n_cells=60, trimodal=True)
    small = {"n_hidden": 32, "batch_size": 64}
    both = ends_meet(tmp_path / "demo", tmp_path / "out.h5mu", "gex", params=small, max_steps=20)
    assert all(0 <= accuracy <= 1 for accuracy in both)


@pytest.mark.slow
@pytest.mark.parametrize("middle", CHAINS)
def test_whichever_modality_is_in_the_middle(tmp_path, middle):
    """The schedule is the default one; networks and minibatches are small, for the time they take."""
    write_demo(tmp_path / "demo", n_cells=600, trimodal=True)
    small = {"n_hidden": 128, "batch_size": 200}
    both = ends_meet(tmp_path / "demo", tmp_path / "out.h5mu", middle, params=small)
    assert min(both) >= 0.85
