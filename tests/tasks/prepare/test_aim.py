"""What comes after training is foretold too: stacks for imputation, genes that fall silent."""

from dataclasses import replace

import pytest

from mocli.data.demo import write_demo
from mocli.models.registry import resolve
from mocli.tasks.prepare import plan as aims
from mocli.tasks.prepare.footprint import S_PER_SILENCED, S_PER_STACK, S_PER_STACKED, duration, footprint
from mocli.tasks.prepare.plan import Aim, make_plan
from mocli.tasks.run.options import DataOptions, RunOptions, TrainOptions
from mocli.types import Pairing, Task

N = 120


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Return the plan of the demo's multiome, paired or not."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=N)

    def plan(pairing):
        data = DataOptions(
            inputs=[str(folder / "multiome.h5mu")], links=[str(folder / "rna-atac.tsv")], pairing=pairing
        )
        return make_plan(data, TrainOptions(model="sccross"), Task.INTEGRATE, lambda _: None)

    return plan


def widths(plan):
    return {c.file.name: c.file.n_vars for c in plan.choices}


def after(plan, aim):
    params = resolve(plan.traits, {}, "auto")
    size = footprint(plan, params, aim)
    return duration(plan, params, TrainOptions(), RunOptions(threads=1), size, aim).after


def test_a_stack_takes_time_by_cells_and_features(planned, monkeypatch):
    plan = planned(Pairing.PAIRED)
    of = widths(plan)
    for target in of:
        expected = S_PER_STACK + S_PER_STACKED * N * of[target]
        assert after(plan, Aim(Task.IMPUTE, target)) == pytest.approx(expected)
    every = 2 * S_PER_STACK + S_PER_STACKED * N * sum(of.values())
    assert after(plan, Aim(Task.INTEGRATE)) == pytest.approx(every)
    assert Aim(Task.IMPUTE).stacks(plan) == [(N, max(of.values()))]
    assert sorted(Aim(Task.INTEGRATE).stacks(plan)) == sorted((N, p) for p in of.values())
    assert Aim(Task.INTEGRATE, stacked=False).stacks(plan) == []
    monkeypatch.setattr(aims, "MOST_FEATURES", max(of.values()) - 1)
    assert Aim(Task.INTEGRATE).stacks(plan) == [(N, min(of.values()))]
    assert Aim(Task.PERTURB).stacks(plan) == []
    assert Aim(Task.IMPUTE).stacks(planned(Pairing.UNPAIRED)) == []


def test_a_stack_takes_memory_by_cells_and_features(planned):
    plan = planned(Pairing.PAIRED)
    params, stage = resolve(plan.traits, {}, "auto"), "ways to impute are weighed"
    needs = [footprint(plan, params, Aim(Task.IMPUTE, name)).stages[stage] for name in ("rna", "atac")]
    of = widths(plan)
    assert (needs[0] < needs[1]) == (of["rna"] < of["atac"])
    assert stage not in footprint(plan, params, Aim(Task.SIMULATE)).stages


def test_genes_that_fall_silent_take_time_by_cells_that_express_them(planned):
    plan = planned(Pairing.PAIRED)
    of, rna = widths(plan), next(c.file for c in plan.choices if c.file.name == "rna")
    assert after(plan, Aim(Task.GENE2PEAK)) == 0
    every = after(plan, Aim(Task.GENE2PEAK, silenced=of["rna"]))
    assert every == pytest.approx(S_PER_SILENCED * rna.read().nnz * of["atac"], rel=0.01)


def test_words_name_what_comes_after_where_it_is_most(planned):
    plan = planned(Pairing.PAIRED)
    params, aim = resolve(plan.traits, {}, "auto"), Aim(Task.GENE2PEAK, silenced=10)
    told = duration(plan, params, TrainOptions(), RunOptions(threads=1), footprint(plan, params, aim), aim)
    assert "after training" not in told.words
    assert "10 min for what comes after training" in replace(told, around=8.0, after=600.0).words
