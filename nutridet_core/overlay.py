"""Boxes drawn on photos: what is there in green, what was predicted in dashed orange.

Belongs here: drawing on one photo and laying several out on a sheet. Does not belong here: which
photos are worth showing (`report`) or curves and bars (`plots`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from nutridet_core.boxes import Box

TRUTH_COLOUR = "#12a150"
PREDICTED_COLOUR = "#ff6b00"

_PAPER, _BACKING, _INK, _HALO = "#ffffff", "#e7e9ec", "#1f2328", "#ffffff"
_GAP = 8  # px between the tiles of a sheet
_NARROWEST = 140  # px: a thinner photo would leave no room for its legend
_PREDICTED_SIDE = 1024  # px: the longest side of a photo saved with its answer
_ELLIPSIS = "\u2026"

Point = tuple[float, float]


def draw_boxes(
    image: Image.Image,
    truth: Sequence[Box],
    predicted: Sequence[Box],
    *,
    caption: str | None = None,
    max_side: int = 480,
) -> Image.Image:
    """A copy of the photo with its boxes, over a strip with the caption and a legend.

    Args:
        image: EXIF-transposed, as `Box` expects it; not changed.
        truth: drawn solid and green; none is also what an unlabelled photo has, so the legend then says nothing.
        predicted: drawn dashed and orange, on top.
        caption: cut to one line, e.g. "IoU 0.83".
        max_side: longest side of the photo after shrinking, in pixels; small photos are not enlarged.

    Returns:
        RGB; as high as the photo plus its strip, at least 140 pixels wide.
    """
    return add_strip(mark_boxes(image, truth, predicted, max_side=max_side), truth, predicted, caption=caption)


def save_predicted(image: Image.Image, boxes: Sequence[Box], score: float | None, target: Path) -> None:
    """Write the photo with predicted boxes, and their score below."""
    caption = None if score is None else f"score {score:.2f}"
    target.parent.mkdir(parents=True, exist_ok=True)
    draw_boxes(image, [], boxes, caption=caption, max_side=_PREDICTED_SIDE).save(target)


def predicted_files(photos: Sequence[Path], out: Path) -> Iterator[Path]:
    """A file below `out` per photo; photos of the same name from two folders do not overwrite each other."""
    seen: Counter[str] = Counter()
    for path in photos:
        seen[path.stem] += 1
        yield out / (f"{path.stem}-{seen[path.stem]}.boxes.png" if seen[path.stem] > 1 else f"{path.stem}.boxes.png")


def mark_boxes(
    image: Image.Image, truth: Sequence[Box], predicted: Sequence[Box], *, max_side: int = 480
) -> Image.Image:
    """What `draw_boxes` gives, without the strip."""
    photo = _shrink(image, max_side)
    width = _line_width(photo)
    pen = ImageDraw.Draw(photo)
    for box in truth:
        _draw_solid(pen, _corners(box, photo), TRUTH_COLOUR, width)
    for box in predicted:
        _draw_dashed(pen, _corners(box, photo), PREDICTED_COLOUR, width)
    return photo


def add_strip(
    photo: Image.Image, truth: Sequence[Box], predicted: Sequence[Box], *, caption: str | None = None
) -> Image.Image:
    """A marked photo over a strip with the caption and a legend of the kinds of boxes there are."""
    size = max(11, max(photo.size) // 34)
    strip = _strip(max(photo.width, _NARROWEST), caption, _legend(truth, predicted), size)
    tile = Image.new("RGB", (strip.width, photo.height + strip.height), _PAPER)
    tile.paste(photo, ((strip.width - photo.width) // 2, 0))
    tile.paste(strip, (0, photo.height))
    return tile


def contact_sheet(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Tiles left to right and top to bottom on grey; each row is as high as its highest tile.

    Raises:
        ValueError: without tiles or without columns.
    """
    if not tiles or columns < 1:
        raise ValueError(f"{len(tiles)} tiles in {columns} columns make no sheet")
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    cell = max(tile.width for tile in tiles)
    heights = [max(tile.height for tile in row) for row in rows]
    size = (len(rows[0]) * (cell + _GAP) + _GAP, sum(heights) + _GAP * (len(rows) + 1))
    sheet = Image.new("RGB", size, _BACKING)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (_GAP + column * (cell + _GAP) + (cell - tile.width) // 2, top + height - tile.height))
        top += height + _GAP
    return sheet


def _shrink(image: Image.Image, max_side: int) -> Image.Image:
    photo = image.convert("RGB")
    photo.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return photo


def _line_width(photo: Image.Image) -> int:
    """3 px on a tile of the report, 1/160 of the longer side on a large photo."""
    return max(2, round(max(photo.size) / 160))


def _corners(box: Box, photo: Image.Image) -> tuple[float, float, float, float]:
    """In pixels, inside the photo: a box at the very edge would lose its line."""
    x0, y0, x1, y1 = box.to_px(photo.width, photo.height)
    edge = _line_width(photo) // 2
    right, bottom = photo.width - 1 - edge, photo.height - 1 - edge
    x0, y0 = min(max(x0, edge), right), min(max(y0, edge), bottom)
    return x0, y0, max(x0, min(x1, right)), max(y0, min(y1, bottom))


def _draw_solid(pen: ImageDraw.ImageDraw, corners: tuple[float, float, float, float], colour: str, width: int) -> None:
    x0, y0, x1, y1 = corners
    pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=_HALO, width=width + 2)
    pen.rectangle(corners, outline=colour, width=width)


