"""What a run says of its metrics: lines on the terminal, tables of the report, warnings."""

from __future__ import annotations

import numpy as np

from mocli.metrics.registry import available_metrics
from mocli.report.figures import Entry, spoken, table
from mocli.tasks.run.run import Run
from mocli.tasks.score.evaluate import Scores

MAX_LINES = 12
"""Metrics shown in the log; the report has all."""


def describe_scores(run: Run, scores: Scores) -> None:
    """Record metrics and baselines, and log the leading ones, each with the baselines."""
    run.report.metrics = scores.metrics
    run.report.baselines = scores.baselines
    place = {name: one.headline for name, one in available_metrics().items() if one.headline}
    measured = [key for key, entry in scores.metrics.items() if entry["value"] is not None]
    leading = sorted((k for k in measured if _name(k) in place), key=lambda k: (place[_name(k)], k))
    # without any leading one the rest is better than silence
    shown = (leading or measured)[:MAX_LINES]
    for key in shown:
        entry = scores.metrics[key]
        beside = [
            f"{b['title']} {b['metrics'][key]['value']:.3f}"
            for b in scores.baselines.values()
            if b["metrics"].get(key, {}).get("value") is not None
        ]
        run.say(spoken(key, entry, *beside))
    if len(measured) > len(shown):
        run.say(f"  {len(measured) - len(shown)} more metrics are in the report")
    for baseline in (b for b in scores.baselines.values() if not b.get("is_bound")):
        both = [k for k in leading if baseline["metrics"].get(k, {}).get("value") is not None]
        worse = [k for k in both if _worse(scores.metrics[k], baseline["metrics"][k])]
        if 2 * len(worse) > len(both) > 1:
            run.warn(
                f"'{baseline['title']}', which needs no training, is better in {len(worse)} of {len(both)} "
                f"leading metrics ({', '.join(worse[:4])}): check the report before you use this latent"
            )


def _worse(ours: Entry, other: Entry) -> bool:
    sign = 1 if ours["better"] == "higher" else -1
    return sign * (ours["value"] or 0.0) < sign * (other["value"] or 0.0)


def _name(key: str) -> str:
    return key.partition("[")[0]


WORST_LINKS = 100
"""Rows of the report's table of links."""

CONTRADICTED = -4.0
"""Number of standard errors below 0 from which the data contradict a link."""


def describe_links(run: Run, scores: Scores) -> None:
    """Put the links that the cells agree on least into the report; warn of contradictions."""
    for (a, b), links in scores.links.items():
        finite = np.flatnonzero(np.isfinite(links.concordance))
        order = finite[np.argsort(links.concordance[finite], kind="stable")]
        if not len(order):
            continue
        drawn = f" of {len(links.names):,} drawn" if links.n_links > len(links.names) else ""
        run.report.tables[f"links_{a}_{b}"] = table(
            f"Links of {a} and {b}, those that the cells agree on least first",
            "Correlation of a linked feature with the mean of the 15 nearest cells of the other modality "
            f"in the latent ({min(len(order), WORST_LINKS):,}{drawn} shown). Negative: check the link.",
            ["link", "concordance"],
            [[links.names[i], float(links.concordance[i])] for i in order[:WORST_LINKS]],
        )
        limit = CONTRADICTED / np.sqrt(links.n_cells)
        against = [links.names[i] for i in order if links.concordance[i] < limit]
        if against:
            run.warn(
                f"the integrated cells contradict {len(against):,} of {len(finite):,} links of {a} and {b} "
                f"({', '.join(against[:5])}): where one feature is high, the other is low"
            )
