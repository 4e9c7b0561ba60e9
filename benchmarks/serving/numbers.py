"""Medians, ratios and agreement, each with a 95 % interval from resampled photos.

Belongs here: arithmetic. Does not belong here: which rows are compared (`report`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nutridet_core.boxes import Box, iou_matrix
from nutridet_core.evaluation.scores import interval
from nutridet_core.prompts import Contract

_RESAMPLES = 2000
_SEED = 7

Numbers = dict[str, float]


def percentile_of(values: Sequence[float], percent: float, scale: float = 1.0) -> Numbers:
    """A percentile, times `scale`."""
    array = np.asarray(values, float) * scale
    return _shown(float(np.percentile(array, percent)), np.percentile(array[_draws(len(array))], percent, axis=1))


def ratio_of_medians(slow: Sequence[float], fast: Sequence[float]) -> Numbers:
    """How many times faster, on the photos that both were asked about."""
    count = min(len(slow), len(fast))
    first, second, draws = np.asarray(slow[:count]), np.asarray(fast[:count]), _draws(count)
    value = float(np.median(first) / np.median(second))
    return _shown(value, np.median(first[draws], axis=1) / np.median(second[draws], axis=1))


def mean_of(values: Sequence[float]) -> Numbers:
    """A mean."""
    array = np.asarray(values, float)
    return _shown(float(array.mean()), array[_draws(len(array))].mean(axis=1))


def rate_of(seconds: Sequence[float], wall: float) -> Numbers:
    """Photos a second; with a fixed number under way it is inverse to the mean time of one, which is resampled."""
    array = np.asarray(seconds, float)
    value = len(array) / wall
    return _shown(value, value * array.mean() / array[_draws(len(array))].mean(axis=1))


@dataclass(frozen=True)
class Agreement:
    """Two models' answers about the same photos."""

    photos: int
    same_texts: Numbers
    """Share of photos with the same text."""
    same_boxes: Numbers
    """Share of photos with the same boxes, to a thousandth."""
    iou: Numbers
    """Mean over the first one's boxes of the best IoU with the second's."""
    boxes: int
    invented: int
    """Photos where the second found a table and the first none."""


def agreement(contract: Contract, first: Sequence[str], second: Sequence[str]) -> Agreement:
    """How alike the answers are."""
    read = [[contract.read(text, (1000, 1000)).boxes for text in texts] for texts in (first, second)]
    ious = [_best(a, b) for a, b in zip(*read, strict=True)]
    flat = [value for photo in ious for value in photo]
    return Agreement(
        photos=len(first),
        same_texts=mean_of([a == b for a, b in zip(first, second, strict=True)]),
        same_boxes=mean_of([a == b for a, b in zip(*read, strict=True)]),
        iou=mean_of(flat),
        boxes=len(flat),
        invented=sum(bool(b) and not a for a, b in zip(*read, strict=True)),
    )


def _best(first: tuple[Box, ...], second: tuple[Box, ...]) -> list[float]:
    if not first or not second:
        return [0.0] * len(first)
    return [float(value) for value in iou_matrix(first, second).max(axis=1)]


def _draws(count: int) -> np.ndarray:
    return np.random.default_rng(_SEED).integers(0, count, (_RESAMPLES, count))


def _shown(value: float, resampled: np.ndarray) -> Numbers:
    found = interval(value, resampled)
    return {key: round(number, 4) for key, number in (("value", value), ("low", found.low), ("high", found.high))}
