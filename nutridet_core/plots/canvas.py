"""What every plot stands on: colours, axes without clutter, and figures as bytes.

Belongs here: matplotlib's object interface (no pyplot, no global state). Does not belong here: a plot.

Figures are 5 inches wide with 10 point text: still readable on a phone, and two fit beside each
other on a desk. matplotlib is imported when the first figure is made: the asset definitions do
not need it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["svg", "png"]

_WIDTH = 5.0  # inches
_PNG_DPI = 160


@dataclass(frozen=True)
class Look:
    """Colours of a plot. The background is `None` for transparent."""

    ink: str
    muted: str
    grid: str
    background: str | None
    series: tuple[str, ...]


LIGHT = Look("#1f2328", "#68707a", "#dfe3e8", None, ("#0b6bcb", "#d9480f", "#2b8a3e", "#7048e8", "#0c8599", "#c2255c"))
DARK = Look("#e8eaed", "#9aa4b0", "#353b44", None, ("#6cb6ff", "#ff9d5c", "#69db7c", "#b197fc", "#66d9e8", "#faa2c1"))
PAPER = Look(LIGHT.ink, LIGHT.muted, LIGHT.grid, "#ffffff", LIGHT.series)
"""For files that are looked at outside the report."""


def colour_of(look: Look, number: int) -> str:
    """Of the nth series; they repeat."""
    return look.series[number % len(look.series)]


def canvas(look: Look, *, height: float, grid: Literal["x", "y"] = "y") -> tuple[Figure, Axes]:
    """One panel with a grid."""
    figure, panels = panels_of(look, height=height)
    panels[0].grid(axis=grid, color=look.grid, linewidth=0.8)
    return figure, panels[0]


def panels_of(look: Look, *, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure without pyplot, so that nothing has to be closed and threads do not meet."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor=look.background or "none")
    panels = [axes for line in figure.subplots(rows, columns, squeeze=False) for axes in line]
    for axes in panels:
        axes.set_facecolor("none")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[:].set_color(look.muted)
        axes.tick_params(colors=look.muted, labelcolor=look.ink)
        axes.xaxis.label.set_color(look.ink)
        axes.yaxis.label.set_color(look.ink)
    return figure, panels


def legend(axes: Axes, look: Look) -> None:
    """A legend where there is more than one thing to tell apart."""
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(frameon=False, labelcolor=look.ink, fontsize=9)


def render(figure: Figure, look: Look, form: Format) -> bytes:
    """The same figure gives the same bytes: no date, no random ids."""
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nutridet"}):
        metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
        figure.savefig(stream, format=form, dpi=_PNG_DPI, metadata=metadata, facecolor=look.background or "none")
    # Text stays text; the reader's own interface font is narrower than the one it was laid out with.
    return (
        stream.getvalue().replace(b"'DejaVu Sans'", b"system-ui, 'DejaVu Sans'") if form == "svg" else stream.getvalue()
    )
