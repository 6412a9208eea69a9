"""Make a figure, style its axes, colour it, turn it into SVG or PNG: matplotlib without pyplot.

Colours are set one by one instead of through `rcParams`: those are shared by
all threads, and the caller may have changed them.

The first seven colours of categories, which people with colour-vision deficiencies can tell apart, are
those of Okabe and Ito (2008), "Color Universal Design", without black and with the yellow darkened for
white paper. Further levels repeat these hues lighter and darker; beyond eight, pictures add numbers.
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mocli.types import DoubleArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture: TypeAlias = "str | bytes"
"""SVG text or PNG bytes."""

INK = "#222222"
FAINT = "#8a8f98"
RULE = "#d5d8dd"
ACCENT = "#0072b2"
ALERT = "#c1440e"

_BASE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#d8c400")
# share of white (positive) or black (negative) mixed in, round after round
_SHADES = (0.0, -0.4, 0.5, -0.65)
_GREYS = ("#555555", "#999999")

MAX_LEVELS = len(_BASE) * len(_SHADES) + len(_GREYS)
OTHER = "#b8bcc2"
UNKNOWN = "#dfe1e5"

_DPI = 160
MANY = 2_000
"""Most points of a cloud that are drawn as vectors."""
# ids that matplotlib draws at random end in ten hexadecimal digits: where they are set, and where used
_RANDOM_ID = re.compile(r'(?<=["#])[A-Za-z]\w*[0-9a-f]{10}(?=["\)])')


_WRITTEN = re.compile(r"\d\d+-[0-9a-z-]*\.(svg|png|pdf)")
"""Names of the files that `Kept.write` writes."""

_kept: ContextVar[Kept | None] = ContextVar("kept", default=None)


@dataclass
class Kept:
    """Figures that were made, and those shown on a page, with their titles in its order."""

    by_picture: dict[Picture, Figure] = field(default_factory=dict)
    shown: list[tuple[str, Figure]] = field(default_factory=list)

    def write(self, folder: Path, suffix: str) -> None:
        """Write the figures shown as files in a folder, numbered and named by title, `png` at 300 dpi.

        Files of an earlier run, which may have shown others, are deleted. Clouds of more than 2,000 points
        are pixels in `svg` and `pdf`, too: no program draws that many quickly.
        """
        folder.mkdir(exist_ok=True)
        for earlier in folder.iterdir():
            if _WRITTEN.fullmatch(earlier.name):
                earlier.unlink()
        dates: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
        for number, (title, figure) in enumerate(self.shown, start=1):
            for axes in figure.axes:
                for points in axes.collections:
                    if np.shape(points.get_offsets())[0] > MANY:
                        points.set_rasterized(True)
            name = re.sub(r"[^0-9a-z]+", "-", title.lower()).strip("-")[:60]
            figure.savefig(
                folder / f"{number:02d}-{name}.{suffix}",
                format=suffix,
                dpi=300,
                facecolor="white",
                metadata=dates.get(suffix, {}),
            )


@contextmanager
def keeping() -> Iterator[Kept]:
    """Keep the figures of all pictures that are made inside."""
    token = _kept.set(kept := Kept())
    try:
        yield kept
    finally:
        _kept.reset(token)


def show(picture: Picture, title: str) -> None:
    """Record that a page shows a picture under a title."""
    figures = _kept.get()
    if figures is not None and picture in figures.by_picture:
        figures.shown.append((title, figures.by_picture[picture]))


def _keep(picture: Picture, figure: Figure) -> None:
    figures = _kept.get()
    if figures is not None:
        figures.by_picture[picture] = figure


def new_figure(width: float, height: float, *, constrained: bool = True) -> Figure:
    """Return an empty white figure, size in inches."""
    from matplotlib.figure import Figure

    return Figure(
        figsize=(width, height),
        dpi=_DPI,
        facecolor="white",
        edgecolor="white",
        layout="constrained" if constrained else None,
    )


def panel_grid(figure: Figure, n: int, n_columns: int) -> list[Axes]:
    """Return axes for `n` panels in rows of `n_columns`; remaining positions stay empty."""
    axes = list(figure.subplots(max(-(-n // n_columns), 1), n_columns, squeeze=False).ravel())
    for empty in axes[n:]:
        empty.set_visible(False)
    return axes[:n]


def chart(
    width: float, height: float, *, x: str = "", y: str = "", frame: bool = True
) -> tuple[Figure, Axes]:
    """Return a figure of one panel, size in inches, with the look of the report and names of its axes."""
    figure = new_figure(width, height)
    axes = figure.subplots()
    dress(axes, x=x, y=y, frame=frame)
    return figure, axes


def dress(axes: Axes, *, title: str = "", x: str = "", y: str = "", frame: bool = True) -> None:
    """Give axes the look of the report: left and bottom rules only, small grey ticks; name them."""
    axes.set_facecolor("white")
    axes.set_axisbelow(True)
    axes.grid(visible=False)
    for side, spine in axes.spines.items():
        spine.set_visible(frame and side in ("left", "bottom"))
        spine.set_color(FAINT)
        spine.set_linewidth(0.8)
    axes.tick_params(colors=INK, labelcolor=INK, labelsize=8, color=FAINT, width=0.8, length=3)
    axes.minorticks_off()
    axes.set_xlabel(x, fontsize=8, color=INK)
    axes.set_ylabel(y, fontsize=8, color=INK)
    if title:
        axes.set_title(wrapped(title), loc="left", fontsize=9, color=INK, fontweight="bold")


def wrapped(title: str, width: int = 32) -> str:
    """Return a title in as many lines as it needs, so that titles beside each other do not overlap.

    No line is broken at a no-break space.
    """
    return "\n".join(printable(line, width) for line in textwrap.wrap(re.sub(r"[ \t\n]+", " ", title), width))


def printable(text: object, width: int = 60) -> str:
    """Return text that matplotlib draws as it is: no mathematics, no missing glyph, no line break."""
    glyphs = _glyphs()
    flat = " ".join(str(text).split())
    if len(flat) > width:
        flat = flat[: width - 1].rstrip() + "…"
    return "".join(c if ord(c) in glyphs else "?" for c in flat).replace("$", r"\$")


def _glyphs() -> dict[int, int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    glyphs: dict[int, int] = get_font(findfont(FontProperties())).get_charmap()  # type: ignore[assignment]
    return glyphs


def to_svg(figure: Figure) -> str:
    """Return the figure as SVG; the same figure gives the same bytes."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    stable: dict[str, str] = {}
    text = _RANDOM_ID.sub(lambda match: stable.setdefault(match[0], f"i{len(stable)}"), text)
    svg = text[text.index("<svg") :]
    _keep(svg, figure)
    return svg


