"""Boxes: one frozen type, x first, in the unit square of the EXIF-transposed photo.

Belongs here: the box type, its conversions and the IoU. Does not belong here: how a model writes
a box (`answers`) or how boxes are drawn on a photo (`overlay`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

_EPSILON = 1e-6  # float32 sources write 1.0000001; more than this outside is an error


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """`(x0, y0, x1, y1)` with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, origin top left.

    Raises:
        ValueError: when a corner is not finite, lies outside 0..1, is swapped, or the area is zero.
    """

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        values = astuple(self)
        if not all(np.isfinite(values)):
            raise ValueError(f"box {values} is not finite")
        if min(values) < -_EPSILON or max(values) > 1 + _EPSILON:
            raise ValueError(f"box {values} lies outside the photo (0..1)")
        if self.x0 > self.x1 or self.y0 > self.y1:
            raise ValueError(f"box {values} has swapped corners")
        if self.x0 == self.x1 or self.y0 == self.y1:
            raise ValueError(f"box {values} has zero area")
        for name, value in zip(("x0", "y0", "x1", "y1"), values, strict=True):
            object.__setattr__(self, name, float(min(1.0, max(0.0, value))))

    @classmethod
    def from_yxyx(cls, values: Sequence[float]) -> Box:
        """From the hub dataset's `(y_min, x_min, y_max, x_max)`, unit 0..1. The only place that flips."""
        y0, x0, y1, x1 = values
        return cls(x0, y0, x1, y1)

    @classmethod
    def from_xyxy_px(cls, values: Sequence[float], width: int, height: int) -> Box:
        """From corner pixels of a `width` x `height` photo."""
        x0, y0, x1, y1 = values
        return cls(x0 / width, y0 / height, x1 / width, y1 / height)

    @classmethod
    def from_xywh_px(cls, values: Sequence[float], width: int, height: int) -> Box:
        """From COCO's `(x, y, w, h)` in pixels of a `width` x `height` photo."""
        x, y, w, h = values
        return cls.from_xyxy_px((x, y, x + w, y + h), width, height)

    def as_tuple(self) -> tuple[float, float, float, float]:
        """`(x0, y0, x1, y1)`, unit 0..1."""
        return self.x0, self.y0, self.x1, self.y1

    def to_px(self, width: int, height: int) -> tuple[float, float, float, float]:
        """`(x0, y0, x1, y1)` in pixels of a `width` x `height` photo."""
        return self.x0 * width, self.y0 * height, self.x1 * width, self.y1 * height

    @property
    def area(self) -> float:
        """Share of the photo that the box covers, 0..1."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


FULL_IMAGE = Box(0.0, 0.0, 1.0, 1.0)


def as_array(boxes: Sequence[Box]) -> NDArray[np.float64]:
    """Boxes as an `(n, 4)` array, x first, unit 0..1; `(0, 4)` when there are none."""
    return np.array([box.as_tuple() for box in boxes], dtype=np.float64).reshape(-1, 4)


def iou_matrix(first: Sequence[Box], second: Sequence[Box]) -> NDArray[np.float64]:
    """Intersection over union of every pair, shape `(len(first), len(second))`."""
    a, b = as_array(first)[:, None, :], as_array(second)[None, :, :]
    overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = overlap.clip(min=0).prod(axis=-1)
    union = _area(a) + _area(b) - intersection
    return np.asarray(intersection / union, dtype=np.float64)


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    return float(iou_matrix([first], [second])[0, 0])


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).prod(axis=-1))
