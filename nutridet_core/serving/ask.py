"""`nutridet client`: photos to a gateway, a line per photo.

Belongs here: printing and drawing answers. Does not belong here: sending (`client`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path

from nutridet_core.boxes import Box
from nutridet_core.data.photos import load_photo
from nutridet_core.errors import NutridetError
from nutridet_core.overlay import predicted_files, save_predicted
from nutridet_core.serving.client import Client
from nutridet_core.serving.schemas import Detection

KEY = "NUTRIDET_API_KEY"


def ask_gateway(
    photos: Sequence[Path], *, url: str, at_once: int, as_json: bool, out: Path | None
) -> Iterator[tuple[str, bool]]:
    """(line, whether the photo was answered) for each photo, in order; with `out`, boxes are drawn there."""
    targets: Iterable[Path | None] = predicted_files(photos, out) if out else repeat(None, len(photos))
    with Client(url, key=os.environ.get(KEY) or None) as client:
        for photo, target, answer in zip(photos, targets, client.detect_all(photos, at_once=at_once), strict=True):
            if isinstance(answer, NutridetError):
                yield _failed(photo, answer, as_json), False
                continue
            if target:
                save_predicted(load_photo(photo), [Box(*box.unit) for box in answer.boxes], answer.score, target)
            yield _answered(photo, answer, target, as_json), True


def _failed(photo: Path, error: NutridetError, as_json: bool) -> str:
    return json.dumps({"photo": str(photo), "error": str(error)}) if as_json else f"error: {error}"


def _answered(photo: Path, detection: Detection, target: Path | None, as_json: bool) -> str:
    if as_json:
        return json.dumps({"photo": str(photo), **detection.model_dump()})
    return f"{photo}: {describe(detection)}" + (f" -> {target}" if target else "")


def describe(detection: Detection) -> str:
    """Boxes in pixels of the upright photo, or why there are none, and how long it took."""
    score = "" if detection.score is None else f"score {detection.score:.2f}, "
    known = f"({score}{detection.timing_ms.total:.0f} ms)"
    if detection.boxes:
        corners = [tuple(round(value) for value in box.px) for box in detection.boxes]
        return f"{', '.join(f'{box.label}{c}' for box, c in zip(detection.boxes, corners, strict=True))} {known}"
    return f"unreadable answer {detection.text!r} {known}" if detection.failed else f"no nutrition table {known}"
