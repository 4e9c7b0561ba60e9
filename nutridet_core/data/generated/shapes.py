"""Shapes of packs: what rises above the rectangle of print, and how the pack is shaded.

Belongs here: gables, necks, lids, crimps, cylinders and foil. Shapes only add to the print's
rectangle, so that no table is cut. Does not belong here: print (`faces`, `fronts`).
"""

from __future__ import annotations

import math
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from .camera import Points, Rect, outline
from .palettes import BLACK, WHITE, blend, draw_colour, draw_pack_colour
from .panels import Colour

SHAPES = ("box", "carton", "bottle", "jar", "bag")


def add_shape(canvas: Image.Image, pack: Rect, ground: Colour, kind: str, rng: Random) -> Points:
    """Paint what belongs to a pack of `kind` around its print and return its outline, face px."""
    makers = {"carton": _carton, "bottle": _bottle, "jar": _jar, "bag": _bag}
    if kind in ("bottle", "jar"):
        _shade(canvas, pack, _cylinder(rng))
    elif kind == "bag":
        _shade(canvas, pack, _foil(rng))
    return makers[kind](canvas, pack, ground, rng) if kind in makers else outline(pack)


def _polygon(draw: ImageDraw.ImageDraw, points: Points, colour: Colour) -> None:
    draw.polygon([(float(x), float(y)) for x, y in points], fill=colour)


def _crowned(pack: Rect, crown: list[tuple[float, float]]) -> Points:
    """The pack's outline with `crown`, from left to right, instead of its upper edge."""
    x0, _, x1, y1 = pack
    return np.array([*crown, (x1, y1), (x0, y1)], dtype=np.float64)


def _carton(canvas: Image.Image, pack: Rect, ground: Colour, rng: Random) -> Points:
    """A gable top with a ridge and often a screw cap."""
    x0, y0, x1, _ = pack
    width, height = x1 - x0, (x1 - x0) * rng.uniform(0.15, 0.4)
    lean, ridge = width * rng.uniform(0.0, 0.15), width * rng.uniform(0.06, 0.12)
    crown = [(x0, y0), (x0 + lean, y0 - height), (x0 + lean, y0 - height - ridge),
             (x1 - lean, y0 - height - ridge), (x1 - lean, y0 - height), (x1, y0)]  # fmt: skip
    draw = ImageDraw.Draw(canvas)
    colour = ground if rng.random() < 0.6 else draw_pack_colour(rng)
    _polygon(draw, np.array(crown), blend(colour, WHITE, rng.uniform(0, 0.4)))
    draw.line((x0 + lean, y0 - height, x1 - lean, y0 - height), fill=blend(colour, BLACK, 0.3), width=3)
    if rng.random() < 0.75:
        x, y, r = x0 + width * rng.uniform(0.35, 0.65), y0 - height * 0.5, width * rng.uniform(0.1, 0.16)
        cap = WHITE if rng.random() < 0.5 else draw_colour(rng, (0.6, 1), (0.5, 0.9))
        draw.ellipse((x - r, y - r * 0.8, x + r, y + r), fill=blend(cap, BLACK, 0.35))
        draw.ellipse((x - r, y - r, x + r, y + r * 0.7), fill=cap)
    return _crowned(pack, crown)


def _bottle(canvas: Image.Image, pack: Rect, ground: Colour, rng: Random) -> Points:
    """Shoulders, a neck and a cap."""
    del ground
    x0, y0, x1, _ = pack
    width, middle = x1 - x0, (x0 + x1) / 2
    neck, shoulder, tall = width * rng.uniform(0.14, 0.22), width * rng.uniform(0.3, 0.8), width * rng.uniform(0.2, 0.6)
    side = []
    for t in np.linspace(0, 1, 9):
        half = neck + (width / 2 - neck) * (1 + math.cos(t * math.pi)) / 2
        side.append((half, y0 - t * shoulder))
    side.append((neck, y0 - shoulder - tall))
    crown = [(middle - half, y) for half, y in side] + [(middle + half, y) for half, y in reversed(side)]
    draw = ImageDraw.Draw(canvas)
    glass = draw_colour(rng, (0.2, 0.9), (0.1, 0.8))
    _polygon(draw, np.array(crown), glass)
    draw.line(
        [(middle - half * 0.6, y) for half, y in side], fill=blend(glass, WHITE, 0.5), width=round(width * 0.04) + 1
    )
    cap = draw_colour(rng, (0.0, 0.9), (0.2, 1.0))
    draw.rectangle((middle - neck, y0 - shoulder - tall, middle + neck, y0 - shoulder - tall * 0.5), fill=cap)
    return _crowned(pack, crown)


