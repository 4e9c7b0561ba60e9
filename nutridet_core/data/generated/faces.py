"""Pack faces: the flat print of a pack, laid out around its nutrition tables.

Belongs here: which objects a face carries and where. Does not belong here: how the face is seen
(`camera`) and what stands behind it (`backgrounds`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from PIL import Image, ImageDraw

from .camera import Points, Rect, outline
from .fonts import DEJAVU, SERIF_BOLD, Family
from .fronts import paint_front
from .languages import CLAIMS, PRODUCTS
from .objects import BUILDERS, LOOKALIKES, PACK_LABELS
from .palettes import BLACK, Ink, blend, draw_colour, draw_ink, draw_pack_colour
from .panels import Colour, Panel, Text, paint, text_width

_GUTTER = 0.8  # em between neighbouring objects
_WIDEST_COLUMN = 30.0  # em
_MOST_TRIES = 4  # per column
_LEAST_SCALE = 0.55  # of the table's print size; nothing is printed smaller
_FRONT_SHARE = 0.3  # of the regions around the tables
_LEAST_FRONT = 7.0  # em of the tables' print along its shorter side
_HEADLINE = ""  # the label of print that is not an object


@dataclass
class Face:
    """A painted face and the rectangles of its objects, in face px."""

    canvas: Image.Image
    pack: Rect  # the part of the canvas that is pack
    ground: Colour
    shape: Points  # outline of what stands before the background: the pack, its neck, lid or gable
    family: Family = DEJAVU
    objects: list[tuple[str, Rect]] = field(default_factory=list)


def new_face(rng: Random, size: tuple[int, int], pack: Rect, ground: Colour, family: Family) -> Face:
    """A face without objects: ground colour and broad brand shapes."""
    face = Face(Image.new("RGB", size, ground), pack, ground, outline(pack), family)
    if rng.random() < 0.5:
        _add_brand_shapes(face, rng)
    return face


def _add_brand_shapes(face: Face, rng: Random) -> None:
    draw = ImageDraw.Draw(face.canvas)
    width, height = face.canvas.size
    near = tuple(min(255, max(0, c + rng.randint(-28, 28))) for c in face.ground)
    for _ in range(rng.randint(1, 3)):
        colour = (near[0], near[1], near[2]) if rng.random() < 0.7 else draw_colour(rng, (0.4, 1), (0.3, 1))
        x, y = rng.uniform(-0.3, 0.9) * width, rng.uniform(-0.3, 0.9) * height
        w, h = rng.uniform(0.2, 0.9) * width, rng.uniform(0.1, 0.6) * height
        shape = draw.ellipse if rng.random() < 0.6 else draw.rectangle
        shape((x, y, x + w, y + h), fill=colour)


def put(face: Face, label: str, panel: Panel, left: float, top: float, em: float) -> Rect:
    """Paint `panel` and record it under `label`."""
    rect = (left, top, left + panel.width * em, top + panel.height * em)
    paint(panel, face.canvas, left, top, em)
    face.objects.append((label, rect))
    return rect


def surround(face: Face, tables: Rect, em: float, rng: Random) -> None:
    """Fill the pack around the rectangle that holds the tables."""
    x0, y0, x1, y1 = face.pack
    gap = _GUTTER * em
    left, top, right, bottom = tables[0] - gap, tables[1] - gap, tables[2] + gap, tables[3] + gap
    if rng.random() < 0.5:
        regions = [(x0, y0, x1, top), (x0, bottom, x1, y1), (x0, top, left, bottom), (right, top, x1, bottom)]
    else:
        regions = [(x0, y0, left, y1), (right, y0, x1, y1), (left, y0, right, top), (left, bottom, right, y1)]
    for region in regions:
        kind = rng.random()
        if kind < _FRONT_SHARE:
            add_front(face, region, em, rng)
        elif kind < 0.9:
            fill(face, region, em, rng)


def add_front(face: Face, region: Rect, em: float, rng: Random) -> None:
    """The front, or a side of another shade, beyond a fold line; small regions stay empty."""
    if min(region[2] - region[0], region[3] - region[1]) < _LEAST_FRONT * em:
        return
    ground = face.ground if rng.random() < 0.4 else draw_pack_colour(rng)
    paint_front(face.canvas, region, ground, rng)
    if rng.random() < 0.5:
        ImageDraw.Draw(face.canvas).rectangle(region, outline=blend(ground, BLACK, rng.uniform(0.1, 0.4)), width=2)


def add_row(face: Face, rng: Random) -> None:
    """The same front several times side by side, as on a shelf."""
    x0, y0, x1, y1 = face.pack
    count, gap = rng.randint(2, 4), rng.randint(0, 12)
    width = (x1 - x0 - gap) / count
    cell = (x0, y0 + rng.uniform(0, 0.2) * (y1 - y0), x0 + width - gap, y1 - rng.uniform(0, 0.2) * (y1 - y0))
    ImageDraw.Draw(face.canvas).rectangle(face.pack, fill=blend(face.ground, BLACK, 0.8))
    paint_front(face.canvas, cell, face.ground, rng)
    front = face.canvas.crop((round(cell[0]), round(cell[1]), round(cell[2]), round(cell[3])))
    for number in range(1, count):
        face.canvas.paste(front, (round(x0 + number * (width + gap / count)), round(cell[1])))


def fill(face: Face, region: Rect, em: float, rng: Random, lookalike: str | None = None) -> None:
    """Fill `region` with columns of objects; the first object may be a lookalike."""
    x0, y0, x1, y1 = region
    if x1 - x0 > _WIDEST_COLUMN * em:
        cut = x0 + (x1 - x0) * rng.uniform(0.35, 0.65)
        fill(face, (x0, y0, cut, y1), em, rng, lookalike)
        fill(face, (cut, y0, x1, y1), em, rng)
        return
    y = y0 + em * rng.uniform(0.3, 1.8)
    for _ in range(_MOST_TRIES):
        y = _stack(face, (x0, y, x1, y1), em, rng, lookalike)
        lookalike = None


def _stack(face: Face, room: Rect, em: float, rng: Random, lookalike: str | None) -> float:
    """Put one object at the top of `room` if it fits; return where the next one may start."""
    gap = _GUTTER * em
    x0, top, width, height = room[0] + gap, room[1], room[2] - room[0] - 2 * gap, room[3] - room[1] - gap
    if width < 5 * em or height < 2 * em:
        return top
    label, panel = _draw_filler(face, rng, lookalike)
    largest = rng.uniform(1.0, 3.0) if label in (_HEADLINE, "logo") else rng.uniform(0.7, 1.25)
    size = min(em * largest, width / panel.width)
    if size < _LEAST_SCALE * em or panel.height * size > height:
        return top
    left = x0 + rng.choice((0.0, 0.0, 0.5, 1.0)) * (width - panel.width * size)
    if label == _HEADLINE:
        paint(panel, face.canvas, left, top, size)
    else:
        put(face, label, panel, left, top, size)
    return top + panel.height * size + gap * rng.uniform(0.5, 1.4)


def draw_lookalike(rng: Random) -> str:
    """The label of an object that resembles a nutrition table."""
    return rng.choice(LOOKALIKES)


def _draw_filler(face: Face, rng: Random, lookalike: str | None) -> tuple[str, Panel]:
    """An object with its label, or a headline."""
    ink = draw_ink(rng, face.ground, 0.2, face.family)
    if lookalike is None and rng.random() < 0.2:
        return _HEADLINE, _headline(rng, ink)
    label = lookalike or rng.choice(PACK_LABELS)
    return label, BUILDERS[label](rng, ink)


def _headline(rng: Random, ink: Ink) -> Panel:
    """A product name or a claim. It has no label: its words do not say what it is."""
    words, font = rng.choice(rng.choice((CLAIMS, PRODUCTS))), rng.choice((ink.bold, ink.bold, SERIF_BOLD))
    panel = Panel(text_width(words, font) * 1.4, 1.7)
    panel.add(Text(0, 0.85, words, ink.text, 1.4, font))
    return panel
