"""Average precision as COCO defines it, by pycocotools.

Belongs here: handing boxes to pycocotools and reading its result. Does not belong here: intervals, or
any other metric (`scores`).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from copy import copy, deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nutridet_core.boxes import Box

NAMES = ("ap", "ap_50", "ap_75")
"""Over IoU thresholds 0.5 to 0.95, at 0.5, at 0.75."""

_UNIT = 1000  # coordinates become 0..1000: COCO's area and IoU do not care
_AT_50, _AT_75 = 0, 5  # positions among COCO's ten IoU thresholds

Array = NDArray[np.float64]
Boxes = Sequence[Sequence[Box]]
"""By photo."""


class AveragePrecision:
    """AP, AP50 and AP75 over any choice of photos; boxes are matched once per photo.

    Args:
        truth: boxes that are there.
        predicted: boxes that were found.
        confidences: per photo, that of all its predicted boxes.
    """

    def __init__(self, truth: Boxes, predicted: Boxes, confidences: Sequence[float]) -> None:
        self._evaluator = _evaluate(_coco(truth, None), _coco(predicted, confidences))

    def over(self, photos: Sequence[int]) -> Array:
        """The values of `NAMES` over the photos at these positions, which may repeat; NaN where there is no truth."""
        drawn = copy(self._evaluator)
        drawn.params, drawn._paramsEval = deepcopy(drawn.params), deepcopy(drawn._paramsEval)
        drawn.evalImgs = [self._evaluator.evalImgs[position] for position in photos]
        drawn.params.imgIds = drawn._paramsEval.imgIds = list(range(len(photos)))
        with _silence():
            drawn.accumulate()
        precision = drawn.eval["precision"][:, :, 0, 0, -1]  # (IoU threshold, recall); -1 where there is no truth
        return np.array([_mean(precision), _mean(precision[_AT_50]), _mean(precision[_AT_75])])


def _evaluate(truth: Any, found: Any) -> Any:
    from pycocotools.cocoeval import COCOeval

    evaluator = COCOeval(truth, found, "bbox")
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0.0, 1e10]], ["all"]
    with _silence():
        evaluator.evaluate()
    return evaluator


def _coco(boxes: Boxes, confidences: Sequence[float] | None) -> Any:
    """Boxes as a COCO dataset; with confidences they are detections."""
    from pycocotools.coco import COCO

    annotations: list[dict[str, Any]] = []
    for photo, of_photo in enumerate(boxes):
        score = {} if confidences is None else {"score": confidences[photo]}
        annotations += [_annotation(photo, box) | score for box in of_photo]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    coco = COCO()
    images = [{"id": photo} for photo in range(len(boxes))]
    coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
    with _silence():
        coco.createIndex()
    return coco


def _annotation(photo: int, box: Box) -> dict[str, Any]:
    x0, y0, x1, y1 = (_UNIT * value for value in box.as_tuple())
    width, height = x1 - x0, y1 - y0
    place = {"image_id": photo, "category_id": 1, "bbox": [x0, y0, width, height], "area": width * height}
    return {**place, "iscrowd": 0, "ignore": 0}


def _mean(precision: Array) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else float("nan")


def _silence() -> contextlib.redirect_stdout[io.StringIO]:
    """Pycocotools prints its progress."""
    return contextlib.redirect_stdout(io.StringIO())
