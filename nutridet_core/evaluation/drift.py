"""Drift: whether today's photos are like those that a model was trained on.

Belongs here: measuring photos, comparing two sets of them, and the audit that says whether they differ.
Does not belong here: drawing (`plots`), or whether the model still works on them (`audits.audit_not_regressed`):
photos can drift and scores hold.

Each property is compared by the two-sample Kolmogorov-Smirnov test, which assumes nothing about its
distribution and gives the same result on any scale, so that nothing has to be normalised. Its distance D
is the largest share of photos that lie on different sides of some value. A property counts as drifted when

- its p-value, multiplied by the number of properties (Bonferroni), is below `ALPHA`: of re-evaluations on
  photos like those of training at most one in a hundred warns, which is once in two years of weekly ones; and
- D is at least `LEAST_DISTANCE`: with thousands of photos any difference is beyond chance, and most do
  not matter. 0.2 is a shift of a bell curve by half its standard deviation.

Photos of one product are alike, and the test takes what it is given for independent: so one photo of
each product is measured.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nutridet_core.data.dataset import load_records, photo_files
from nutridet_core.data.examples import Record, Split
from nutridet_core.evaluation.audits import Audit
from nutridet_core.evaluation.intervals import Estimate

ALPHA = 0.01
LEAST_DISTANCE = 0.2
MOST_PHOTOS = 2000
"""Measured per set: it resolves D to 0.04, and its decoding takes seconds."""
AUDIT = "inputs_like_training"

_SIDE = 64  # px


def _width_to_height(record: Record) -> float:
    """Of the largest table, in pixels."""
    box = max(record.boxes, key=lambda box: box.area)
    return (box.x1 - box.x0) * record.width / ((box.y1 - box.y0) * record.height)


TITLES = {
    "megapixels": "photo size, megapixels",
    "aspect": "photo, width to height",
    "tables": "tables on the photo",
    "light": "light, mean from 0 to 1",
    "contrast": "contrast, spread of light",
    "table_area": "table, share of the photo",
    "table_aspect": "table, width to height",
}
"""Properties and their names for people. The last two are of the largest table; photos without one are left out."""

_OF_RECORD: dict[str, Callable[[Record], float]] = {
    "megapixels": lambda record: record.width * record.height / 1e6,
    "aspect": lambda record: record.width / record.height,
    "tables": lambda record: float(len(record.boxes)),
}
_OF_TABLE: dict[str, Callable[[Record], float]] = {
    "table_area": lambda record: max(box.area for box in record.boxes),
    "table_aspect": _width_to_height,
}


@dataclass(frozen=True)
class Inputs:
    """What was measured on a set of photos: by property, a value per photo."""

    photos: int
    values: dict[str, tuple[float, ...]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Inputs:
        """From `to_dict`."""
        return cls(found["photos"], {name: tuple(values) for name, values in found["values"].items()})


@dataclass(frozen=True)
class Shift:
    """One property in both sets: medians, numbers of photos, and how far apart the distributions are."""

    name: str
    training: Estimate
    now: Estimate
    photos: tuple[int, int]
    distance: float
    p: float
    """Of as large a distance between samples of one population, corrected for the number of properties."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Shift:
        """From `dataclasses.asdict`, or from JSON made of it."""
        medians = {name: Estimate(**values[name]) for name in ("training", "now")}
        return cls(**{**values, **medians, "photos": tuple(values["photos"])})

    @property
    def drifted(self) -> bool:
        """Beyond chance, and by enough to matter."""
        return self.p < ALPHA and self.distance >= LEAST_DISTANCE

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of a table under `HEADER`."""
        p = "< 0.001" if self.p < 0.001 else f"{self.p:.3f}"
        verdict = "differs" if self.drifted else "not told apart"
        medians = (str(self.training), str(self.now))
        return TITLES[self.name], verdict, f"{self.distance:.2f}", p, *medians, _n(self)


HEADER = ("property", "verdict", "KS distance", "p, corrected", "median in training", "median now", "n")


def measure(dataset: Path, split: Split) -> Inputs:
    """Measure one photo of each product of a split, at most `MOST_PHOTOS`, spread evenly."""
    files = photo_files(dataset, split)
    chosen = _spread_over_products(load_records(dataset, split))
    values: dict[str, list[float]] = {name: [] for name in TITLES}
    for place, record in chosen:
        for name, value in _measured(record, files[place]()):
            values[name].append(value)
    return Inputs(len(chosen), {name: tuple(found) for name, found in values.items()})


def compare_inputs(training: Inputs, now: Inputs) -> list[Shift]:
    """The shift of every property that both sets have values of."""
    from scipy.stats import ks_2samp

    names = [name for name in TITLES if training.values.get(name) and now.values.get(name)]
    shifts = []
    for name in names:
        before, after = training.values[name], now.values[name]
        result = ks_2samp(before, after)
        p = min(1.0, len(names) * float(result.pvalue))
        photos = (len(before), len(after))
        shifts.append(Shift(name, median(before), median(after), photos, float(result.statistic), p))
    return shifts


def audit_inputs(shifts: Sequence[Shift]) -> Audit:
    """Today's photos are not shown to differ from those of training by enough to matter."""
    drifted = [shift for shift in shifts if shift.drifted]
    evidence = {shift.name: asdict(shift) for shift in shifts}
    if not shifts:
        return Audit(AUDIT, False, "not known: no measurements of the training photos were kept", evidence)
    found = "; ".join(f"{TITLES[shift.name]}: {shift.training} in training, {shift.now} now" for shift in drifted)
    summary = f"{found or f'{len(shifts)} properties not told apart from training'}, n = {_n(shifts[0])} photos"
    return Audit(AUDIT, not drifted, summary, evidence)


def median(values: tuple[float, ...]) -> Estimate:
    """With the 95 % interval between two order statistics, which holds for any distribution; NaN below six values."""
    from scipy.stats import binom

    ordered = sorted(values)
    below = int(binom.ppf(0.025, len(ordered), 0.5))
    low, high = (ordered[below - 1], ordered[-below]) if below else (float("nan"), float("nan"))
    return Estimate(float(np.median(ordered)), low, high)


def _spread_over_products(records: list[Record]) -> list[tuple[int, Record]]:
    """(place, record) of the first photo of each product."""
    first: dict[str, tuple[int, Record]] = {}
    for place, record in enumerate(records):
        first.setdefault(record.barcode, (place, record))
    products = list(first.values())
    chosen = np.unique(np.linspace(0, len(products) - 1, min(MOST_PHOTOS, len(products))).astype(int))
    return [products[place] for place in chosen]


def _measured(record: Record, content: bytes) -> Iterator[tuple[str, float]]:
    yield from ((name, of(record)) for name, of in _OF_RECORD.items())
    yield from zip(("light", "contrast"), _light(content), strict=True)
    if record.boxes:
        yield from ((name, of(record)) for name, of in _OF_TABLE.items())


def _light(content: bytes) -> tuple[float, float]:
    """Mean and spread of a dataset's photo. A JPEG is scaled down while it is decoded, which is 20 times faster."""
    with Image.open(io.BytesIO(content)) as photo:
        photo.draft("L", (_SIDE, _SIDE))
        grey = np.asarray(photo.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)) / 255
    return float(grey.mean()), float(grey.std())


def _n(shift: Shift) -> str:
    return f"{shift.photos[0]} / {shift.photos[1]}"
