"""A training step never asks the device for a value: no read, no shape that depends on data.

Fake tensors have shapes and no values: whoever reads one is found out. On the fake `cuda` of a build of torch
that has it the paths of accelerators are taken (mark `gpu_fake`), else those of the processor.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mocli.data.bundle import Minibatch
from mocli.models.base import Widths
from mocli.models.multidgd.model import MultiDGD
from mocli.models.multidgd.module import Shape as DgdShape
from mocli.models.multigrate.model import Multigrate
from mocli.models.multigrate.module import Shape as MultigrateShape
from mocli.models.parameters import resolve
from mocli.models.registry import traits_of
from mocli.models.sccross.model import Sccross
from mocli.models.sccross.module import ModalityPart, SccrossModule
from mocli.models.sccross.module import Shape as SccrossShape
from mocli.models.scmodal.model import Scmodal
from mocli.nn import count_loss
from mocli.train.optim import RowAdam
from mocli.types import NonZeros

N, P = 12, {"rna": 9, "prot": 5}
TAKEN = (("rna", 9, "nb"), ("prot", 5, "normal"))
SMALL = {"n_latent": 4, "n_hidden": 8, "batch_size": N}


def multigrate():
    shape = MultigrateShape(modalities=TAKEN, levels={}, continuous=(), has_batch=False, patterns=(1, 2, 3))
    over = {"weight_kl": 0.3, "modality_dropout": 0.5, "weight_latent": 1.0, "weight_marginal": 1.0}
    model = Multigrate(shape, resolve(traits_of("multigrate"), SMALL | over))
    return model, ["all"]


def multidgd():
    shape = DgdShape(modalities=TAKEN, levels={"batch": ("a", "b")}, continuous=(), n_cells=N)
    return MultiDGD(shape, resolve(traits_of("multidgd"), SMALL | {"n_components": 3})), ["decoder"]


def sccross():
    parts = (
        ModalityPart("rna", 9, "nb", "lognorm", 4, 6, 2),
        ModalityPart("prot", 5, "normal", "identity", 4, 6, 2),
    )
    params = resolve(traits_of("sccross"), SMALL | {"n_components": 4})
    module = SccrossModule(SccrossShape(parts, (("rna", "prot"),), None, ()), params)
    prior = {("rna", "prot"): (torch.randn(N, 3), torch.randn(N, 3))}
    module.keep_prior(prior)
    module.keep_inputs({name: torch.randn(N, 4) for name in P})
    return Sccross(module, params), ["pretrain", "critic", "generator"]


def scmodal():
    params = resolve(traits_of("scmodal"), SMALL | {"n_neighbors": 3})
    return Scmodal(Widths(P, (("rna", "prot"),)), params), ["critic", "generator"]


def minibatch(*, together):
    rows = {name: torch.arange(N) for name in P}
    x = {name: torch.randn(N, p) for name, p in P.items()}
    if not together:
        return Minibatch(x=x, links={("rna", "prot"): (torch.randn(N, 3), torch.randn(N, 3))}, rows=rows)
    at = torch.arange(2 * N)
    counts = NonZeros(torch.ones(2 * N), at // 2, at % 9, torch.arange(0, 2 * N, 2), (N, 9))
    return Minibatch(
        x={"prot": x["prot"]}, counts={"rna": counts}, links={}, rows=rows, cells=torch.arange(N),
        positions=rows, codes={"batch": torch.zeros(N, dtype=torch.int64)},
        library={name: torch.ones(N) for name in P},
    )  # fmt: skip


def step(build, *, together):
    model, groups = build()
    model.module.train()
    prepared = model.prepare(minibatch(together=together))
    for group in groups:
        losses = model.losses(prepared, group)
        torch.autograd.backward(losses.total, retain_graph=True)
    return model


@pytest.fixture
def processor(monkeypatch):
    """What the processor may ask itself for nothing is not asked of an accelerator."""
    monkeypatch.setattr(count_loss, "_scaled", lambda gradient, scale: gradient * scale)


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("build", [multigrate, multidgd, sccross])
def test_a_step_on_cells_measured_together_reads_nothing(build):
    with FakeTensorMode():
        step(build, together=True)


def test_a_step_on_cells_measured_apart_reads_nothing():
    with FakeTensorMode():
        step(scmodal, together=False)


@pytest.mark.gpu_fake
@pytest.mark.parametrize("build", [multigrate, multidgd, sccross, scmodal])
def test_a_step_on_an_accelerator_reads_nothing(build):
    if torch.version.cuda is None:
        pytest.skip("a build of torch without CUDA has no fake cuda tensors")
    with FakeTensorMode(), torch.device("cuda"):
        model = step(build, together=build is not scmodal)
        if build is multidgd:
            RowAdam([model.module.cells], lr=0.1).step()
