"""A straight line through measured costs, and whether it may be called one.

Belongs here: the line, its interval, the verdict. Does not belong here: what is measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TOLERANCE = 0.10
"""A curve is linear when the median at each point lies within this share of the line."""
_RESAMPLES = 2000


@dataclass(frozen=True)
class Line:
    """Least squares through the median of each point's runs; the interval (95 %) is a bootstrap over those runs.

    Medians, since a neighbour on the machine makes some runs much slower, and none faster.
    """

    slope: float
    low: float
    high: float
    intercept: float
    r2: float
    worst: float
    """The largest distance of a median from the line, as a share of the line there."""
    n: int
    """Runs."""

    @property
    def is_linear(self) -> bool:
        """Whether no point's median is further from the line than `TOLERANCE`."""
        return self.worst <= TOLERANCE

    @property
    def grows(self) -> bool:
        """Whether the interval of the slope lies above 0."""
        return self.low > 0

    def at(self, x: float) -> float:
        """The line's height."""
        return self.intercept + self.slope * x

    def to_dict(self) -> dict[str, Any]:
        """For a result file."""
        return asdict(self) | {"is_linear": self.is_linear}


def fit_line(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """The line through runs: `xs` with repeats, and what each run cost."""
    runs: dict[float, list[float]] = defaultdict(list)
    for x, y in zip(xs, ys, strict=True):
        runs[x].append(y)
    points, medians = np.array(list(runs)), np.array([np.median(costs) for costs in runs.values()])
    slope, intercept = _least_squares(points, medians)
    line = intercept + slope * points
    spread = float(((medians - medians.mean()) ** 2).sum())
    r2 = 1 - float(((medians - line) ** 2).sum()) / spread if spread else 1.0
    low, high = np.percentile(_slopes(points, list(runs.values())), [2.5, 97.5])
    return Line(slope, float(low), float(high), intercept, r2, float(np.abs(medians / line - 1).max()), len(xs))


def mean_interval(values: Sequence[float]) -> dict[str, float]:
    """The mean of a few values with Student's 95 % interval: a bootstrap over so few is too narrow. One has none."""
    from scipy.stats import t

    array = np.asarray(values, dtype=float)
    n, mean = len(array), float(array.mean())
    half = float(t.ppf(0.975, n - 1) * array.std(ddof=1) / n**0.5) if n > 1 else 0.0
    return {"value": mean, "low": mean - half, "high": mean + half, "n": n}


def _slopes(points: Array, runs: Sequence[Sequence[float]]) -> list[float]:
    """Of resampled runs, each point's among themselves."""
    rng = np.random.default_rng(0)
    medians = np.array([np.median(rng.choice(costs, (_RESAMPLES, len(costs))), axis=1) for costs in runs])
    return [_least_squares(points, drawn)[0] for drawn in medians.T]


def _least_squares(x: Array, y: Array) -> tuple[float, float]:
    centred = x - x.mean()
    slope = float((centred * y).sum() / (centred**2).sum())
    return slope, float(y.mean() - slope * x.mean())
