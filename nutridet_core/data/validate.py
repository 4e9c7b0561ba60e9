"""Validation: a candidate becomes an example, or is set aside with a reason.

Belongs here: the rules for boxes and photos, and the flags. Does not belong here: rules across
photos, such as duplicates (`split`).

Nothing is repaired in silence: a box at most one pixel outside is clamped, any other fault rejects
the example. `accept` has no state and may run in any number of threads or processes.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from nutridet_core.boxes import Box, iou_matrix
from nutridet_core.data.examples import BoxFormat, Candidate, Example, Rejection
from nutridet_core.data.photos import Photo, PhotoError, Reason, decode_photo

TINY_BOX, REENCODED, OVERLAPPING_BOXES = "tiny_box", "reencoded", "overlapping_boxes"
FLAGS = (TINY_BOX, REENCODED, OVERLAPPING_BOXES)
LABEL_FLAGS = frozenset({TINY_BOX, OVERLAPPING_BOXES})
"""Flags that put a label in doubt; the other one only says how its photo is stored."""
TINY_SIDE = 1 / 1000
TINY_AREA = 0.0016
"""Shares of the photo. Below them a box of the hub's data is a slip of the mouse, not a table."""
OVERLAP = 0.9
_CLAMP_PX = 1.0


class _BoxError(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


def accept(candidate: Candidate) -> Example | Rejection:
    """The example that a candidate holds, or why it holds none. Never raises on bad photos or boxes."""
    try:
        photo = decode_photo(candidate.image, where=candidate.where)
        _check_claimed_size(candidate, photo.image.size)
        boxes = tuple(to_box(values, candidate.box_format, *photo.image.size) for values in candidate.boxes)
    except PhotoError as error:
        return Rejection(candidate.id, candidate.where, error.reason, error.problem)
    except _BoxError as error:
        return Rejection(candidate.id, candidate.where, error.reason, str(error))
    return Example(
        id=candidate.id,
        image=photo.data if photo.untouched else _encode(photo),
        width=photo.image.width,
        height=photo.image.height,
        boxes=boxes,
        barcode=candidate.barcode,
        pixels_sha256=hash_pixels(photo.image),
        source=candidate.source,
        flags=_flags(photo, boxes),
    )


def to_box(values: Sequence[float], box_format: BoxFormat, width: int, height: int) -> Box:
    """A box from a source's four numbers; at most one pixel outside is clamped."""
    if len(values) != 4:
        raise _BoxError(Reason.BOX_MALFORMED, f"box {tuple(values)} has {len(values)} numbers, not 4")
    if not all(math.isfinite(value) for value in values):
        raise _BoxError(Reason.BOX_NOT_FINITE, f"box {tuple(values)} is not finite")
    corners = _corners(values, box_format)
    clamped = _clamp(corners, *_limits(box_format, width, height))
    first, second, third, fourth = clamped
    if corners[0] > corners[2] or corners[1] > corners[3]:
        raise _BoxError(Reason.BOX_SWAPPED, f"box {tuple(values)} ({box_format}) has swapped corners")
    if first >= third or second >= fourth:
        raise _BoxError(Reason.BOX_ZERO_AREA, f"box {tuple(values)} ({box_format}) has zero area")
    return _build(clamped, box_format, width, height)


def hash_pixels(image: Image.Image) -> str:
    """sha256 over the size and the RGB bytes of an image."""
    hashed = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    hashed.update(image.tobytes())
    return hashed.hexdigest()


def _check_claimed_size(candidate: Candidate, size: tuple[int, int]) -> None:
    """Pixel boxes need the very size; unit boxes survive a resize, but not a rotation."""
    if candidate.size is None or candidate.size == size:
        return
    turned = candidate.size[::-1] == size
    if turned or candidate.box_format.endswith("_px"):
        hint = "; the boxes seem drawn before the EXIF rotation" if turned else ""
        raise _BoxError(Reason.SIZE_MISMATCH, f"photo is {size}, its index says {candidate.size}{hint}")


def _corners(values: Sequence[float], box_format: BoxFormat) -> tuple[float, ...]:
    """Two corners in the order of the format: y-first stays y-first."""
    if box_format == "xywh_px":
        x, y, width, height = values
        return x, y, x + width, y + height
    return tuple(values)


def _limits(box_format: BoxFormat, width: int, height: int) -> tuple[Sequence[float], Sequence[float]]:
    """Upper bound and size of one pixel for each of the four numbers."""
    if box_format.endswith("_px"):
        return (width, height, width, height), (_CLAMP_PX,) * 4
    pixel = (_CLAMP_PX / height, _CLAMP_PX / width)
    return (1.0,) * 4, (pixel if box_format == "yxyx_unit" else pixel[::-1]) * 2


def _clamp(corners: Sequence[float], upper: Sequence[float], pixel: Sequence[float]) -> tuple[float, ...]:
    for value, bound, slack in zip(corners, upper, pixel, strict=True):
        rounding = slack * 1e-4  # float32 sources
        if not -slack - rounding <= value <= bound + slack + rounding:
            raise _BoxError(Reason.BOX_OUTSIDE, f"{value} in box {tuple(corners)} is not within 0..{bound}")
    return tuple(min(max(value, 0.0), bound) for value, bound in zip(corners, upper, strict=True))


def _build(corners: tuple[float, ...], box_format: BoxFormat, width: int, height: int) -> Box:
    try:
        if box_format == "yxyx_unit":
            return Box.from_yxyx(corners)
        if box_format == "xyxy_unit":
            return Box(*corners)
        return Box.from_xyxy_px(corners, width, height)
    except ValueError as error:  # two numbers that differ, but not after the division
        raise _BoxError(Reason.BOX_ZERO_AREA, str(error)) from error


def _encode(photo: Photo) -> bytes:
    """PNG stays lossless; the rest was lossy before and becomes a JPEG of high quality."""
    stream = io.BytesIO()
    if photo.format == "PNG":
        photo.image.save(stream, "PNG")
    else:
        photo.image.save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def _flags(photo: Photo, boxes: Sequence[Box]) -> tuple[str, ...]:
    tiny = any(min(box.x1 - box.x0, box.y1 - box.y0) < TINY_SIDE or box.area < TINY_AREA for box in boxes)
    overlaps = np.triu(iou_matrix(boxes, boxes), k=1) if len(boxes) > 1 else np.zeros((1, 1))
    present = {TINY_BOX: tiny, REENCODED: not photo.untouched, OVERLAPPING_BOXES: overlaps.max() > OVERLAP}
    return tuple(flag for flag in FLAGS if present[flag])