def to_png(figure: Figure) -> bytes:
    """Return the figure as PNG of 256 colours: a third of the size of full colour, and no visible loss."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image  # matplotlib requires Pillow and writes its own PNG files with it

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
    buffer = io.BytesIO()
    image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        buffer, format="png", optimize=True
    )
    _keep(png := buffer.getvalue(), figure)
    return png


def css_width(picture: Picture) -> int | None:
    """Return the width in CSS pixels at which a PNG has the size of its figure; None for SVG, which knows."""
    return None if isinstance(picture, str) else round(int.from_bytes(picture[16:20], "big") * 96 / _DPI)


def data_uri(picture: Picture) -> str:
    """Return a picture as the `src` of an `<img>`: nothing in it can run or clash with the page."""
    kind, data = ("svg+xml", picture.encode()) if isinstance(picture, str) else ("png", picture)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def colours(n: int) -> DoubleArray:
    """Return `n` colours, `(n, 3)`, in 0..1; `ValueError` above `MAX_LEVELS`."""
    if n > MAX_LEVELS:
        raise ValueError(f"{n} colours asked for, there are {MAX_LEVELS}")
    base = np.array([rgb(c) for c in _BASE])
    rounds = [base * (1 - abs(shade)) + max(shade, 0.0) for shade in _SHADES]
    return np.concatenate([*rounds, [rgb(c) for c in _GREYS]])[:n]


def rgb(code: str) -> tuple[float, float, float]:
    """Return `#rrggbb` as three numbers in 0..1."""
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue
