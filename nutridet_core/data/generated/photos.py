"""Product photos: a pack face with its tables, seen by a camera, in front of a background.

Belongs here: sizes, table placement and the assembly of one photo. Does not belong here: the face's
other objects (`faces`), geometry of the view (`camera`), light (`effects`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from nutridet_core.boxes import Box

from .camera import Camera, Pose, Rect, clip, draw_pose, visible_share
from .crumple import Crumple
from .drawing import Drawing
from .effects import photograph
from .faces import Face, add_front, add_row, draw_lookalike, fill, new_face, put, surround
from .fonts import Family, draw_family
from .layouts import draw_table
from .objects import TABLE
from .palettes import draw_ink, draw_pack_colour
from .panels import Colour, Panel
from .scene import compose
from .shapes import SHAPES, add_shape

_OVERSAMPLING = 1.25  # face px per photo px: keeps small print crisp after the warp
_MARGIN = 0.2  # face beyond the frame on every side, which a rotated view reveals
_LEAST_VISIBLE = 0.8  # share of a table's bounds
_MOST_CUT = 0.1  # per axis; both axes together still leave _LEAST_VISIBLE
_TABLE_GAP = 1.2  # em between two tables
_COUNT_SHARES = (0.20, 0.725, 0.06, 0.015)  # of photos with 0, 1, 2 and 3 tables
_SHAPE_WEIGHTS, _FRONT_SHAPE_WEIGHTS = (0.68, 0.04, 0.06, 0.06, 0.16), (0.3, 0.3, 0.12, 0.1, 0.18)  # of `SHAPES`
_TURN_SHARES = (0.96, 0.015, 0.01, 0.015)  # of photos turned by 0, 90, 180 and 270 degrees
_CRUMPLED = 0.15  # share of packs of crumpled foil or film
_HELD, _HELD_FRONT = 0.25, 0.55  # shares of packs held in a hand: with tables, without
_FRONT_ROLL = 0.17  # radians; who shows a front does not care that print is level
_ASPECTS = (0.75, 0.75, 0.75, 0.5625, 0.66, 1.0, 1.33, 1.33, 1.5, 1.78, 0.45)


@dataclass(frozen=True)
class Plan:
    """The geometry of one photo before anything is painted.

    Args:
        size: photo px.
        frame: face px that the frontal camera sees; the canvas is larger by `_MARGIN`.
        em: face px of one em of print.
        tables: every nutrition table and its face px.
        block: face px that hold all the tables; the middle of the frame when there are none.
    """

    size: tuple[int, int]
    frame: tuple[float, float]
    em: float
    tables: tuple[tuple[Panel, Rect], ...]
    block: Rect


def draw_product_photo(seed: int, index: int) -> Drawing:
    """A product photo; the same `(seed, index)` always gives the same photo."""
    rng = Random(f"photo:{seed}:{index}")
    ground = draw_pack_colour(rng)
    count = rng.choices((0, 1, 2, 3), _COUNT_SHARES)[0]
    family = draw_family(rng)
    ink = draw_ink(rng, ground, 0.45, family)
    plan = _plan(tuple(draw_table(rng, ink) for _ in range(count)), rng)
    face = _paint_face(plan, ground, family, rng)
    camera = _aim(plan, rng)
    held = _HELD if plan.tables else _HELD_FRONT
    image = photograph(compose(face, camera, plan.size, held, rng), rng)
    drawing = Drawing(image, _visible_objects(face, camera, plan.size))
    for _ in range(rng.choices((0, 1, 2, 3), _TURN_SHARES)[0]):
        drawing = drawing.quarter_turned()
    return drawing


# ---------------------------------------------------------------- plan


def _draw_share(rng: Random) -> float:
    """The share of the photo that the tables should cover: close-ups and whole packs."""
    if rng.random() < 0.38:
        return rng.uniform(0.4, 0.92)
    return float(0.05 * 10 ** rng.random())


def _plan(panels: tuple[Panel, ...], rng: Random) -> Plan:
    """Choose frame, print size and table places so that the tables cover the drawn share."""
    stacked = sum(panel.height for panel in panels) < 1.2 * sum(panel.width for panel in panels)
    width, height = _block_size(panels, stacked)
    share = _draw_share(rng)
    squeeze = rng.uniform(0.85, 1.0)  # packs use condensed type
    size = _draw_photo_size(width * squeeze / height if panels and share > 0.3 else None, rng)
    frame = (size[0] * _OVERSAMPLING / squeeze, size[1] * _OVERSAMPLING)
    if not panels:
        em = rng.uniform(7, 20)
        return Plan(size, frame, em, (), _centred(frame))
    em = min((share * frame[0] * frame[1] / (width * height)) ** 0.5, frame[0] / width, frame[1] / height)
    # Of several tables the edge would cut only the outer one, and that one by too much.
    cut = _MOST_CUT if len(panels) == 1 else 0.0
    left = _MARGIN * frame[0] + _draw_offset(frame[0], width * em, cut, rng)
    top = _MARGIN * frame[1] + _draw_offset(frame[1], height * em, cut, rng)
    tables = _lay_out(panels, stacked, left, top, em)
    return Plan(size, frame, em, tables, (left, top, left + width * em, top + height * em))


def _centred(frame: tuple[float, float]) -> Rect:
    x, y = (side * (0.5 + _MARGIN) for side in frame)
    return x, y, x, y


def _block_size(panels: tuple[Panel, ...], stacked: bool) -> tuple[float, float]:
    """Width and height, in em, of all tables with the gaps between them."""
    if not panels:
        return 0.0, 0.0
    gaps = _TABLE_GAP * (len(panels) - 1)
    widths, heights = [p.width for p in panels], [p.height for p in panels]
    return (max(widths), sum(heights) + gaps) if stacked else (sum(widths) + gaps, max(heights))


def _lay_out(
    panels: tuple[Panel, ...], stacked: bool, left: float, top: float, em: float
) -> tuple[tuple[Panel, Rect], ...]:
    tables = []
    for panel in panels:
        width, height = panel.width * em, panel.height * em
        tables.append((panel, (left, top, left + width, top + height)))
        if stacked:
            top += height + _TABLE_GAP * em
        else:
            left += width + _TABLE_GAP * em
    return tuple(tables)


def _draw_photo_size(table_aspect: float | None, rng: Random) -> tuple[int, int]:
    """Photo px; a close-up is framed to suit the table's aspect (width over height)."""
    aspect = rng.choice(_ASPECTS)
    if table_aspect is not None:
        aspect = min((rng.choice(_ASPECTS) for _ in range(4)), key=lambda a: abs(math.log(a / table_aspect)))
    longest = rng.randint(448, 640)
    return (longest, round(longest / aspect)) if aspect > 1 else (round(longest * aspect), longest)


