"""The peer: what a user would pick instead of a vision-language model, OCR and a list of words.

Belongs here: text lines to one box. It is a yardstick, kept simple on purpose and not tuned on test.

OCR (RapidOCR, PP-OCR models on a CPU) reads the text lines; those that name a nutrient, an energy
unit or a serving are anchors; lines near an anchor belong to its table; the box is their hull.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from PIL import Image

from nutridet_core.answers import Form
from nutridet_core.boxes import Box
from nutridet_core.errors import SettingsError

_ANCHOR = re.compile(
    r"nutri|nährwert|voedingswaarde|valor(es|i) n|wartość|näringsv|[eé]nerg|kcal|kj\b|calor|brennwert|"
    r"\bfat\b|fett|gras(so|as|si)|mati[eè]res|lípidos|tłuszcz|vet\b|saturat|satur|gesättigt|"
    r"carbohydrat|kohlenhydrat|glucides|hidratos|carboidrat|węglowodan|koolhydra|sugar|zucker|sucres|azúcar|zuccheri|cukr|suiker|socker|"
    r"prot[eé][ií]n|eiwei|białk|eiwit|fib(re|er|ra)|ballaststoff|błonnik|vezel|"
    r"\bsalt\b|\bsalz|\bsel\b|\bsal\b|\bsale\b|\bsól\b|\bzout\b|sodium|cholesterol|serving|portion|daily value|per 100",
    re.IGNORECASE,
)
_MIN_ANCHORS = 3
"""Fewer nutrient words than this are an ingredient list."""
_LEAST_SIDE = 32
"""Pixels that a photo is enlarged to. RapidOCR's own 736 takes twice the time for the same boxes (docs/log.md)."""
_GAP = 2.5
"""Lines further apart than this many line heights are different blocks."""


@dataclass(frozen=True)
class Line:
    """One line of text and where it stands, in pixels."""

    text: str
    x0: float
    y0: float
    x1: float
    y1: float


def line_reader() -> Callable[[Image.Image], list[Line]]:
    """A function that reads the text lines of a photo; the OCR models are loaded once.

    Raises:
        SettingsError: when RapidOCR is not installed.
    """
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise SettingsError("the OCR peer needs rapidocr", remedy="pip install 'nutridet[peers]'.") from error
    ocr = RapidOCR(params={"Global.log_level": "error", "Global.use_cls": False, "Det.limit_side_len": _LEAST_SIDE})

    def read(photo: Image.Image) -> list[Line]:
        result = ocr(np.asarray(photo)[:, :, ::-1])  # OCR expects blue first
        if result.boxes is None or result.txts is None:
            return []
        return [_line(text, corners) for text, corners in zip(result.txts, result.boxes, strict=True)]

    return read


def find_table(lines: Sequence[Line], width: int, height: int) -> Box | None:
    """The hull of the block of lines with the most anchors; None when no block has enough."""
    blocks = sorted(_blocks(lines), key=_anchors, reverse=True)
    if not blocks or _anchors(blocks[0]) < _MIN_ANCHORS:
        return None
    block = blocks[0]
    left, top = min(line.x0 for line in block), min(line.y0 for line in block)
    right, bottom = max(line.x1 for line in block), max(line.y1 for line in block)
    return Box.from_xyxy_px((max(0, left), max(0, top), min(width, right), min(height, bottom)), width, height)


def form_of(box: Box | None) -> Form:
    """How the peer's answer counts: it is never malformed."""
    return Form.NEGATIVE if box is None else Form.FLAT


def _line(text: str, corners: np.ndarray) -> Line:
    (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
    return Line(text, float(x0), float(y0), float(x1), float(y1))


def _blocks(lines: Sequence[Line]) -> list[list[Line]]:
    """Anchors and the lines beside them, grouped while the gap stays small."""
    rows = [line for line in lines if _is_anchor(line) or _beside_anchor(line, lines)]
    blocks: list[list[Line]] = []
    for line in sorted(rows, key=lambda line: line.y0):
        near = [block for block in blocks if any(_adjacent(line, other) for other in block)]
        blocks = [block for block in blocks if block not in near] + [[line, *chain(*near)]]
    return blocks


def _beside_anchor(line: Line, lines: Sequence[Line]) -> bool:
    """A value such as `2.3 g` stands on an anchor's row."""
    if not re.search(r"\d", line.text):
        return False
    return any(_is_anchor(other) and _same_row(line, other) for other in lines)


def _same_row(a: Line, b: Line) -> bool:
    return abs((a.y0 + a.y1) - (b.y0 + b.y1)) / 2 < 0.6 * max(a.y1 - a.y0, b.y1 - b.y0)


def _adjacent(a: Line, b: Line) -> bool:
    reach = _GAP * max(a.y1 - a.y0, b.y1 - b.y0)
    apart_x = max(a.x0, b.x0) - min(a.x1, b.x1)
    apart_y = max(a.y0, b.y0) - min(a.y1, b.y1)
    return apart_y < reach and (apart_x < 0 or (apart_x < 6 * reach and _same_row(a, b)))


def _anchors(block: Sequence[Line]) -> int:
    return sum(_is_anchor(line) for line in block)


def _is_anchor(line: Line) -> bool:
    return _ANCHOR.search(line.text) is not None and len(line.text) < 60
