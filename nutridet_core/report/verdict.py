"""What won and whether that is real: sentences that follow from paired intervals, never from the order alone.

Belongs here: the headline and its reservations. Does not belong here: the gate (`audits`), which
decides by the same intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nutridet_core.compare import Comparison, compare
from nutridet_core.errors import DataError
from nutridet_core.report.rows import Row, rank
from nutridet_core.report.wording import counted, full_text, signed_text
from nutridet_core.scores import Estimate

Verdict = Literal["better", "worse", "not told apart"]


@dataclass(frozen=True)
class Finding:
    """What the rows show."""

    winner: Row
    """The best fine-tuned row, or the best of all when none is fine-tuned."""
    reference: Row | None
    """What the winner has to beat: the baseline, or else the best peer or prior."""
    comparison: Comparison | None
    """`winner` minus `reference` on the same photos; None when there is no such pair."""
    headline: str
    reservations: tuple[str, ...]
    """What a reader must know before quoting the headline."""


def verdict(comparison: Comparison) -> Verdict:
    """Of `second` against `first`, by the paired interval of mean IoU."""
    if comparison.better:
        return "better"
    return "worse" if comparison.mean_iou.high < 0 else "not told apart"


def find(rows: Sequence[Row], comparisons: Sequence[Comparison] = ()) -> Finding:
    """What won, against what, and with which reservations.

    Args:
        rows: at least one.
        comparisons: used where they hold the wanted pair; other pairs are compared here.
    """
    ranked = rank(rows)
    tuned = [row for row in ranked if row.fine_tuned]
    references = [row for row in ranked if not row.fine_tuned]
    if not tuned:
        return Finding(ranked[0], None, None, _nothing_tuned(ranked), ())
    winner, reference = tuned[0], _reference(references)
    comparison = paired(reference, winner, comparisons) if reference else None
    reservations = [*_runner_up(tuned, comparisons), *_unbeaten(winner, reference, references, comparisons)]
    headline = _headline(winner, len(tuned), reference, comparison)
    return Finding(winner, reference, comparison, headline, tuple(reservations))


def paired(first: Row, second: Row, given: Sequence[Comparison]) -> Comparison | None:
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


def _reference(references: Sequence[Row]) -> Row | None:
    """The best baseline; without one, the best of the others."""
    baselines = [row for row in references if row.kind == "baseline"]
    return next(iter(baselines or references), None)


def _nothing_tuned(ranked: Sequence[Row]) -> str:
    best = ranked[0]
    among = f", the best of {len(ranked)} references" if len(ranked) > 1 else ""
    return f"Nothing fine-tuned has been scored yet. {best.name}{among}, has a mean IoU of {_iou(best)}."


def _headline(winner: Row, contenders: int, reference: Row | None, comparison: Comparison | None) -> str:
    among = f" of {contenders} fine-tuned models" if contenders > 1 else ""
    scored = f"mean IoU {_iou(winner)}"
    if reference is None:
        return f"{winner.name} scored highest{among}: {scored}. There is nothing to compare it with."
    if comparison is None:
        return (
            f"{winner.name} scored highest{among}: {scored}. It was not scored on the same photos as "
            f"{reference.name}, so whether it is better is not known."
        )
    return _claim(winner, among, scored, reference, comparison)


def _claim(winner: Row, among: str, scored: str, reference: Row, comparison: Comparison) -> str:
    difference = signed_text(comparison.mean_iou)
    photos = f"on the same {counted(comparison.photos, 'photo')}"
    match verdict(comparison):
        case "better":
            return f"{winner.name} wins: {scored}, {difference} against {reference.name} {photos}."
        case "worse":
            return f"{reference.name} is better: the best{among or ' fine-tuned model'}, {winner.name}, is at {difference} {photos}."
        case "not told apart":
            return (
                f"No proven gain: {winner.name} scored highest{among}, {scored}, but its difference to "
                f"{reference.name} {photos}, {difference}, includes 0."
            )


def _runner_up(tuned: Sequence[Row], comparisons: Sequence[Comparison]) -> list[str]:
    if len(tuned) < 2:
        return []
    winner, second = tuned[:2]
    comparison = paired(second, winner, comparisons)
    if comparison is None:
        return [f"{second.name} comes second, but was not scored on the same photos."]
    lead = f"{winner.name} leads {second.name}, the second, by {signed_text(comparison.mean_iou)}"
    if verdict(comparison) == "better":
        return [f"{lead}: beyond chance on these photos."]
    return [f"{lead}: these photos do not tell the two apart."]


def _unbeaten(winner: Row, reference: Row | None, references: Sequence[Row], comparisons: Sequence[Comparison]) -> list[str]:
    """Every other reference that the winner is not clearly above."""
    sentences = []
    for row in references:
        comparison = None if row is reference else paired(row, winner, comparisons)
        if comparison is not None and not comparison.better:
            sentences.append(f"{winner.name} is not clearly above {row.name} ({row.kind}): {signed_text(comparison.mean_iou)}.")
    return sentences


def _iou(row: Row) -> str:
    return full_text("mean_iou", row.scores.metrics["mean_iou"])
