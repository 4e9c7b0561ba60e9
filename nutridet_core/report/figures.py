"""The report's plots: rows, comparisons and curves handed to `plots`, embedded in both looks.

Belongs here: which numbers go into which plot, and what it says to those who cannot see it. Does
not belong here: drawing (`plots`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from nutridet_core import plots
from nutridet_core.evaluation.compare import Comparison
from nutridet_core.report.rows import Curve, Row
from nutridet_core.report.wording import full_text, signed_text, size_text, time_text


@dataclass(frozen=True)
class Figure:
    """A plot in both looks, as data URIs of SVG."""

    light: str
    dark: str
    alt: str


def forest(rows: Sequence[Row], winner: str) -> Figure:
    """Mean IoU of every row."""
    alt = "; ".join(f"{row.name} {full_text('mean_iou', row.scores.metrics['mean_iou'])}" for row in rows)
    return _figure(partial(draw_forest, rows, winner), f"Mean IoU: {alt}")


def differences(comparisons: Sequence[Comparison]) -> Figure | None:
    """Paired differences around the line of no difference."""
    labels = [(f"{item.second} \u2212 {item.first}", item.mean_iou) for item in comparisons]
    alt = "; ".join(f"{label}: {signed_text(estimate)}" for label, estimate in labels)
    metric = "difference of mean IoU"
    return _figure(lambda look: plots.plot_forest(labels, metric=metric, zero=True, look=look), alt) if labels else None


def histograms(rows: Sequence[Row], winner: str) -> Figure | None:
    """IoU of every labelled table, per row; None when there is no table."""
    ious = {row.name: [iou for sample in row.samples for iou in sample.ious] for row in rows}
    if not any(ious.values()):
        return None
    shares = ((name, sum(iou >= 0.5 for iou in values) / max(1, len(values))) for name, values in ious.items())
    alt = "Share of tables with an IoU of at least 0.5: " + "; ".join(f"{name} {share:.0%}" for name, share in shares)
    return _figure(lambda look: plots.plot_iou_histograms(ious, highlight=winner, look=look), alt)


def checkpoints(curves: Sequence[Curve]) -> list[Figure]:
    """One figure per experiment, the others in grey behind it."""
    return [_figure(partial(draw_curves, curves, curve.experiment), _curve_alt(curve)) for curve in curves]


def footprints(rows: Sequence[Row]) -> Figure | None:
    """Size and speed of the rows whose size is known; None for fewer than two."""
    models = [plots.Footprint(row.name, row.size_bytes, row.scores.seconds_per_photo) for row in rows if row.size_bytes]
    alt = "; ".join(f"{m.label}: {size_text(m.size_bytes)}, {time_text(m.seconds_per_photo)} per photo" for m in models)
    return _figure(lambda look: plots.plot_footprints(models, look=look), alt) if len(models) > 1 else None


def draw_forest(rows: Sequence[Row], winner: str, look: plots.Look, form: plots.Format = "svg") -> bytes:
    """Mean IoU of every row, the winner in colour."""
    estimates = [(row.name, row.scores.metrics["mean_iou"]) for row in rows]
    return plots.plot_forest(estimates, metric="mean IoU", highlight=winner, look=look, form=form)


def draw_curves(curves: Sequence[Curve], focus: str | None, look: plots.Look, form: plots.Format = "svg") -> bytes:
    """Mean IoU on the split that checkpoints are chosen on."""
    lines = [_line(curve) for curve in curves]
    splits = ", ".join(sorted({scores.split for curve in curves for _, scores in curve.points}))
    return plots.plot_curves(lines, metric=f"mean IoU on {splits}", focus=focus, look=look, form=form)


def _line(curve: Curve) -> plots.Line:
    points = sorted(curve.points, key=lambda point: point[0])
    values = tuple(scores.metrics["mean_iou"] for _, scores in points)
    return plots.Line(curve.experiment, tuple(step for step, _ in points), values, curve.chosen)


def _curve_alt(curve: Curve) -> str:
    points = "; ".join(
        f"step {step}: {full_text('mean_iou', scores.metrics['mean_iou'])}" for step, scores in curve.points
    )
    return f"Mean IoU of {curve.experiment}, step {curve.chosen} chosen. {points}"


def _figure(draw: Callable[[plots.Look], bytes], alt: str) -> Figure:
    light, dark = (
        f"data:image/svg+xml;base64,{base64.b64encode(draw(look)).decode()}" for look in (plots.LIGHT, plots.DARK)
    )
    return Figure(light, dark, alt)
