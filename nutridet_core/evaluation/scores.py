"""Scores: how well boxes were found, with n and a 95 % interval on every number.

Belongs here: the metrics and the result object. Does not belong here: COCO's average precision
(`average_precision`), intervals (`intervals`), running a model (`evaluate`), comparing two results (`compare`),
pictures (`report`).

Definitions: `mean_iou` is the seed's: for each ground-truth box the best IoU of any prediction on
that photo (0 if none), averaged over all ground-truth boxes. Precision, recall and F1 match
one-to-one (Hungarian). AP is COCO's. Intervals are over products (`intervals`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nutridet_core.answers import FAILURES, Form, Problem
from nutridet_core.boxes import Box, iou_matrix
from nutridet_core.evaluation import average_precision
from nutridet_core.evaluation.intervals import (
    Array,
    Estimate,
    Products,
    Weights,
    count_products,
    draw_positions,
    estimates,
    interval,
    number_products,
)

THRESHOLDS = (0.5, 0.75, 0.9)
COUNTING = 1
"""Rises with whatever changes a number or its interval, so that older scores are counted again from their answers."""
_AP_DRAWS = 200  # each one runs COCO's accumulation again
_RIGHT, _ELSEWHERE = Box(0.0, 0.0, 0.5, 1.0), Box(0.5, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Sample:
    """One photo: what is there, what was predicted, and how the answer read."""

    id: str
    width: int
    height: int
    truth: tuple[Box, ...]
    predicted: tuple[Box, ...]
    confidence: float
    text: str
    form: str
    problems: tuple[str, ...]
    seconds: float
    product: str = ""
    """Its barcode; empty for a product of its own."""

    @property
    def ious(self) -> tuple[float, ...]:
        """Best IoU of any prediction, per ground-truth box."""
        if not self.predicted or not self.truth:
            return (0.0,) * len(self.truth)
        return tuple(float(value) for value in iou_matrix(self.truth, self.predicted).max(axis=1))

    @property
    def failed(self) -> bool:
        """Whether the answer could not be read in full."""
        return not FAILURES.isdisjoint(Problem(problem) for problem in self.problems)


@dataclass(frozen=True)
class Scores:
    """The result of scoring one subject on one split. One object, four faces."""

    subject: str
    split: str
    photos: int
    products: int
    """That the photos show."""
    boxes: int
    negatives: int
    metrics: dict[str, Estimate]
    forms: dict[str, int]
    """Answers by how they were written."""
    problems: dict[str, int]
    """Answers by what was wrong with them."""
    seconds_per_photo: float
    """Median over photos."""
    counting: int = COUNTING
    """How it was counted."""

    @property
    def text(self) -> str:
        """For a terminal."""
        lines = [f"{self.subject} on {self.split}: {self._counts}"]
        lines += [f"  {name:22} {estimate}" for name, estimate in self.metrics.items()]
        return "\n".join(lines)

    @property
    def headline(self) -> str:
        """The two numbers that people ask for first."""
        return f"mean IoU {self.metrics['mean_iou']}, F1@0.5 {self.metrics['f1_50']}, n = {self.n}"

    @property
    def markdown(self) -> str:
        """For Dagster and reports."""
        rows = [f"| {name} | {estimate.value:.3f} | {estimate.low:.3f} to {estimate.high:.3f} |"
                for name, estimate in self.metrics.items()]  # fmt: skip
        head = (
            f"**{self.subject}** on {self.split}, {self._counts}\n\n| metric | value | 95 % interval |\n|---|---|---|"
        )
        return "\n".join([head, *rows])

    @property
    def mlflow_metrics(self) -> dict[str, float]:
        """Flat and finite, named `split.metric`, with `_low` and `_high`."""
        counts = {"photos": self.photos, "products": self.products, "boxes": self.boxes}
        flat = {f"{self.split}.{name}": float(count) for name, count in counts.items()}
        for name, estimate in self.metrics.items():
            for suffix, value in (("", estimate.value), ("_low", estimate.low), ("_high", estimate.high)):
                if np.isfinite(value):
                    flat[f"{self.split}.{name}{suffix}"] = value
        return flat

    @property
    def metadata(self) -> dict[str, Any]:
        """Plain values for Dagster's metadata: plots over materialisations need numbers."""
        headline = {name: self.metrics[name].value for name in ("mean_iou", "f1_50", "parse_failure_rate")}
        counts = {"photos": self.photos, "products": self.products, "boxes": self.boxes, "negatives": self.negatives}
        return {**headline, **counts}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scores:
        """From `to_dict`, also from when every photo was taken for a product of its own."""
        metrics = {name: Estimate(**estimate) for name, estimate in values["metrics"].items()}
        return cls(**{"products": values["photos"], "counting": 0, **values, "metrics": metrics})

    @property
    def n(self) -> str:
        """Photos, and how many products they show where some share one."""
        return f"{self.photos}{self.of_products}"

    @property
    def of_products(self) -> str:
        """What follows the number of photos where some share a product."""
        ending = "" if self.products == 1 else "s"
        return "" if self.products == self.photos else f" of {self.products:,} product{ending}"

    @property
    def _counts(self) -> str:
        return f"n = {self.photos} photos{self.of_products}, {self.boxes} boxes, {self.negatives} without a table"


