"""Intervals: a 95 % interval for every score, also where nothing went wrong yet.

Belongs here: how products are drawn again, and what is read off the draws. Does not belong here: what is counted
(`scores`), or differences of two subjects (`compare`).

Scores are ratios of sums over photos, and good ones consist of many hits and a few misses. A bootstrap draws only
what was seen: of 33 photos without a miss each of its draws has none, and the interval excludes the misses to come.
So photos are weighted as in Rubin's Bayesian bootstrap (1981), and two that nobody took are among them: one on which
all is right and one on which all is wrong, each with Jeffreys' half (Brown, Cai and DasGupta 2001). For a share this is
Jeffreys' interval; for hundreds of photos with misses among them it is the bootstrap's.

Photos of one product are alike: a model that misses one misses the others too. So a product is drawn with all of its
photos (Field and Welsh 2007 on the cluster bootstrap), and the photos that nobody took are of two more products, which
have as many photos as the average one. How often intervals hold the true value was simulated: decisions 21 and 23,
`tests/test_intervals.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
PRIOR = 0.5
"""Jeffreys'. Of either photo that nobody took."""
_SEED = 20241  # fixed: the same predictions give the same interval

Array = NDArray[np.float64]
Products = NDArray[np.int64]
"""By photo, the number of its product: `number_products`."""


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
    """Of photos that nobody took, on which all is right; shape `(draws,)`."""
    wrong: Array
    """Of those on which all is wrong; shape `(draws,)`."""

    @property
    def imagined(self) -> Array:
        """Of both together."""
        return self.right + self.wrong


def observed(photos: int) -> Weights:
    """One draw in which each photo counts once, for the value itself."""
    return Weights(np.ones((1, photos)), np.zeros(1), np.zeros(1))


def number_products(names: Iterable[str]) -> Products:
    """By photo, from the name of its product; numbered as they come."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def count_products(products: Products) -> int:
    """How many different ones."""
    return int(products.max()) + 1


def draw_weights(products: Products, draws: int = RESAMPLES, prior: float = PRIOR) -> Weights:
    """The Bayesian bootstrap with Jeffreys' prior: weights of Gamma's distribution, whose ratios are Dirichlet's."""
    rng, count = np.random.default_rng(_SEED), count_products(products)
    real = rng.gamma(1.0, size=(draws, count))
    right, wrong = rng.gamma(prior, size=(2, draws)) * len(products) / count
    return Weights(real[:, products], right, wrong)


def draw_seen(products: Products, draws: int = RESAMPLES) -> Weights:
    """The plain bootstrap: how often each product is drawn, and no other one.

    For differences: a product that counts nothing in some draws is what keeps a single one from telling two apart.
    """
    rng, count = np.random.default_rng(_SEED), count_products(products)
    real = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    return Weights(real[:, products], np.zeros(draws), np.zeros(draws))


def draw_positions(products: Products, draws: int) -> list[NDArray[np.int64]]:
    """The same for what can only be counted: positions of whole photos, for each draw.

    Position `photos` is a photo on which all is right, `photos + 1` one on which all is wrong. In their order, by
    which COCO ranks what was found with equal confidence.
    """
    rng, count, photos = np.random.default_rng(_SEED), count_products(products), len(products)
    weights = np.array([*np.ones(count), PRIOR, PRIOR]) / (count + 2 * PRIOR)
    average = round(photos / count)
    positions = np.concatenate([np.arange(photos), np.repeat([photos, photos + 1], average)])
    owners = np.concatenate([products, np.repeat([count, count + 1], average)])
    drawn = rng.choice(count + 2, size=(draws, count + 1), p=weights)
    return [np.repeat(positions, np.bincount(chosen, minlength=count + 2)[owners]) for chosen in drawn]


def estimates(metrics: Callable[[Weights], dict[str, Array]], products: Products) -> dict[str, Estimate]:
    """Values and intervals of functions of weights."""
    values, drawn = metrics(observed(len(products))), metrics(draw_weights(products))
    return {name: interval(float(value[0]), drawn[name]) for name, value in values.items()}


def interval(value: float, drawn: Array) -> Estimate:
    """The middle 95 % of the draws that are defined, and the value; NaN where there is no value."""
    defined = drawn[np.isfinite(drawn)]
    if not defined.size or not np.isfinite(value):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value, min(float(low), value), max(float(high), value))
