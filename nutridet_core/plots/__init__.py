"""Plots as bytes, each in a light and a dark look.

Belongs here: drawing numbers. Does not belong here: which numbers to draw (`report`, `pipeline.monitoring`)
or boxes on photos (`overlay`).
"""

from __future__ import annotations

from nutridet_core.plots.canvas import DARK, LIGHT, PAPER, Format, Look
from nutridet_core.plots.monitoring import Distributions, Trend, plot_distributions, plot_trend
from nutridet_core.plots.scores import (
    Footprint,
    Line,
    plot_curves,
    plot_footprints,
    plot_forest,
    plot_iou_histograms,
)

__all__ = [
    "DARK", "LIGHT", "PAPER", "Distributions", "Footprint", "Format", "Line", "Look", "Trend",
    "plot_curves", "plot_distributions", "plot_footprints", "plot_forest", "plot_iou_histograms", "plot_trend",
]  # fmt: skip
