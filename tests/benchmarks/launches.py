"""Operations that one training step launches on a device, by model: what an accelerator's time is spent on.

    python tests/benchmarks/launches.py FOLDER [--models multigrate,...]

FOLDER gets the demo. Counted on the device that the tests make up (`tests/train/accelerator.py`): every
operation on its tensors but views, forward, backward, and in the optimisers. With `--cuda-graphs` what is
recorded counts as one launch; what is left draws the minibatch and copies it to its place.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))

STEPS = 30


def count(model, folder, accelerator, *, graphs):
    """Return launches of a step, the median of the last ten of sixty."""
    from tape import Tapes

    import mocli
    import mocli.tasks.trained.train
    import mocli.train.device
    from mocli.train.loop import _Stretch

    counted, step = [], _Stretch._step

    def counting(stretch, number):
        before = accelerator.launched
        terms = step(stretch, number)
        counted.append(accelerator.launched - before)
        return terms

    class OneLaunch(Tapes):
        def record(self, work):
            replay, result = super().record(work)

            def once():
                before = accelerator.launched
                replay()
                accelerator.launched = before + 1

            return once, result

    mocli.tasks.trained.train.CudaGraphs = OneLaunch
    mocli.train.device.choose_device = lambda *_, **__: accelerator.device
    torch.inference_mode = torch.no_grad
    _Stretch._step = counting
    given = {"max_steps": 2 * STEPS, "html": False, "metrics": "none", "threads": 1, "force": True}
    if model in ("multigrate", "multidgd"):
        inputs = [folder / "multiome.h5mu"]
    else:
        inputs, given["links"] = [folder / "rna.h5ad", folder / "prot.h5ad"], [folder / "rna-prot.tsv"]
    with accelerator, torch.autograd.set_multithreading_enabled(False):
        mocli.integrate(
            inputs, model=model, output=folder / "o.h5mu", umap=False,
            clusters=None, params={"batch_size": 64}, cuda_graphs=graphs, **given,
        )  # fmt: skip
    _Stretch._step = step
    return sorted(counted[-10:])[5]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default="scmodal,multigrate,multidgd,sccross")
    given = parser.parse_args()
    from accelerator import Accelerator
    from measure import show

    from mocli.data.demo import write_demo

    write_demo(given.folder, n_cells=300)
    accelerator = Accelerator()
    rows = []
    for model in given.models.split(","):
        launches, left = (count(model, given.folder, accelerator, graphs=g) for g in (False, True))
        rows.append({"model": model, "launches": launches, "with --cuda-graphs": left})
    show("launches of a step", rows, list(rows[0]))


if __name__ == "__main__":
    main()