@dataclass(frozen=True)
class Tally:
    """Per photo, everything the metrics are ratios of; each field has shape `(photos,)`."""

    boxes: Array
    predictions: Array
    iou_sum: Array
    matched: dict[float, Array]
    failures: Array
    negatives: Array
    false_detections: Array

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Tally:
        """Count once; resampling then only weighs."""
        boxes = np.array([len(sample.truth) for sample in samples], dtype=np.float64)
        predictions = np.array([len(sample.predicted) for sample in samples], dtype=np.float64)
        negatives = (boxes == 0).astype(np.float64)
        return cls(
            boxes=boxes,
            predictions=predictions,
            iou_sum=np.array([sum(sample.ious) for sample in samples]),
            matched={t: np.array([_matches(sample, t) for sample in samples]) for t in THRESHOLDS},
            failures=np.array([float(sample.failed) for sample in samples]),
            negatives=negatives,
            false_detections=negatives * (predictions > 0),
        )

    def metrics(self, weights: Weights) -> dict[str, Array]:
        """Every metric in each draw, of shape `(draws,)`.

        Of the photos that nobody took, each has one box and one prediction where boxes count, and no table where
        false detections do.
        """
        right, imagined, drawn = weights.right, weights.imagined, weights.photos
        boxes, predictions = drawn @ self.boxes + imagined, drawn @ self.predictions + imagined
        positive = 1 - self.negatives
        image_mean = np.divide(self.iou_sum, self.boxes, out=np.zeros_like(self.boxes), where=self.boxes > 0)
        result = {
            "mean_iou": _ratio(drawn @ self.iou_sum + right, boxes),
            "image_mean_iou": _ratio(drawn @ image_mean + right, drawn @ positive + imagined),
        }
        for threshold, matched in self.matched.items():
            hits, name = drawn @ matched + right, f"{threshold * 100:.0f}"
            result[f"precision_{name}"] = _ratio(hits, predictions)
            result[f"recall_{name}"] = _ratio(hits, boxes)
            result[f"f1_{name}"] = _ratio(2 * hits, predictions + boxes)
        wrong = weights.wrong
        result["parse_failure_rate"] = _ratio(drawn @ self.failures + wrong, drawn.sum(axis=1) + imagined)
        result["false_detection_rate"] = _ratio(
            drawn @ self.false_detections + wrong, drawn @ self.negatives + imagined
        )
        return result


def score(subject: str, split: str, samples: Sequence[Sample]) -> Scores:
    """All metrics of one subject on one split.

    Raises:
        ValueError: without any sample.
    """
    if not samples:
        raise ValueError(f"{subject} on {split}: nothing to score")
    tally, products = Tally.of(samples), products_of(samples)
    metrics = estimates(tally.metrics, products) | _average_precision(samples, products)
    return Scores(
        subject=subject,
        split=split,
        photos=len(samples),
        products=count_products(products),
        boxes=int(tally.boxes.sum()),
        negatives=int(tally.negatives.sum()),
        metrics=metrics,
        forms=dict(Counter(Form(sample.form).value for sample in samples)),
        problems=dict(Counter(Problem(problem).value for sample in samples for problem in sample.problems)),
        seconds_per_photo=float(np.median([sample.seconds for sample in samples])),
    )


def products_of(samples: Sequence[Sample]) -> Products:
    """By sample, the number of its product."""
    return number_products(sample.product or sample.id for sample in samples)


def _matches(sample: Sample, threshold: float) -> float:
    """Most one-to-one pairs of truth and prediction with an IoU of at least `threshold`."""
    if not sample.truth or not sample.predicted:
        return 0.0
    from scipy.optimize import linear_sum_assignment

    close = iou_matrix(sample.truth, sample.predicted) >= threshold
    rows, columns = linear_sum_assignment(close, maximize=True)
    return float(close[rows, columns].sum())


def _ratio(numerator: Array, denominator: Array) -> Array:
    """NaN where nothing was counted: no predictions means no precision, not a precision of 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(numerator / denominator)


def _average_precision(samples: Sequence[Sample], products: Products) -> dict[str, Estimate]:
    if not any(sample.truth for sample in samples):
        return {name: Estimate(float("nan"), float("nan"), float("nan")) for name in average_precision.NAMES}
    photos, confidence = len(samples), float(np.median([sample.confidence for sample in samples]))
    precision = average_precision.AveragePrecision(
        [*(sample.truth for sample in samples), (_RIGHT,), (_RIGHT,)],  # the last two are photos that nobody took
        [*(sample.predicted for sample in samples), (_RIGHT,), (_ELSEWHERE,)],
        [*(sample.confidence for sample in samples), confidence, confidence],
    )
    point = precision.over(range(photos))
    draws = np.array([precision.over(drawn.tolist()) for drawn in draw_positions(products, _AP_DRAWS)])
    return {
        name: interval(float(value), draws[:, column])
        for column, (name, value) in enumerate(zip(average_precision.NAMES, point, strict=True))
    }
