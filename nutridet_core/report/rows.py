"""What a report is made of, the order of its rows, and the leaderboard as text, markdown, CSV and JSON.

Belongs here: the rows and their tables. Does not belong here: what they mean (`verdict`).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nutridet_core.evaluation.scores import Sample, Scores
from nutridet_core.report.wording import full_text, label

Kind = Literal["prior", "baseline", "peer", "experiment", "release"]
FINE_TUNED: frozenset[Kind] = frozenset({"experiment", "release"})

HEADLINE = ("mean_iou", "f1_50", "f1_75", "ap", "false_detection_rate", "parse_failure_rate")
"""Metrics of the leaderboard, in order. All others are in the CSV and the JSON."""

TERMINAL = ("mean_iou", "f1_50", "parse_failure_rate")
"""Those that fit a terminal's width."""


@dataclass(frozen=True)
class Row:
    """One subject of the leaderboard, scored on the test split.

    Raises:
        ValueError: when `samples` are not those that were scored.
    """

    name: str
    summary: str
    kind: Kind
    """A prior ignores the photo, a peer is what a user would take instead, a release is merged or quantised."""
    scores: Scores
    samples: Sequence[Sample]
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        if len(self.samples) != self.scores.photos:
            raise ValueError(f"{self.name}: {len(self.samples)} samples, but scores of {self.scores.photos} photos")

    @property
    def mean_iou(self) -> float:
        """What rows are ordered by; NaN when no photo has a table."""
        return self.scores.metrics["mean_iou"].value

    @property
    def fine_tuned(self) -> bool:
        """Whether this row competes; all others are references."""
        return self.kind in FINE_TUNED


@dataclass(frozen=True)
class Curve:
    """The checkpoints of one experiment, scored on the selection split.

    Raises:
        ValueError: when the chosen step is not among the points.
    """

    experiment: str
    points: Sequence[tuple[int, Scores]]
    """(training step, scores), by step."""
    chosen: int
    """Training step of the checkpoint that was chosen."""

    def __post_init__(self) -> None:
        if self.chosen not in [step for step, _ in self.points]:
            raise ValueError(f"{self.experiment}: step {self.chosen} was chosen, but has no scores")

    @property
    def chosen_mean_iou(self) -> float:
        """Of the chosen checkpoint."""
        return dict(self.points)[self.chosen].metrics["mean_iou"].value


def rank(rows: Sequence[Row]) -> list[Row]:
    """By mean IoU, best first; rows without one last; ties as they came."""
    return sorted(rows, key=lambda row: -row.mean_iou if math.isfinite(row.mean_iou) else math.inf)


def leaderboard_text(rows: Sequence[Row]) -> str:
    """The leaderboard for a terminal, columns aligned."""
    header, *body = _table(rows, TERMINAL)
    widths = [max(len(line[column]) for line in (header, *body)) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (header, *body)]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in [*lines, "", _note(rows)])


def leaderboard_markdown(rows: Sequence[Row]) -> str:
    """The leaderboard as a markdown table."""
    header, *body = _table(rows, HEADLINE)
    lines = [header, ["---"] * len(header), *body]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{table}\n\n{_note(rows)}"


def leaderboard_csv(rows: Sequence[Row]) -> str:
    """Every metric of every row, with `_low` and `_high`; empty where undefined."""
    stream = io.StringIO()
    records = [_record(place, row) for place, row in enumerate(rank(rows), start=1)]
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def json_ready(value: Any) -> Any:
    """Nested plain values with NaN as None: JSON has no NaN, and strict readers refuse it."""
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(rows: Sequence[Row], metrics: Sequence[str]) -> list[list[str]]:
    header = ["#", "name", "kind", *(label(metric) for metric in metrics), "n"]
    return [header, *(_cells(place, row, metrics) for place, row in enumerate(rank(rows), start=1))]


def _cells(place: int, row: Row, metrics: Sequence[str]) -> list[str]:
    scores = row.scores
    shown = [full_text(metric, scores.metrics[metric]) for metric in metrics]
    return [str(place), row.name, row.kind, *shown, f"{scores.photos} / {scores.boxes} / {scores.negatives}"]


def _note(rows: Sequence[Row]) -> str:
    splits = ", ".join(sorted({row.scores.split for row in rows}))
    return f"Split: {splits}. [95 % interval over products]. n: photos / tables / photos without a table."


def _record(place: int, row: Row) -> dict[str, Any]:
    scores = row.scores
    record: dict[str, Any] = {"place": place, "name": row.name, "kind": row.kind, "split": scores.split}
    record |= {"photos": scores.photos, "products": scores.products}
    record |= {"boxes": scores.boxes, "negatives": scores.negatives}
    for metric, estimate in scores.metrics.items():
        record |= {metric: estimate.value, f"{metric}_low": estimate.low, f"{metric}_high": estimate.high}
    record |= {"seconds_per_photo": scores.seconds_per_photo, "size_bytes": row.size_bytes}
    return {key: "" if value is None else value for key, value in json_ready(record).items()}
