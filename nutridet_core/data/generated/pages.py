"""Document pages: flat sheets with a few objects, for pretraining localisation.

Belongs here: page layout. Does not belong here: product photos (`photos`).
"""

from __future__ import annotations

import math
from random import Random

from PIL import Image, ImageFilter

from nutridet_core.boxes import Box

from .camera import Camera, Pose, Rect
from .drawing import Drawing
from .effects import light, noise
from .fonts import draw_family
from .layouts import draw_table
from .objects import BUILDERS, LABELS, TABLE
from .palettes import draw_colour, draw_ink
from .panels import Colour, paint

_MARGIN = 5  # px
_LEAST_EM = 5.0  # px; smaller print is a grey smear


def draw_page(seed: int, index: int, aspect: float | None = None) -> Drawing:
    """A flat page with one to four objects; the same arguments always give the same page.

    Args:
        aspect: width over height, about; None draws a shape close to a square.
    """
    rng = Random(f"page:{seed}:{index}")
    size = rng.randint(252, 336), rng.randint(252, 336)
    if aspect is not None:
        side = math.sqrt(size[0] * size[1])
        across = math.sqrt(aspect * rng.uniform(0.85, 1.18))
        size = round(side * across), round(side / across)
    ranges = ((0.0, 0.3), (0.75, 1.0)) if rng.random() < 0.8 else ((0.1, 0.8), (0.1, 0.4))
    ground = draw_colour(rng, *ranges)
    canvas = Image.new("RGB", size, ground)
    placed = _place_objects(canvas, ground, rng)
    if rng.random() < 0.3:
        canvas, placed = _rotated(canvas, placed, ground, rng.uniform(-0.05, 0.05))
    objects = tuple((label, Box.from_xyxy_px(rect, *size)) for label, rect in placed)
    return Drawing(_finished(canvas, rng), objects)


def _draw_labels(rng: Random) -> list[str]:
    """Labels for one page: all different on nine pages of ten."""
    count = rng.choices((1, 2, 3, 4), (2, 3, 3, 2))[0]
    labels = rng.sample(LABELS, count)
    if rng.random() < 0.4 and TABLE not in labels:
        labels[0] = TABLE
    if count > 1 and rng.random() < 0.13:
        labels[1] = labels[0]
    return labels


def _place_objects(canvas: Image.Image, ground: Colour, rng: Random) -> list[tuple[str, Rect]]:
    labels = _draw_labels(rng)
    width, height = canvas.size
    cells = _cells((_MARGIN, _MARGIN, width - _MARGIN, height - _MARGIN), len(labels), rng)
    pairs = zip(labels, cells, strict=True)
    return [(label, _place(canvas, label, cell, ground, rng)) for label, cell in pairs]


def _cells(area: Rect, count: int, rng: Random) -> list[Rect]:
    """`count` cells that tile `area`, by cutting the longer side."""
    if count == 1:
        return [area]
    x0, y0, x1, y1 = area
    first = count // 2
    cut = first / count + rng.uniform(-0.12, 0.12)
    if (x1 - x0) * rng.uniform(0.7, 1.4) > y1 - y0:
        x = x0 + (x1 - x0) * cut
        halves: tuple[Rect, Rect] = (x0, y0, x, y1), (x, y0, x1, y1)
    else:
        y = y0 + (y1 - y0) * cut
        halves = (x0, y0, x1, y), (x0, y, x1, y1)
    return _cells(halves[0], first, rng) + _cells(halves[1], count - first, rng)


def _place(canvas: Image.Image, label: str, cell: Rect, ground: Colour, rng: Random) -> Rect:
    """Paint one object at a random size and place inside `cell`, and return its rectangle."""
    ink = draw_ink(rng, ground, 0.3, draw_family(rng))
    panel = draw_table(rng, ink, simple=True) if label == TABLE else BUILDERS[label](rng, ink)
    room_x, room_y = cell[2] - cell[0] - 6, cell[3] - cell[1] - 6
    largest = min(room_x / panel.width, room_y / panel.height, 22.0)
    em = min(largest, max(_LEAST_EM, largest * rng.uniform(0.5, 1.0)))
    left = cell[0] + 3 + rng.random() * (room_x - panel.width * em)
    top = cell[1] + 3 + rng.random() * (room_y - panel.height * em)
    paint(panel, canvas, left, top, em)
    return left, top, left + panel.width * em, top + panel.height * em


def _rotated(
    canvas: Image.Image, placed: list[tuple[str, Rect]], ground: Colour, roll: float
) -> tuple[Image.Image, list[tuple[str, Rect]]]:
    size = canvas.size
    middle = (size[0] / 2, size[1] / 2)
    # Shrunk so that the corners, and with them every object, stay on the page.
    camera = Camera(Pose(roll=roll), (middle, middle), (0.94, 0.94), size[0], size[0])
    view = camera.take(canvas, size, ground)
    return view, [(label, camera.bounds(rect)) for label, rect in placed]


def _finished(canvas: Image.Image, rng: Random) -> Image.Image:
    if rng.random() < 0.4:
        canvas = light(canvas, rng)
    if rng.random() < 0.2:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8)))
    return noise(canvas, rng, rng.uniform(1, 6)) if rng.random() < 0.3 else canvas
