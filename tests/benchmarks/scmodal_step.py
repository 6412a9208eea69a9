"""One scMODAL training step: mocli's, the published package's way, and the bare matrix products.

`paper` is mocli's step with `--preset paper`, which computes what the published package does;
`default` has soft anchors searched in smoothed links.

    python tests/benchmarks/scmodal_step.py [--rounds 7] [--links 32 2500]

CPU seconds on one thread; contenders alternate in random order within each round. Prints tables
and one JSON line. Targets: at least 10 times less than the published way, at most 1.7 times the
products, under 200 MB above the data.
"""

import argparse
import statistics
import subprocess
import sys

import measure

measure.one_thread()

import torch  # noqa: E402 - threads are set first
from authors_step import AuthorsStep  # noqa: E402
from matrix_products import Recorder, Replay, canonical, gflop, needed_products  # noqa: E402
from neighbor_forest import LIBRARY  # noqa: E402
from step_setup import PAPER, WIDTHS, dense_inputs, loop_of, make_bundle, smoothed  # noqa: E402

from mocli.models.scmodal.params import ScmodalParams  # noqa: E402

MEMORY = ("paper", "default", "published")


def same_terms(n_links):
    """Relative difference of each term between both steps, from the same weights and minibatch."""
    bundle = make_bundle(n_links, n_cells=1000, widths=(300, 40))
    model, stretch = loop_of(bundle)
    theirs = AuthorsStep(model, *dense_inputs(bundle))
    batch = loop_of(bundle)[1].batches.next(0)
    (links,) = batch.links.values()
    reference = theirs.step(*batch.x.values(), *(x.numpy() for x in links))
    ours = stretch._step(0)
    return {k: abs(ours[k].item() / v.item() - 1) for k, v in reference.items()}


def time_steps(n_links, rounds):
    """Ratios and medians for one number of links."""
    bundle = make_bundle(n_links)
    model, paper = loop_of(bundle)
    default = loop_of(smoothed(bundle), ScmodalParams())[1]
    authors = AuthorsStep(model, *dense_inputs(bundle))
    with Recorder() as recorder:
        paper._step(0)
    needed = canonical(needed_products(model.params.batch_size, WIDTHS, n_links, model.params))
    contenders = {
        "paper": (lambda: paper._step(1), 5),
        "default": (lambda: default._step(1), 5),
        "published": (authors, 1),
        "products": (Replay(recorder.seen), 5),
    }
    seconds, user = measure.alternate(contenders, rounds=rounds)
    extra = recorder.shapes() - needed
    return {
        "links": n_links,
        "seconds": {name: round(statistics.median(s), 4) for name, s in seconds.items()},
        "user_seconds": {name: round(statistics.median(s), 4) for name, s in user.items()},
        "published_over_paper": measure.ratio(seconds["published"], seconds["paper"]),
        "published_over_default": measure.ratio(seconds["published"], seconds["default"]),
        # without the kernel's time, most of which goes into handing out gigabytes of fresh pages
        "published_over_paper_user": measure.ratio(user["published"], user["paper"]),
        "paper_over_products": measure.ratio(seconds["paper"], seconds["products"]),
        "default_over_products": measure.ratio(seconds["default"], seconds["products"]),
        "gflop": round(gflop(recorder.shapes()), 2),
        "gflop_needed": round(gflop(needed), 2),
        "products_not_needed": {"x".join(map(str, k)): n for k, n in extra.items()},
    }


def peak_memory(who, n_links):
    """MB above the data while stepping, model and optimiser included; run in a process of its own."""
    small = make_bundle(4, n_cells=600, widths=(20, 10))
    model, stretch = loop_of(small)
    stretch._step(0)  # loads what torch loads on first use
    AuthorsStep(model, *dense_inputs(small))()
    bundle, params = make_bundle(n_links), PAPER
    if who == "default":
        bundle, params = smoothed(bundle), ScmodalParams()
    dense = dense_inputs(bundle) if who == "published" else None
    measure.return_freed_memory()
    measure.forget_peak()
    before = measure.status_mb("VmRSS")
    model, stretch = loop_of(bundle, params)
    step = (lambda: stretch._step(0)) if dense is None else AuthorsStep(model, *dense)
    for _ in range(10 if dense is None else 2):
        step()
    return measure.status_mb("VmHWM") - before


def memory_of(who, n_links):
    """`peak_memory` in a fresh process."""
    command = [sys.executable, __file__, "--memory", who, "--links", str(n_links)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds of every contender")
    parser.add_argument("--links", type=int, nargs="+", default=[32, 2500])
    parser.add_argument("--memory", choices=MEMORY, help="print the peak of one contender and end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(peak_memory(options.memory, options.links[0]))
        return
    load_before = measure.machine().get("load")
    results = [time_steps(n, options.rounds) for n in options.links]
    for result in results:
        result["peak_mb"] = {who: round(memory_of(who, result["links"])) for who in MEMORY}
    difference = same_terms(options.links[0])
    seconds = [{"links": r["links"], **r["seconds"], "GFLOP of products": r["gflop"]} for r in results]
    measure.show(
        f"One step, B = 500, {WIDTHS[0]} + {WIDTHS[1]} features, one thread: "
        f"CPU seconds, median of {options.rounds} rounds",
        seconds,
        list(seconds[0]),
    )
    names = [name for name in results[0] if "_over_" in name]
    ratios = [
        {
            "ratio of medians": name.replace("_", " "),
            **{f"{r['links']} links": _words(r[name]) for r in results},
        }
        for name in names
    ]
    measure.show("Ratios [95 % interval]", ratios, list(ratios[0]))
    memory = [{"links": r["links"], **r["peak_mb"]} for r in results]
    measure.show("Peak MB above the data", memory, list(memory[0]))
    print(f"  products that are not needed: {results[0]['products_not_needed'] or 'none'}")
    print(f"  neighbours the published way: {LIBRARY}")
    print("  first step from the same weights, relative difference of the terms:")
    print("   ", ", ".join(f"{k} {v:.1e}" for k, v in difference.items()))
    figures = {
        "rounds": options.rounds,
        "results": results,
        "neighbours": LIBRARY,
        "load_before": load_before,
    }
    measure.emit("scmodal_step", {**figures, "first_step_difference": difference, "torch": torch.__version__})


def _words(found):
    return f"{found['ratio']} [{found['low']}, {found['high']}]"


if __name__ == "__main__":
    main()
