"""Some epochs of Multigrate for `beside_totalvi.py`, in a process of its own.

python tests/benchmarks/multigrate_run.py DATA.h5mu EPOCHS PARAMS.json answer.json
"""

import json
import math
import sys
from pathlib import Path

import measure

measure.one_thread()

import torch  # noqa: E402 - threads are set first

from mocli.models.base import Schedule  # noqa: E402
from mocli.models.registry import load_class, resolve  # noqa: E402
from mocli.tasks.prepare.load import load  # noqa: E402
from mocli.tasks.prepare.plan import make_plan  # noqa: E402
from mocli.tasks.run.options import DataOptions, TrainOptions  # noqa: E402
from mocli.train.loop import Training, fit  # noqa: E402
from mocli.types import Task  # noqa: E402


def quiet(_):
    """Say nothing."""


def main(path, epochs, params, answer):
    """Train on all genes, cut after some epochs."""
    torch.set_num_threads(1)
    options = DataOptions([path], hvg={"rna": 10**9})
    made = make_plan(options, TrainOptions(model="multigrate"), Task.INTEGRATE, quiet)
    params = resolve(made.traits, json.loads(params))
    prepared = load(made, params, seed=0, say=quiet, warn=quiet)
    torch.manual_seed(0)
    model = load_class(made.traits.model).from_bundle(prepared.bundle, params)
    trained_on = (1 - params.validation_share) * prepared.bundle.n_cells
    steps = int(epochs) * math.ceil(trained_on / params.batch_size)
    done = fit(model, prepared.bundle, Schedule(max_steps=steps), Training(torch.device("cpu"), seed=0))
    widths = {name: m.features.n_vars for name, m in prepared.bundle.modalities.items()}
    told = {"steps": done.steps, "widths": widths, "batch_size": model.params.batch_size}
    Path(answer).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