def _draw_offset(side: float, used: float, cut: float, rng: Random) -> float:
    """Where tables of length `used` start in a frame of length `side`.

    Its edge sometimes cuts off up to `cut` of them.
    """
    spare = max(0.0, side - used)
    if rng.random() < 0.1:
        overhang = rng.uniform(0, cut) * used
        return rng.choice((-overhang, spare + overhang))
    return spare * (rng.random() + rng.random()) / 2


# ---------------------------------------------------------------- face


def _paint_face(plan: Plan, ground: Colour, family: Family, rng: Random) -> Face:
    """The canvas with tables first and everything else around them."""
    canvas = round(plan.frame[0] * (1 + 2 * _MARGIN)), round(plan.frame[1] * (1 + 2 * _MARGIN))
    pack = _draw_pack(plan, canvas, rng)
    face = new_face(rng, canvas, pack, ground, family)
    for panel, rect in plan.tables:
        put(face, TABLE, panel, rect[0], rect[1], plan.em)
    if plan.tables:
        surround(face, plan.block, plan.em, rng)
    else:
        _fill_without_table(face, plan.em, rng)
    weights = _SHAPE_WEIGHTS if plan.tables else _FRONT_SHAPE_WEIGHTS
    face.shape = add_shape(face.canvas, pack, ground, rng.choices(SHAPES, weights)[0], rng)
    return face


def _fill_without_table(face: Face, em: float, rng: Random) -> None:
    """A front, a row of fronts, or a back whose first object resembles a table."""
    kind = rng.random()
    if kind < 0.65:
        add_front(face, face.pack, 0.0, rng)
    elif kind < 0.75:
        add_row(face, rng)
    else:
        fill(face, face.pack, em, rng, draw_lookalike(rng))


def _draw_pack(plan: Plan, canvas: tuple[int, int], rng: Random) -> Rect:
    """The pack's outline on the canvas."""
    if plan.tables or rng.random() < 0.3:
        return _draw_cut_pack(plan, canvas, rng)
    height = rng.uniform(0.45, 0.95) * plan.frame[1]
    width = min(height * rng.choice((0.35, 0.45, 0.55, 0.7, 0.8, 1.0, 1.6, 2.5)), plan.frame[0] * rng.uniform(0.6, 1.0))
    x = plan.block[0] + rng.uniform(-0.15, 0.15) * plan.frame[0] - width / 2
    y = plan.block[1] + rng.uniform(-0.05, 0.2) * plan.frame[1] - height / 2
    return x, y, min(x + width, float(canvas[0])), min(y + height, float(canvas[1]))


def _draw_cut_pack(plan: Plan, canvas: tuple[int, int], rng: Random) -> Rect:
    """An outline around the tables: each edge beyond the frame or somewhere inside it."""
    pad = 0.6 * plan.em
    edges = []
    for axis in (0, 1):
        side, near, far = plan.frame[axis], plan.block[axis] - pad, plan.block[axis + 2] + pad
        low, high = 0.0, float(canvas[axis])
        if rng.random() < 0.55:
            low = min(near, _MARGIN * side + rng.uniform(-0.1, 0.28) * side)
        if rng.random() < 0.55:
            high = max(far, canvas[axis] - _MARGIN * side - rng.uniform(-0.1, 0.28) * side)
        edges.append((max(0.0, low), min(float(canvas[axis]), high)))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]


# ---------------------------------------------------------------- view


def _aim(plan: Plan, rng: Random) -> Camera:
    """A camera that keeps every table visible; its pose is relaxed until it does."""
    pose = draw_pose(rng, None if plan.tables else _FRONT_ROLL)
    crumple = None
    if rng.random() < _CRUMPLED:
        crumple = Crumple(plan.size, rng.randint(6, 16), rng.uniform(0.3, 1.0), rng)
    for share in (1.0, 0.6, 0.3):
        camera = _camera(plan, pose.relaxed(share), crumple)
        shares = [visible_share(camera.bounds(rect), plan.size) for _, rect in plan.tables]
        if min(shares, default=1.0) >= _LEAST_VISIBLE:
            return camera
    return _camera(plan, Pose())


def _camera(plan: Plan, pose: Pose, crumple: Crumple | None = None) -> Camera:
    x, y = (plan.block[0] + plan.block[2]) / 2, (plan.block[1] + plan.block[3]) / 2
    scale = plan.size[0] / plan.frame[0], plan.size[1] / plan.frame[1]
    target = (x - _MARGIN * plan.frame[0]) * scale[0], (y - _MARGIN * plan.frame[1]) * scale[1]
    return Camera(pose, ((x, y), target), scale, plan.frame[0], max(plan.size), crumple)


def _visible_objects(face: Face, camera: Camera, size: tuple[int, int]) -> tuple[tuple[str, Box], ...]:
    """Every object of which most is in the frame, clipped to it."""
    objects = []
    for label, rect in face.objects:
        bounds = camera.bounds(rect)
        if visible_share(bounds, size) >= _LEAST_VISIBLE:
            objects.append((label, Box.from_xyxy_px(clip(bounds, size), *size)))
    return tuple(objects)
