"""History: every re-evaluation there was, and what they show together.

Belongs here: reading re-evaluations, their trend, and the newest one's photos against those of training. Does
not belong here: carrying one out (`monitoring`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from nutridet_core.artifacts.layout import Layout
from nutridet_core.artifacts.store import MANIFEST, Manifest, read_manifest, seal, write_json, writing
from nutridet_core.errors import ArtifactError
from nutridet_core.evaluation.drift import AUDIT as DRIFT
from nutridet_core.evaluation.drift import TITLES, Inputs, Shift
from nutridet_core.evaluation.evaluate import load_scores
from nutridet_core.evaluation.scores import Scores
from nutridet_core.plots import PAPER, Distributions, Trend, plot_distributions, plot_trend

TREND, DRIFT_PLOT, HISTORY = "trend.png", "drift.png", "history.json"
STAMP = "%Y%m%dT%H%M%S.%fZ"
_CHANGE = {"difference": "change.mean_iou", "low": "change.mean_iou_low", "high": "change.mean_iou_high"}


@dataclass(frozen=True)
class Reevaluation:
    """One re-evaluation, as it lies in its folder."""

    folder: Path
    manifest: Manifest
    scores: Scores

    @property
    def when(self) -> datetime:
        """When its last photo had been answered."""
        return datetime.strptime(self.folder.name, STAMP).replace(tzinfo=UTC)

    @property
    def subject(self) -> str:
        """What was asked about which photos: only re-evaluations that share it are comparable in a plot."""
        photos = str(self.manifest.data_fingerprint)[:7]
        return f"version {self.manifest.facts['version']}, photos {photos}, n = {self.scores.photos}"

    @property
    def shifts(self) -> list[Shift]:
        """How far each property of its photos was from those of training; none where that was not known."""
        evidence = self.manifest.facts["audits"].get(DRIFT, {}).get("evidence", {})
        return [Shift.from_dict(values) for values in evidence.values()]

    @property
    def changes(self) -> dict[str, float]:
        """The change since registration with its interval, and the distance of each property of the photos."""
        evidence = self.manifest.facts["audits"]["not_regressed"]["evidence"]
        changes = {name: evidence[part] for part, name in _CHANGE.items() if part in evidence}
        return {**changes, **{f"drift.{shift.name}": shift.distance for shift in self.shifts}}

    @property
    def metrics(self) -> dict[str, float]:
        """Everything, for MLflow."""
        return {**self.scores.mlflow_metrics, **self.changes}


def past_reevaluations(layout: Layout, log: Callable[[str], None] = lambda line: None) -> list[Reevaluation]:
    """All of them, oldest first.

    Args:
        log: is told of those that are damaged. They are left out: what was measured on some day cannot be measured
            again, and must not stand in the way of measuring today.
    """
    found = []
    for folder in sorted(path.parent for path in layout.reevaluations.glob(f"*/{MANIFEST}")):
        try:
            found.append(Reevaluation(folder, read_manifest(folder, kind="scores"), load_scores(folder)))
        except ArtifactError as error:
            log(f"left out of the history, restore it from MLflow or delete it: {error.where}: {error.problem}")
    return found


def write_history(
    folder: Path, found: Sequence[Reevaluation], registered: Scores, photos: tuple[Inputs, Inputs]
) -> None:
    """Write the trend, the drift of the newest re-evaluation's photos, and the numbers of both.

    Args:
        registered: what the newest one's champion scored when it was registered.
        photos: measurements of its training photos, and of those it was asked about now.
    """
    newest = found[-1]
    with writing(folder) as draft:
        trend = plot_trend(
            trends(found), metric="mean IoU", reference=registered.metrics["mean_iou"], look=PAPER, form="png"
        )
        (draft / TREND).write_bytes(trend)
        if newest.shifts:
            (draft / DRIFT_PLOT).write_bytes(_plot_drift(newest.shifts, *photos))
        write_json(draft / HISTORY, [_as_json(each) for each in found])
        seal(
            draft,
            Manifest(kind="history", name=newest.manifest.name, data_fingerprint=newest.manifest.data_fingerprint),
        )


def trends(found: Sequence[Reevaluation]) -> list[Trend]:
    """Mean IoU over time, a line for each champion and set of photos."""
    by_subject = groupby(sorted(found, key=lambda each: (each.subject, each.when)), key=lambda each: each.subject)
    lines = [
        (subject, tuple((each.when, each.scores.metrics["mean_iou"]) for each in group))
        for subject, group in by_subject
    ]
    return [Trend(subject, points) for subject, points in sorted(lines, key=lambda line: line[1][0][0])]


def _plot_drift(shifts: Sequence[Shift], training: Inputs, now: Inputs) -> bytes:
    drawn = [
        Distributions(TITLES[shift.name], training.values[shift.name], now.values[shift.name], marked=shift.drifted)
        for shift in shifts
    ]
    names = (f"training, n = {training.photos}", f"now, n = {now.photos}")
    return plot_distributions(drawn, names=names, look=PAPER, form="png")


def _as_json(each: Reevaluation) -> dict[str, object]:
    audits = {name: audit["summary"] for name, audit in each.manifest.facts["audits"].items()}
    metrics = {name: asdict(each.scores.metrics[name]) for name in ("mean_iou", "f1_50")}
    known = {"when": each.when.isoformat(timespec="seconds"), "version": each.manifest.facts["version"]}
    return {**known, "photos": each.scores.photos, **metrics, "audits": audits}
