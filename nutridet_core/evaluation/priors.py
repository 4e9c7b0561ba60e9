"""Trivial priors: boxes that look at no photo. Whoever does not beat them has learnt nothing.

Belongs here: the full-image box and the median box of the training photos. Does not belong here:
baselines that look (`pipeline.baseline`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nutridet_core.answers import Form
from nutridet_core.boxes import FULL_IMAGE, Box, as_array
from nutridet_core.data.dataset import load_records
from nutridet_core.data.examples import Split
from nutridet_core.errors import DataError
from nutridet_core.evaluation.scores import Sample, Scores, score


@dataclass(frozen=True)
class Prior:
    """A box that is answered for every photo, and how it scores."""

    name: str
    summary: str
    box: Box
    scores: Scores
    samples: list[Sample]


def trivial_priors(dataset: Path, split: Split) -> list[Prior]:
    """The full photo, and the box whose corners are the medians of those in train, scored on a split.

    Raises:
        DataError: when train holds no box.
    """
    boxes = {
        "prior-full": ("the full photo", FULL_IMAGE),
        "prior-median": ("median box of train", _median_of_train(dataset)),
    }
    return [_score(dataset, split, name, *described) for name, described in boxes.items()]


def median_box(boxes: Sequence[Box]) -> Box:
    """The box whose corners are the medians of those given."""
    return Box(*(float(value) for value in np.median(as_array(boxes), axis=0)))


def _median_of_train(dataset: Path) -> Box:
    boxes = [box for record in load_records(dataset, "train") for box in record.boxes]
    if not boxes:
        raise DataError("no box in the training photos", where=dataset, field="train", remedy="Use labelled photos.")
    return median_box(boxes)


def _score(dataset: Path, split: Split, name: str, summary: str, box: Box) -> Prior:
    samples = [
        Sample(r.id, r.width, r.height, r.boxes, (box,), 1.0, name, Form.FLAT.value, (), 0.0, r.barcode)
        for r in load_records(dataset, split)
    ]
    return Prior(name, summary, box, score(name, split, samples), samples)