def _draw_dashed(pen: ImageDraw.ImageDraw, corners: tuple[float, float, float, float], colour: str, width: int) -> None:
    """Dashes over a thin light line: seen on dark and light print, and never hides the truth below."""
    x0, y0, x1, y1 = corners
    points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    for start, end in pairwise(points):
        pen.line((start, end), fill=_HALO, width=1)
        for dash in _dashes(start, end, 5 * width):
            pen.line(dash, fill=colour, width=width)


def _dashes(start: Point, end: Point, length: float) -> list[tuple[Point, Point]]:
    """An odd number of equal parts of about `length` px, every second one left out: corners are always drawn."""
    parts = max(1, round(math.dist(start, end) / length)) // 2 * 2 + 1
    points = [
        (start[0] + (end[0] - start[0]) * k / parts, start[1] + (end[1] - start[1]) * k / parts)
        for k in range(parts + 1)
    ]
    return [(points[k], points[k + 1]) for k in range(0, parts, 2)]


def _legend(truth: Sequence[Box], predicted: Sequence[Box]) -> list[tuple[str, str]]:
    """(colour, word) of each kind of box. A photo without a prediction says so."""
    entries = [(TRUTH_COLOUR, "truth")] if truth else []
    return [*entries, (PREDICTED_COLOUR, "predicted" if predicted else "none predicted")]


def _strip(width: int, caption: str | None, legend: list[tuple[str, str]], size: int) -> Image.Image:
    """Caption on the left and legend on the right; on two lines where one is too short."""
    font, line, margin = ImageFont.load_default(size), round(size * 1.7), round(size * 0.4)
    caption = " ".join((caption or "").split())
    legend_width = round(sum(size * 1.8 + font.getlength(word) for _, word in legend))
    one_line = font.getlength(caption) + size * 1.5 + legend_width <= width or not caption
    strip = Image.new("RGB", (width, line if one_line else 2 * line), _PAPER)
    pen = ImageDraw.Draw(strip)
    pen.text((margin, line // 2), _fit(caption, font, width - 2 * margin), fill=_INK, font=font, anchor="lm")
    x = width - legend_width if one_line and caption else margin
    for colour, word in legend:
        _key(pen, (x, strip.height - line // 2), colour, size)
        pen.text((x + size * 1.1, strip.height - line // 2), word, fill=_INK, font=font, anchor="lm")
        x += round(size * 1.8 + font.getlength(word))
    return strip


def _key(pen: ImageDraw.ImageDraw, left_middle: tuple[float, float], colour: str, size: int) -> None:
    x, y = left_middle
    pen.rectangle((x, y - size * 0.35, x + size * 0.7, y + size * 0.35), outline=colour, width=max(2, size // 6))


def _fit(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> str:
    """Cut to `width` px."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + _ELLIPSIS) > width:
        text = text[:-1]
    return text + _ELLIPSIS
