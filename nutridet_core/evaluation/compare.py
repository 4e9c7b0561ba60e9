"""Comparison of two subjects on the same photos, by paired bootstrap.

Belongs here: differences and their intervals. Does not belong here: what is done about them
(`audits` and the promotion gate in `release.registry`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nutridet_core.errors import DataError
from nutridet_core.evaluation.intervals import Estimate, draw_seen, interval, observed
from nutridet_core.evaluation.scores import Sample, Scores, Tally, products_of


@dataclass(frozen=True)
class Comparison:
    """`second` minus `first` on the same photos."""

    first: str
    second: str
    photos: int
    mean_iou: Estimate
    f1_50: Estimate
    same_answers: float
    """Share of photos on which both wrote the same text; NaN when they answered about different photos."""

    @property
    def better(self) -> bool:
        """Whether `second` has the higher mean IoU beyond chance: the whole interval lies above 0."""
        return self.mean_iou.low > 0

    @property
    def paired(self) -> bool:
        """Whether both were scored on the same photos."""
        return math.isfinite(self.same_answers)

    @property
    def text(self) -> str:
        """One line for people."""
        verdict = "better" if self.better else "worse" if self.mean_iou.high < 0 else "not told apart"
        return (
            f"{self.second} against {self.first}: {verdict}; mean IoU {_signed(self.mean_iou)}, "
            f"F1@0.5 {_signed(self.f1_50)}, n = {self.photos}"
        )


def compare(first: str, second: str, before: Sequence[Sample], after: Sequence[Sample]) -> Comparison:
    """Paired bootstrap over products, of what was seen: two that answered alike differ by 0 [0, 0] on these photos.

    Raises:
        DataError: when the two were not scored on the same photos with the same boxes.
    """
    after = _paired(first, second, before, after)
    old, new = Tally.of(before), Tally.of(after)
    point, drawn = observed(len(before)), draw_seen(products_of(after))
    differences = {}
    for name in ("mean_iou", "f1_50"):
        value = float((new.metrics(point)[name] - old.metrics(point)[name])[0])
        differences[name] = interval(value, new.metrics(drawn)[name] - old.metrics(drawn)[name])
    same = np.mean([a.text == b.text for a, b in zip(before, after, strict=True)])
    return Comparison(first, second, len(before), differences["mean_iou"], differences["f1_50"], float(same))


def compare_unpaired(first: str, second: str, before: Scores, after: Scores) -> Comparison:
    """Difference of two scores on different photos: independent, so the squares of their errors add."""
    differences = {name: _difference(before.metrics[name], after.metrics[name]) for name in ("mean_iou", "f1_50")}
    return Comparison(first, second, after.photos, differences["mean_iou"], differences["f1_50"], float("nan"))


def _difference(before: Estimate, after: Estimate) -> Estimate:
    value = after.value - before.value
    down = math.hypot(after.value - after.low, before.high - before.value)
    up = math.hypot(after.high - after.value, before.value - before.low)
    return Estimate(value, value - down, value + up)


def _paired(first: str, second: str, before: Sequence[Sample], after: Sequence[Sample]) -> list[Sample]:
    """`after` in the order of `before`: a source may give the same photos in another order. Products as the newer
    ones know them, if they do.
    """
    by_id = {sample.id: sample for sample in after}
    pairs = [(sample, by_id.get(sample.id)) for sample in before]
    if len(before) != len(after) or any(new is None or new.truth != old.truth for old, new in pairs):
        raise DataError(
            f"{first} and {second} were not scored on the same photos", remedy="Score both on the current dataset."
        )
    return [replace(new, product=new.product or old.product) for old, new in pairs if new is not None]


def _signed(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"
