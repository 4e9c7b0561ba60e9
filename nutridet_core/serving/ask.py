"""`nutridet client`: photos to a gateway, a line per photo.

Belongs here: printing and drawing answers. Does not belong here: sending (`client`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from nutridet_core.boxes import Box
from nutridet_core.data.examples import load_photo
from nutridet_core.errors import NutridetError
from nutridet_core.overlay import draw_boxes
from nutridet_core.serving.client import Client
from nutridet_core.serving.schemas import Detection

KEY = "NUTRIDET_API_KEY"


def ask_gateway(
    photos: Sequence[Path], *, url: str, at_once: int, as_json: bool, out: Path | None
) -> Iterator[tuple[str, bool]]:
    """(line, whether the photo was answered) for each photo, in order; with `out`, boxes are drawn there."""
    with Client(url, key=os.environ.get(KEY) or None) as client:
        for photo, answer in zip(photos, client.detect_all(photos, at_once=at_once), strict=True):
            if isinstance(answer, NutridetError):
                yield (
                    (json.dumps({"photo": str(photo), "error": str(answer)}) if as_json else f"error: {answer}"),
                    False,
                )
                continue
            target = f" -> {_draw(photo, answer, out)}" if out else ""
            line = {"photo": str(photo), **answer.model_dump()}
            yield (json.dumps(line) if as_json else f"{photo}: {describe(answer)}{target}"), True


def describe(detection: Detection) -> str:
    """Boxes in pixels of the upright photo, or why there are none, and how long it took."""
    score = "" if detection.score is None else f"score {detection.score:.2f}, "
    known = f"({score}{detection.timing_ms.total:.0f} ms)"
    if detection.boxes:
        corners = [tuple(round(value) for value in box.px) for box in detection.boxes]
        return f"{', '.join(f'{box.label}{c}' for box, c in zip(detection.boxes, corners, strict=True))} {known}"
    return f"unreadable answer {detection.text!r} {known}" if detection.failed else f"no nutrition table {known}"


def _draw(photo: Path, detection: Detection, out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    boxes = [Box(*box.unit) for box in detection.boxes]
    caption = None if detection.score is None else f"score {detection.score:.2f}"
    target = out / f"{photo.stem}.boxes.png"
    draw_boxes(load_photo(photo), [], boxes, caption=caption, max_side=1024).save(target)
    return target
