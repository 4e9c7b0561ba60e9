"""Numbers as people read them: one place for digits, intervals, signs and units.

Belongs here: formatting. Does not belong here: what is said with the numbers (`verdict`).
"""

from __future__ import annotations

import math

from nutridet_core.evaluation.intervals import Estimate
from nutridet_core.evaluation.scores import Scores

UNKNOWN = "\u2013"  # en dash
_MINUS = "\u2212"

RATES = frozenset({"parse_failure_rate", "false_detection_rate"})
"""Metrics shown as percentages; all others are shown as shares of one."""

LABELS = {
    "mean_iou": "mean IoU",
    "image_mean_iou": "mean IoU per photo",
    "f1_50": "F1 at 0.5",
    "f1_75": "F1 at 0.75",
    "f1_90": "F1 at 0.9",
    "ap": "AP",
    "ap_50": "AP at 0.5",
    "ap_75": "AP at 0.75",
    "false_detection_rate": "false alarms",
    "parse_failure_rate": "unreadable",
}
"""Names of metrics for people; others are spelled out by `label`."""


def label(metric: str) -> str:
    """`precision_50` becomes "precision at 0.5"."""
    if metric in LABELS:
        return LABELS[metric]
    name, _, threshold = metric.rpartition("_")
    return f"{name} at {int(threshold) / 100:g}" if threshold.isdigit() else metric.replace("_", " ")


def value_text(metric: str, estimate: Estimate) -> str:
    """The value alone: "0.834", or "2.5 %" for a rate."""
    return _share(estimate.value) if metric not in RATES else _percent(estimate.value, " %")


def interval_text(metric: str, estimate: Estimate) -> str:
    """The 95 % interval alone: "[0.802, 0.861]"."""
    show = _percent if metric in RATES else _share
    return f"[{show(estimate.low)}, {show(estimate.high)}]"


def full_text(metric: str, estimate: Estimate) -> str:
    """Value and interval: "0.834 [0.802, 0.861]"."""
    return f"{value_text(metric, estimate)} {interval_text(metric, estimate)}"


def signed(value: float) -> str:
    """A difference: "+0.120", with a real minus sign."""
    return f"{value:+.3f}".replace("-", _MINUS) if math.isfinite(value) else UNKNOWN


def signed_text(difference: Estimate) -> str:
    """A difference with its interval: "+0.120 [+0.090, +0.151]"."""
    return f"{signed(difference.value)} [{signed(difference.low)}, {signed(difference.high)}]"


def size_text(size_bytes: int | None) -> str:
    """Bytes in MiB or GiB."""
    if size_bytes is None:
        return UNKNOWN
    mebibytes = size_bytes / 2**20
    return f"{mebibytes / 1024:.2f} GiB" if mebibytes >= 1000 else f"{mebibytes:.1f} MiB"


def time_text(seconds: float) -> str:
    """Seconds in the unit that needs no leading zeros."""
    return (
        f"{seconds:.2f} s"
        if seconds >= 1
        else f"{1000 * seconds:.0f} ms"
        if seconds >= 0.01
        else f"{1000 * seconds:.2g} ms"
    )


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 photo", "2 photos", "2 boxes"."""
    ending = "" if number == 1 else "es" if noun.endswith("x") else "s"
    return f"{number:,} {noun}{ending}"


def photos_text(scores: Scores) -> str:
    """How many photos were scored, and of how many products where some share one: "85 photos of 60 products"."""
    return counted(scores.photos, "photo") + scores.of_products


def _share(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else UNKNOWN


def _percent(value: float, unit: str = "") -> str:
    return f"{100 * value:.1f}{unit}" if math.isfinite(value) else UNKNOWN