def _jar(canvas: Image.Image, pack: Rect, ground: Colour, rng: Random) -> Points:
    """A ribbed lid on a short neck."""
    x0, y0, x1, _ = pack
    width = x1 - x0
    inset, neck, lid = width * rng.uniform(-0.02, 0.06), width * rng.uniform(0.02, 0.12), width * rng.uniform(0.1, 0.25)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((x0, y0 - neck, x1, y0), fill=blend(ground, draw_colour(rng, (0, 0.8), (0.1, 0.9)), 0.7))
    colour = draw_colour(rng, (0.0, 0.9), (0.2, 1.0))
    draw.rectangle((x0 + inset, y0 - neck - lid, x1 - inset, y0 - neck), fill=colour)
    for x in np.arange(x0 + inset, x1 - inset, max(5.0, width * 0.03)):
        draw.line((x, y0 - neck - lid * 0.85, x, y0 - neck), fill=blend(colour, BLACK, 0.25), width=2)
    top = y0 - neck - lid
    crown = [(x0, y0 - neck), (x0 + inset, y0 - neck), (x0 + inset, top), (x1 - inset, top), (x1 - inset, y0 - neck),
             (x1, y0 - neck)]  # fmt: skip
    return _crowned(pack, crown)


def _bag(canvas: Image.Image, pack: Rect, ground: Colour, rng: Random) -> Points:
    """Bulging sides and crimped ends."""
    x0, y0, x1, y1 = pack
    bulge, crimp = (x1 - x0) * rng.uniform(0.0, 0.08), (y1 - y0) * rng.uniform(0.03, 0.09)
    draw = ImageDraw.Draw(canvas)
    for top, bottom in ((y0 - crimp, y0), (y1, y1 + crimp)):
        draw.rectangle((x0, top, x1, bottom), fill=blend(ground, WHITE, 0.25))
        for y in np.arange(top, bottom, 5):
            draw.line((x0, y, x1, y), fill=blend(ground, BLACK, 0.2), width=2)
    ts = np.linspace(0, 1, 12)
    phase = rng.uniform(0, 3)
    out = bulge * (np.sin(ts * np.pi) + 0.25 * np.sin(phase + ts * 17) ** 2)
    ys = y0 + ts * (y1 - y0)
    right, left = np.stack([x1 + out, ys], axis=1), np.stack([x0 - out, ys], axis=1)[::-1]
    ends = np.array([(x0, y0 - crimp), (x1, y0 - crimp)]), np.array([(x1, y1 + crimp), (x0, y1 + crimp)])
    return np.concatenate([ends[0], right, ends[1], left])


# ---------------------------------------------------------------- shading


def _cylinder(rng: Random) -> NDArray[np.float64]:
    """Brightness across a cylinder with a streak of light."""
    x = np.linspace(-1, 1, 48)
    body = 0.45 + 0.65 * np.sqrt(1 - 0.9 * x**2)
    streak = 0.25 * np.exp(-(((x - rng.uniform(-0.7, 0.7)) / 0.12) ** 2))
    return np.asarray((body - 0.1 + streak).clip(0, 1)[None, :], dtype=np.float64)


def _foil(rng: Random) -> NDArray[np.float64]:
    """Brightness over crumpled foil: ridges of a coarse random surface, lit from one side."""
    generator = np.random.default_rng(rng.getrandbits(63))
    cells = rng.randint(7, 14)
    surface = generator.normal(0, 1, (cells, cells))
    slope = np.abs(surface[:, 1:] - surface[:, :-1])
    return np.asarray((1.06 - rng.uniform(0.04, 0.16) * slope).clip(0.5, 1), dtype=np.float64)


def _shade(canvas: Image.Image, pack: Rect, field: NDArray[np.float64]) -> None:
    box = tuple(round(v) for v in pack)
    region = canvas.crop((box[0], box[1], box[2], box[3]))
    layer = Image.fromarray((field * 255).astype(np.uint8)).resize(region.size, Image.Resampling.BICUBIC)
    canvas.paste(ImageChops.multiply(region, Image.merge("RGB", (layer, layer, layer))), (box[0], box[1]))
