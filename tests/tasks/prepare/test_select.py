"""Which model auto takes."""

import pytest

from mocli.models.registry import available
from mocli.tasks.prepare.select import Demands, choose_model
from mocli.types import ModalityKind, Pairing, Task

TWO = [ModalityKind.RNA, ModalityKind.PROT]


def chosen(pairing=Pairing.UNPAIRED, task=Task.INTEGRATE, *, kinds=TWO, links=True, **asked):
    demands = Demands(**asked)
    return choose_model("auto", task=task, pairing=pairing, kinds=kinds, links=links, demands=demands)[0].name


def test_the_first_in_rank_is_taken():
    assert chosen() == "otcca"
    assert chosen(Pairing.PAIRED, links=False) == "multigrate"
    assert chosen(Pairing.MOSAIC) == "multigrate"
    assert chosen(Pairing.PAIRED, Task.PERTURB) == "multigrate"


def test_what_is_asked_of_training_leaves_out_models_that_do_not_know_it():
    assert chosen(params={"n_latent": 5}) == "otcca"
    assert chosen(params={"n_hidden": 64, "weight_mnn": 3}) == "scmodal"
    assert chosen(steps=True) == "scmodal"
    assert chosen(weights_of="sccross") == "sccross"
    assert available()[chosen(Pairing.PAIRED, sets=True)].uses_sets
    assert available()[chosen(Pairing.PAIRED, Task.SIMULATE, sets=True)].uses_sets
    # nobody knows it: the error is that of the model which would have been taken
    assert chosen(params={"n_latnet": 5}) == "otcca"


@pytest.mark.parametrize("pairing", list(Pairing))
def test_no_two_models_have_the_same_rank(pairing):
    ranks = [traits.rank[pairing] for traits in available().values() if pairing in traits.rank]
    assert sorted(ranks) == list(range(1, len(ranks) + 1))
