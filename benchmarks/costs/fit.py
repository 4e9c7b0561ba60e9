"""A straight line through measured costs, and whether it may be called one.

Belongs here: the line, its interval, the verdict. Does not belong here: what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

TOLERANCE = 0.10
"""A curve is linear when the mean at each point lies within this share of the line."""
_RESAMPLES = 2000


@dataclass(frozen=True)
class Line:
    """Least squares over all runs; the interval (95 %) is a bootstrap over runs."""

    slope: float
    low: float
    high: float
    intercept: float
    r2: float
    worst: float
    """The largest distance of a point's mean from the line, as a share of the line there."""
    n: int
    """Runs."""

    @property
    def is_linear(self) -> bool:
        """Whether no point's mean is further from the line than `TOLERANCE`."""
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
    x, y = np.asarray(xs, dtype=float), np.asarray(ys, dtype=float)
    slope, intercept = _least_squares(x, y)
    line = intercept + slope * x
    means = {float(value): float(y[x == value].mean()) for value in np.unique(x)}
    worst = max(abs(mean / (intercept + slope * value) - 1) for value, mean in means.items())
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float(((y - line) ** 2).sum()) / spread if spread else 1.0
    low, high = np.percentile(_slopes(x, y), [2.5, 97.5])
    return Line(slope, float(low), float(high), intercept, r2, worst, len(x))


def mean_interval(values: Sequence[float]) -> dict[str, float]:
    """The mean of a few values, with Student's 95 % interval: a bootstrap over so few would be too narrow."""
    from scipy.stats import t

    array = np.asarray(values, dtype=float)
    half = float(t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / len(array) ** 0.5) if len(array) > 1 else np.inf
    return {"value": float(array.mean()), "low": float(array.mean()) - half, "high": float(array.mean()) + half,
            "n": len(array)}  # fmt: skip


def _slopes(x: np.ndarray, y: np.ndarray) -> list[float]:
    """Of resampled runs; a sample whose runs are all of one point has no slope and is drawn again."""
    rng, slopes = np.random.default_rng(0), []
    while len(slopes) < _RESAMPLES:
        drawn = rng.integers(0, len(x), len(x))
        if np.ptp(x[drawn]) > 0:
            slopes.append(_least_squares(x[drawn], y[drawn])[0])
    return slopes


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    centred = x - x.mean()
    slope = float((centred * y).sum() / (centred**2).sum())
    return slope, float(y.mean() - slope * x.mean())
