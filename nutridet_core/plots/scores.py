"""Plots of scores: curves over training, histograms, forest plots, bars.

Belongs here: drawing numbers that were measured once. Does not belong here: which numbers to draw (`report`),
boxes on photos (`overlay`), what changes over the weeks (`monitoring`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nutridet_core.evaluation.intervals import Estimate
from nutridet_core.plots.canvas import LIGHT, Format, Look, canvas, colour_of, legend, panels_of, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IOU_BINS = 20


@dataclass(frozen=True)
class Line:
    """A metric over training steps."""

    label: str
    steps: tuple[int, ...]
    values: tuple[Estimate, ...]
    chosen: int | None = None
    """The step of the point that was chosen."""


@dataclass(frozen=True)
class Footprint:
    """What a model costs to keep and to ask."""

    label: str
    size_bytes: int | None
    seconds_per_photo: float


def plot_curves(
    lines: Sequence[Line], *, metric: str, focus: str | None = None, look: Look = LIGHT, form: Format = "svg"
) -> bytes:
    """A metric with its 95 % band per checkpoint, the chosen one ringed.

    Args:
        focus: label of the one line to colour; the others stay as thin grey lines on the same axes. Without it
            the values of the chosen points stand in the legend, where they cannot cover each other.
    """
    figure, axes = canvas(look, height=3.0)
    for number, line in enumerate(lines):
        if focus in (None, line.label):
            _draw_line(axes, line, colour_of(look, number), look, named=focus is not None or len(lines) == 1)
        else:
            axes.plot(line.steps, [value.value for value in line.values], color=look.muted, linewidth=0.8, alpha=0.5)
    axes.set_xlabel("training step")
    axes.set_ylabel(metric)
    axes.margins(x=0.06)
    axes.set_ylim(*_limits(lines))
    legend(axes, look)
    return render(figure, look, form)


def plot_iou_histograms(
    ious: Mapping[str, Sequence[float]], *, highlight: str | None = None, look: Look = LIGHT, form: Format = "svg"
) -> bytes:
    """One histogram of IoU per subject, below each other on one scale; boxes nobody found lie in the first bin.

    Args:
        highlight: subject to colour; without one, all are.
    """
    figure, panels = panels_of(look, rows=len(ious), height=0.5 + 0.62 * len(ious))
    for number, (axes, (label, values)) in enumerate(zip(panels, ious.items(), strict=True)):
        colour = look.series[0] if highlight in (None, label) else look.muted
        axes.hist(values, bins=IOU_BINS, range=(0, 1), color=colour, alpha=0.85, rwidth=0.9)
        axes.axvline(0.5, color=look.muted, linewidth=0.8, linestyle=(0, (3, 3)))
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
        axes.set_yticks([])
        axes.set_xlim(0, 1)
        axes.spines["left"].set_visible(False)
        axes.tick_params(labelbottom=number == len(ious) - 1)
    panels[-1].set_xlabel("IoU of each labelled table (dashed: 0.5)")
    return render(figure, look, form)


def plot_forest(
    rows: Sequence[tuple[str, Estimate]],
    *,
    metric: str,
    highlight: str | None = None,
    zero: bool = False,
    look: Look = LIGHT,
    form: Format = "svg",
) -> bytes:
    """One value with its 95 % interval per row, the first row on top.

    Args:
        highlight: label of the row to colour.
        zero: draw the line of no difference.
    """
    figure, axes = canvas(look, height=0.75 + 0.32 * len(rows), grid="x")
    for place, (label, estimate) in enumerate(rows):
        colour = look.series[0] if label == highlight else look.ink
        if np.isfinite([estimate.low, estimate.high]).all():
            axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot([estimate.value], [place], marker="o", markersize=6, color=colour)
    if zero:
        axes.axvline(0, color=look.muted, linewidth=1)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{metric}, 95 % interval")
    return render(figure, look, form)


def plot_footprints(models: Sequence[Footprint], *, look: Look = LIGHT, form: Format = "svg") -> bytes:
    """Size and time per photo of each model, as bars beside each other."""
    figure, panels = panels_of(look, columns=2, height=0.7 + 0.36 * len(models))
    sizes: list[float | None] = [None if model.size_bytes is None else model.size_bytes / 2**20 for model in models]
    times: list[float | None] = [1000 * model.seconds_per_photo for model in models]
    for axes, values, title in zip(panels, (sizes, times), ("size, MiB", "per photo, ms"), strict=True):
        _draw_bars(axes, values, look)
        axes.set_title(title, color=look.ink, fontsize=10, loc="left")
    panels[0].set_yticks(range(len(models)), [model.label for model in models])
    panels[0].tick_params(axis="y", length=0)
    return render(figure, look, form)


def _limits(lines: Sequence[Line]) -> tuple[float, float]:
    """Room for the bands of all lines, so that figures of the same lines share a scale whatever their focus."""
    ends = np.array([(v.value, v.low, v.high) for line in lines for v in line.values])
    low, high = (float(np.nanmin(ends)), float(np.nanmax(ends))) if np.isfinite(ends).any() else (0.0, 1.0)
    margin = 0.06 * max(high - low, 0.01)
    return low - margin, high + margin


def _draw_line(axes: Axes, line: Line, colour: str, look: Look, *, named: bool) -> None:
    low, high = [value.low for value in line.values], [value.high for value in line.values]
    values = [value.value for value in line.values]
    chosen = None if line.chosen is None else values[line.steps.index(line.chosen)]
    label = line.label if chosen is None else f"{line.label}, chosen: {chosen:.3f}"
    axes.fill_between(line.steps, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(line.steps, values, color=colour, linewidth=1.8, marker="o", markersize=3.5, label=label)
    if line.chosen is not None and chosen is not None:
        _ring(axes, (line.chosen, chosen), f"{chosen:.3f}" if named else "", look)


def _ring(axes: Axes, point: tuple[float, float], text: str, look: Look) -> None:
    axes.plot(*point, "o", markersize=11, markerfacecolor="none", color=look.ink, label="_chosen")
    axes.annotate(text, point, xytext=(0, 9), textcoords="offset points", ha="center", color=look.ink)


def _draw_bars(axes: Axes, values: Sequence[float | None], look: Look) -> None:
    for place, value in enumerate(values):
        axes.barh(place, value or 0, height=0.6, color=look.series[0])
        axes.annotate(
            "not known" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2g}",
            (value or 0, place), xytext=(4, 0), textcoords="offset points", va="center", color=look.ink,
        )  # fmt: skip
    axes.set_xlim(0, 1.35 * max([value for value in values if value], default=1))
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
