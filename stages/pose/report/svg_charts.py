"""SVG charts drawn with matplotlib: reproducible bytes, text stored as text, and a dark mode.

Each file has its own background and its own colours for light and dark, so it is readable
wherever it is shown: in the page, on GitHub, in `dvc plots`. Charts are 5 inches wide, for phones.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

FOREGROUND, BACKGROUND, GRID = "#1c2330", "#f7f9fc", "#c9d0db"

# Distinguishable by colour-blind readers (Okabe & Ito 2008, darkened to a contrast of 3:1 with the
# background) and by their dashes.
SERIES = ("#7a869a", "#2f6fdf", "#c25e0a", "#11866f", "#a8488c")
DASHES = ("dotted", "dashed", "solid", "dashdot", (0, (5, 1, 1, 1, 1, 1)))
DARK = {
    FOREGROUND: "#e6e9ef",
    BACKGROUND: "#1c222c",
    GRID: "#465063",
    SERIES[0]: "#9aa6b8",
    SERIES[1]: "#7aa8ff",
    SERIES[2]: "#ff9d4d",
    SERIES[3]: "#3fc7a9",
    SERIES[4]: "#e58cc9",
}
RC_PARAMS: dict[Any, Any] = {
    "svg.hashsalt": "pose",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a keypoint may be named a$b$
    "font.size": 9,
    "text.color": FOREGROUND,
    "axes.labelcolor": FOREGROUND,
    "axes.edgecolor": GRID,
    "axes.facecolor": BACKGROUND,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": BACKGROUND,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": FOREGROUND,
    "ytick.color": FOREGROUND,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
}
FONT = "'DejaVu Sans'"
DARK_MODE = (
    "<style>@media (prefers-color-scheme: dark) {"
    + "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark} !important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    )
    + "}</style>"
)
Curves = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]  # name -> (x, y)


def svg(draw: Callable[[Axes], None], height: float = 3.0) -> bytes:
    """The chart that `draw` draws on empty axes; height in inches."""
    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(5, height), layout="constrained")
        axes = figure.subplots()
        axes.grid(True)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    head, body = buffer.getvalue().split("<defs>", 1)
    body = body.replace(FONT, f"{FONT}, Verdana, sans-serif")
    return f"{head[head.index('<svg') :]}{DARK_MODE}<defs>{body}".encode()


def lines(curves: Curves, xlabel: str, ylabel: str, yscale: str = "linear") -> bytes:
    """A line chart; a curve without points appears in the legend only."""

    def draw(axes: Axes) -> None:
        for i, (name, (x, y)) in enumerate(curves.items(), start=int(len(curves) == 1)):
            colour, dash = SERIES[i % len(SERIES)], DASHES[i % len(DASHES)]
            marker = "o" if len(x) == 1 else ""
            axes.plot(x, y, label=name, color=colour, linestyle=dash, linewidth=1.6, marker=marker)
        axes.set(xlabel=xlabel, ylabel=ylabel, yscale=yscale)
        if yscale == "log":
            # Ticks at 1, 2 and 5 of each decade as plain numbers: matplotlib's own are formulas.
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if len(curves) > 1:
            axes.legend()

    return svg(draw)


def concatenate_phases(tables: Mapping[str, pd.DataFrame]) -> Curves:
    """One curve per training phase, each starting at the step where the one before it ended.

    The first column of a table is the step, the second the value.
    """
    start, curves = 0.0, {}
    for name, table in tables.items():
        steps, values = (table.iloc[:, i].to_numpy(float) for i in (0, 1))
        curves[name] = (start + steps, values)
        start += float(steps.max()) if len(steps) else 0.0
    return curves


def bars(names: Sequence[str], values: Sequence[float], xlabel: str, top: float = 1.0) -> bytes:
    """Horizontal bars from top to bottom, each labelled with its value; NaN has no bar."""

    def draw(axes: Axes) -> None:
        lengths = np.nan_to_num(np.asarray(values, float))
        places = range(len(lengths))
        axes.barh(places, lengths, color=SERIES[1], height=0.7)
        for place, value in zip(places, values, strict=True):
            if np.isfinite(value):
                axes.text(max(value, 0) + 0.01 * top, place, f"{value:.2f}", va="center", size=8)
        axes.set_yticks(places, list(names))
        axes.set(xlabel=xlabel, xlim=(0, 1.12 * top), ylim=(len(lengths) - 0.4, -0.6))
        axes.grid(False, axis="y")

    return svg(draw, height=max(1.6, 0.9 + 0.21 * len(names)))


def reliability(curves: Curves, ylabel: str) -> bytes:
    """Reliability diagram: what was measured against mean scores; calibrated is the diagonal."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=SERIES[0], linestyle="dotted", label="as scores promise")
        for (name, (x, y)), colour in zip(curves.items(), SERIES[1:], strict=False):
            axes.plot(x, y, color=colour, marker="o", markersize=4, label=name)
        axes.set(xlabel="mean score", ylabel=ylabel, xlim=(0, 1), ylim=(0, 1))
        axes.legend()

    return svg(draw)
