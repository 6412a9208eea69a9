"""Pictures of simulated cells: how mean and variance of features go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mocli.report.figure import ACCENT, FAINT, INK, dress, new_figure, printable, to_png

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mocli.report.figure import Picture
    from mocli.types import DoubleArray

    Moments = tuple[DoubleArray, DoubleArray]


def mean_variance(panels: Sequence[tuple[str, Moments, Moments]]) -> Picture:
    """Draw variance over mean of every feature, real cells in grey, simulated ones in colour.

    Parameters
    ----------
    panels
        Title, mean and variance of each feature in real cells, `(p,)` each, and in simulated ones.
    """
    n = max(len(panels), 1)
    figure = new_figure(3.4 * n, 3.0)
    for axes, (title, real, simulated) in zip(np.atleast_1d(figure.subplots(1, n)), panels, strict=True):
        dress(axes, title=printable(title, 40))
        for (mean, variance), colour, name in ((real, FAINT, "real"), (simulated, ACCENT, "simulated")):
            known = (mean > 0) & (variance > 0)
            axes.plot(
                mean[known], variance[known], ".", color=colour, markersize=3, alpha=0.5, label=name,
                rasterized=True,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set_xlabel("mean", fontsize=8, color=INK)
        axes.set_ylabel("variance", fontsize=8, color=INK)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    return to_png(figure)
