"""Intervals: a 95 % interval for every score, also where nothing went wrong yet.

Belongs here: how photos are drawn again, and what is read off the draws. Does not belong here: what is counted
(`scores`), or differences of two subjects (`compare`).

Scores are ratios of sums over photos, and good ones consist of many hits and a few misses. A bootstrap draws only
what was seen: of 33 photos without a miss each of its draws has none, and the interval excludes the misses to come.
So photos are weighted as in Rubin's Bayesian bootstrap (1981), and two that nobody took are among them: one on which
all is right and one on which all is wrong, each with Jeffreys' half (Brown, Cai and DasGupta 2001). For a share this is
Jeffreys' interval; for hundreds of photos with misses among them it is the bootstrap's. How often it holds the true
value was simulated: decision 21, `tests/test_intervals.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
PRIOR = 0.5
"""Jeffreys'. Of either photo that nobody took."""
_SEED = 20241  # fixed: the same predictions give the same interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval. `low` and `high` are NaN when there is nothing to resample."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Weights:
    """How much everything counts in each of several draws."""

    photos: Array
    """Shape `(draws, photos)`."""
    right: Array
    """Of a photo that nobody took, on which all is right; shape `(draws,)`."""
    wrong: Array
    """Of one on which all is wrong; shape `(draws,)`."""

    @property
    def imagined(self) -> Array:
        """Of both together."""
        return self.right + self.wrong


def observed(photos: int) -> Weights:
    """One draw in which each photo counts once, for the value itself."""
    return Weights(np.ones((1, photos)), np.zeros(1), np.zeros(1))


def draw_weights(photos: int, draws: int = RESAMPLES, prior: float = PRIOR) -> Weights:
    """The Bayesian bootstrap with Jeffreys' prior: weights of Gamma's distribution, whose ratios are Dirichlet's."""
    rng = np.random.default_rng(_SEED)
    real = rng.gamma(1.0, size=(draws, photos))
    right, wrong = rng.gamma(prior, size=(2, draws))
    return Weights(real, right, wrong)


def draw_seen(photos: int, draws: int = RESAMPLES) -> Weights:
    """The plain bootstrap: how often each photo is drawn, and no other photo.

    For differences: a photo that counts nothing in some draws is what keeps a single one from telling two apart.
    """
    rng = np.random.default_rng(_SEED)
    real = rng.multinomial(photos, np.full(photos, 1 / photos), size=draws).astype(np.float64)
    return Weights(real, np.zeros(draws), np.zeros(draws))


def draw_positions(photos: int, draws: int) -> NDArray[np.int64]:
    """The same for what can only be counted: positions of whole photos, shape `(draws, photos + 1)`.

    Position `photos` is the photo on which all is right, `photos + 1` the one on which all is wrong. In their order, by
    which COCO ranks what was found with equal confidence.
    """
    rng = np.random.default_rng(_SEED)
    weights = np.array([*np.ones(photos), PRIOR, PRIOR]) / (photos + 2 * PRIOR)
    return np.sort(rng.choice(photos + 2, size=(draws, photos + 1), p=weights), axis=1)


def estimates(metrics: Callable[[Weights], dict[str, Array]], photos: int) -> dict[str, Estimate]:
    """Values and intervals of functions of weights."""
    values, drawn = metrics(observed(photos)), metrics(draw_weights(photos))
    return {name: interval(float(value[0]), drawn[name]) for name, value in values.items()}


def interval(value: float, drawn: Array) -> Estimate:
    """The middle 95 % of the draws that are defined, and the value; NaN where there is no value."""
    defined = drawn[np.isfinite(drawn)]
    if not defined.size or not np.isfinite(value):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value, min(float(low), value), max(float(high), value))
