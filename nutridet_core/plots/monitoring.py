"""Plots of what changes while a model is in use: scores over the weeks, photos against those of training.

Belongs here: drawing. Does not belong here: measuring photos or judging a shift (`evaluation.drift`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from nutridet_core.evaluation.intervals import Estimate
from nutridet_core.plots.canvas import LIGHT, Format, Look, canvas, colour_of, panels_of, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 2
_PANEL_HEIGHT = 1.5  # inches


@dataclass(frozen=True)
class Trend:
    """One model on the same photos, again and again: only such points may be joined by a line."""

    label: str
    points: tuple[tuple[datetime, Estimate], ...]
    """In any order; drawn by time."""


@dataclass(frozen=True)
class Distributions:
    """One property of photos, in two sets."""

    title: str
    before: tuple[float, ...]
    now: tuple[float, ...]
    marked: bool = False
    """Whether the two are told apart."""


def plot_trend(
    trends: Sequence[Trend],
    *,
    metric: str,
    reference: Estimate | None = None,
    look: Look = LIGHT,
    form: Format = "svg",
) -> bytes:
    """A metric over time with its 95 % intervals.

    Args:
        reference: what it was at registration, drawn as a line with its interval as a band.
    """
    figure, axes = canvas(look, height=3.0 + 0.2 * len(trends))
    if reference is not None:
        axes.axhspan(reference.low, reference.high, color=look.series[2], alpha=0.15, linewidth=0)
        axes.axhline(reference.value, color=look.series[2], linewidth=1.2, linestyle="--", label="at registration")
    for number, trend in enumerate(trends):
        _draw_trend(axes, trend, colour_of(look, number))
    axes.set_ylabel(f"{metric}, 95 % interval")
    _date_axis(axes)
    figure.legend(loc="outside lower center", frameon=False, labelcolor=look.ink, fontsize=9)
    return render(figure, look, form)


def plot_distributions(
    properties: Sequence[Distributions],
    *,
    names: tuple[str, str],
    look: Look = LIGHT,
    form: Format = "svg",
) -> bytes:
    """Cumulative distributions of each property in two sets, a panel each: the largest gap is the KS distance.

    Args:
        names: of the two sets, for the legend.
    """
    rows = -(-len(properties) // _COLUMNS)
    figure, panels = panels_of(look, rows=rows, columns=_COLUMNS, height=0.4 + _PANEL_HEIGHT * rows)
    for axes, item in zip(panels, properties, strict=False):
        for values, colour, name in zip((item.before, item.now), (look.muted, look.series[0]), names, strict=True):
            axes.ecdf(values, color=colour, linewidth=1.6, label=name)
        title = f"{item.title} (differs)" if item.marked else item.title
        axes.set_title(title, color=look.series[1] if item.marked else look.ink, fontsize=9, loc="left")
        axes.set_ylim(0, 1.02)
        axes.tick_params(labelsize=8)
    for axes in panels[len(properties) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, labelcolor=look.ink, fontsize=9)
    return render(figure, look, form)


def _draw_trend(axes: Axes, trend: Trend, colour: str) -> None:
    from matplotlib.dates import date2num

    ordered = sorted(trend.points, key=lambda point: point[0])
    times, values = [float(date2num(time)) for time, _ in ordered], [value for _, value in ordered]
    axes.errorbar(
        times, [value.value for value in values], yerr=_spread(values), color=colour, marker="o", capsize=3,
        linewidth=1.5, label=trend.label,
    )  # fmt: skip


def _date_axis(axes: Axes) -> None:
    """Few, short dates; the year stands once, at the end of the axis."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _spread(values: Sequence[Estimate]) -> list[list[float]]:
    """Lengths below and above each value, shape (2, n); a bootstrap interval may exclude its point by a rounding."""
    ends = np.array([[value.value - value.low, value.high - value.value] for value in values])
    return np.maximum(np.nan_to_num(ends), 0.0).T.tolist()  # type: ignore[no-any-return]
