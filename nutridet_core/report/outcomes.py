"""What became of each photo: right, or the first thing that went wrong.

Belongs here: sorting samples into outcomes that exclude each other, so that a row's counts add up
to its photos. Does not belong here: metrics (`evaluation.scores`).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from nutridet_core.answers import Problem
from nutridet_core.evaluation.scores import Sample

FOUND = 0.5
"""IoU from which a table counts as found."""


class Outcome(StrEnum):
    """In the order in which they are looked for; `RIGHT` when none of the others applies."""

    NO_ANSWER = "no answer"
    BAD_SYNTAX = "bad syntax"
    MISSED = "missed"
    FALSE_ALARM = "false alarm"
    WRONG_PLACE = "wrong place"
    EXTRA_BOX = "extra box"
    RIGHT = "right"


MEANING = {
    Outcome.RIGHT: f"every table found with an IoU of at least {FOUND}, and nothing else",
    Outcome.NO_ANSWER: "neither a box nor the statement that there is none",
    Outcome.BAD_SYNTAX: "a box that could not be read: malformed, cut off, out of range, empty or of something else",
    Outcome.MISSED: "there is a table, and the answer has no box",
    Outcome.FALSE_ALARM: "a box on a photo without a table",
    Outcome.WRONG_PLACE: f"a table whose best box has an IoU below {FOUND}",
    Outcome.EXTRA_BOX: "every table found, and more boxes than tables",
}
"""What each outcome means; the first that applies counts, in the order of `Outcome`."""


def outcome(sample: Sample) -> Outcome:
    """The one outcome of a photo."""
    tests = {
        Outcome.NO_ANSWER: Problem.NO_ANSWER in sample.problems,
        Outcome.BAD_SYNTAX: sample.failed,
        Outcome.MISSED: bool(sample.truth) and not sample.predicted,
        Outcome.FALSE_ALARM: bool(sample.predicted) and not sample.truth,
        Outcome.WRONG_PLACE: min(sample.ious, default=1.0) < FOUND,
        Outcome.EXTRA_BOX: len(sample.predicted) > len(sample.truth),
    }
    return next((name for name, applies in tests.items() if applies), Outcome.RIGHT)


def count_outcomes(samples: Sequence[Sample]) -> dict[Outcome, int]:
    """Photos by outcome, `RIGHT` first; every outcome is there, and they add up to `len(samples)`."""
    found = [outcome(sample) for sample in samples]
    return {name: found.count(name) for name in MEANING}
