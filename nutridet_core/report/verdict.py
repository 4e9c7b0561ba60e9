"""What won and whether that is real: sentences that follow from paired intervals, never from the order alone.

Belongs here: the headline and its reservations. Does not belong here: the gate (`evaluation.audits`), which
decides by the same intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nutridet_core.errors import DataError
from nutridet_core.evaluation.compare import Comparison, compare
from nutridet_core.evaluation.intervals import Estimate
from nutridet_core.report.rows import Curve, Row, rank
from nutridet_core.report.wording import counted, full_text, signed_text

Verdict = Literal["better", "worse", "not told apart"]


@dataclass(frozen=True)
class Finding:
    """What the rows show."""

    winner: Row
    """The fine-tuned row that was chosen, or the best row when none is fine-tuned."""
    headline: str
    """One sentence that can stand alone."""
    evidence: str
    """The numbers behind it, and how the winner was chosen."""
    reservations: tuple[str, ...]
    """What a reader must know before quoting the headline."""


def verdict(comparison: Comparison) -> Verdict:
    """Of `second` against `first`, by the paired interval of mean IoU."""
    if comparison.better:
        return "better"
    return "worse" if comparison.mean_iou.high < 0 else "not told apart"


def find(rows: Sequence[Row], comparisons: Sequence[Comparison] = (), curves: Sequence[Curve] = ()) -> Finding:
    """What won, against what, and with which reservations.

    Args:
        rows: at least one.
        comparisons: used where they hold the wanted pair; other pairs are compared here.
        curves: the row with the best chosen checkpoint here is the winner: test photos must not choose what they
            measure. Without a curve of any row the best on test is taken, and the reader is told so.
    """
    ranked = rank(rows)
    tuned = [row for row in ranked if row.fine_tuned]
    references = [row for row in ranked if not row.fine_tuned]
    if not tuned:
        return Finding(ranked[0], _nothing_tuned(ranked), "", ())
    chosen = _choose(tuned, curves)
    winner, reference = chosen or tuned[0], reference_of(references)
    others = [row for row in ranked if row is not winner and row is not reference]
    return Finding(
        winner,
        headline(winner, reference, comparisons),
        f"{_numbers(winner, reference)} {_how_chosen(winner, len(tuned), curves if chosen else ())}".strip(),
        tuple(sentence for row in others if (sentence := _reservation(winner, row, comparisons))),
    )


def paired(first: Row, second: Row, given: Sequence[Comparison] = ()) -> Comparison | None:
    """`second` minus `first`; None when they were scored on different photos."""
    for comparison in given:
        if (comparison.first, comparison.second) == (first.name, second.name):
            return comparison
        if (comparison.first, comparison.second) == (second.name, first.name):
            return _turned(comparison)
    try:
        return compare(first.name, second.name, first.samples, second.samples)
    except DataError:
        return None


def _turned(comparison: Comparison) -> Comparison:
    iou, f1 = (Estimate(-e.value, -e.high, -e.low) for e in (comparison.mean_iou, comparison.f1_50))
    return Comparison(comparison.second, comparison.first, comparison.photos, iou, f1, comparison.same_answers)


def _choose(tuned: Sequence[Row], curves: Sequence[Curve]) -> Row | None:
    """The row of the curve whose chosen checkpoint is best; None when no row has a curve."""
    rows = {row.name: row for row in tuned}
    known = [curve for curve in curves if curve.experiment in rows]
    return rows[max(known, key=lambda curve: curve.chosen_mean_iou).experiment] if known else None


def reference_of(references: Sequence[Row]) -> Row | None:
    """What a winner has to beat: the first baseline, or else the first of the others; given best first."""
    baselines = [row for row in references if row.kind == "baseline"]
    return next(iter(baselines or references), None)


def _nothing_tuned(ranked: Sequence[Row]) -> str:
    best = ranked[0]
    among = f" the best of {len(ranked)} references," if len(ranked) > 1 else ""
    return f"Nothing fine-tuned has been scored yet; {best.name},{among} has a mean IoU of {_iou(best)}."


def headline(winner: Row, reference: Row | None, comparisons: Sequence[Comparison]) -> str:
    """Whether `winner` beats `reference`, by their paired difference and in words that claim no more."""
    if reference is None:
        return f"There is nothing to compare {winner.name} with."
    comparison = paired(reference, winner, comparisons)
    if comparison is None:
        return f"Whether {winner.name} beats {reference.name} is not known: they were scored on different photos."
    difference = f"{signed_text(comparison.mean_iou)} mean IoU on the same {counted(comparison.photos, 'photo')}"
    match verdict(comparison):
        case "better":
            return f"{winner.name} beats {reference.name}: {difference}."
        case "worse":
            return f"{winner.name} is worse than {reference.name}: {difference}."
        case "not told apart":
            return f"{winner.name} is not shown to beat {reference.name}: {difference}, an interval that includes 0."


def _numbers(winner: Row, reference: Row | None) -> str:
    against = f" against {_iou(reference)}" if reference else ""
    return f"Mean IoU {_iou(winner)}{against}."


def _how_chosen(winner: Row, contenders: int, curves: Sequence[Curve]) -> str:
    if contenders == 1:
        return ""
    if not curves:
        return f"{winner.name} was picked from {contenders} fine-tuned models by these very photos, which flatters it."
    splits = sorted({scores.split for curve in curves for _, scores in curve.points})
    return f"Of {contenders} fine-tuned models, {winner.name} was chosen by its scores on {', '.join(splits)}."


def _reservation(winner: Row, other: Row, comparisons: Sequence[Comparison]) -> str | None:
    """Said about every row that the winner is not clearly above."""
    comparison = paired(other, winner, comparisons)
    if comparison is None or comparison.better:
        return None
    name = f"{other.name} ({other.kind})"
    if verdict(comparison) == "worse":
        difference = signed_text(_turned(comparison).mean_iou)
        return f"{name} scored better than {winner.name} on these photos, beyond chance: {difference}."
    return f"{winner.name} and {name} are not told apart by these photos: {signed_text(comparison.mean_iou)}."


def _iou(row: Row) -> str:
    return full_text("mean_iou", row.scores.metrics["mean_iou"])
