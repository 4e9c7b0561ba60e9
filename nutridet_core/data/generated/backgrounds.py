"""What lies behind the pack.

Belongs here: counters, wood, stone, shelves, rooms, hands. Does not belong here: packs with
readable print (`faces`).
"""

from __future__ import annotations

from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from .palettes import draw_colour, draw_pack_colour
from .panels import Colour

Size = tuple[int, int]
_COARSE = 6  # out-of-focus backgrounds are drawn this much smaller


def draw_background(rng: Random, size: Size) -> Image.Image:
    """A random background."""
    kinds = (plain, wood, stone, shelf, room)
    background = rng.choices(kinds, (0.28, 0.2, 0.15, 0.17, 0.2))[0](rng, size)
    if rng.random() < 0.18:
        _add_hand(background, rng)
    return background


def plain(rng: Random, size: Size) -> Image.Image:
    """A wall or a sheet, often white, grey or black."""
    colour = draw_colour(rng, (0.0, 0.2), rng.choice(((0.75, 1.0), (0.3, 0.8), (0.0, 0.15))))
    return Image.new("RGB", size, colour)


def _from_grey(grey: NDArray[np.float64], low: Colour, high: Colour, size: Size) -> Image.Image:
    mix = grey.clip(0, 1)[..., None]
    pixels = np.array(low) * (1 - mix) + np.array(high) * mix
    return Image.fromarray(pixels.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)


def wood(rng: Random, size: Size) -> Image.Image:
    """Grain along one axis, with boards."""
    generator = np.random.default_rng(rng.getrandbits(63))
    grain = generator.normal(0.5, 0.22, (size[1] // 2, 6))
    coarse = Image.fromarray((grain.clip(0, 1) * 255).astype(np.uint8))
    fine = np.asarray(coarse.resize((120, size[1] // 2))) / 255
    board = size[1] // 2 // rng.randint(2, 6) + 1
    fine = fine - 0.35 * (np.arange(size[1] // 2) % board < 2)[:, None]
    if rng.random() < 0.5:
        fine = fine.T
    tone = rng.uniform(0.35, 1.0)
    low, high = ((90, 55, 30), (200, 150, 100)) if rng.random() < 0.7 else ((90, 88, 85), (190, 185, 178))
    image = _from_grey(fine, low, high, size)
    return image.point(lambda value: value * tone)


def stone(rng: Random, size: Size) -> Image.Image:
    """Speckled granite."""
    generator = np.random.default_rng(rng.getrandbits(63))
    base = rng.uniform(0.25, 0.75)
    speckle = generator.normal(base, 0.16, (size[1] // 2, size[0] // 2))
    tint = rng.randint(-15, 15)
    return _from_grey(speckle, (40, 40, 42), (225 + tint, 222, 220 - tint), size)


def shelf(rng: Random, size: Size) -> Image.Image:
    """Rows of out-of-focus packs."""
    small = max(8, size[0] // 2), max(8, size[1] // 2)
    image = Image.new("RGB", small, (45, 40, 38))
    draw = ImageDraw.Draw(image)
    row = small[1] // rng.randint(2, 3)
    for top in range(0, small[1], row):
        x = -rng.randint(0, 30)
        while x < small[0]:
            width = rng.randint(25, 70)
            _add_pack(draw, rng, (x, top + rng.randint(4, row // 3), x + width - 2, top + row - 12))
            x += width
        draw.rectangle((0, top + row - 11, small[0], top + row), fill=draw_colour(rng, (0, 0.1), (0.6, 0.95)))
    blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.8, 4)))
    return blurred.resize(size, Image.Resampling.BILINEAR)


def _add_pack(draw: ImageDraw.ImageDraw, rng: Random, rect: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = rect
    if y1 - y0 < 8 or x1 - x0 < 8:
        return
    draw.rectangle(rect, fill=draw_pack_colour(rng))
    for _ in range(rng.randint(1, 4)):
        y = rng.randint(y0, y1 - 4)
        inset = rng.randint(2, (x1 - x0) // 3)
        draw.rectangle((x0 + inset, y, x1 - inset, y + rng.randint(2, 12)), fill=draw_pack_colour(rng))


def room(rng: Random, size: Size) -> Image.Image:
    """A blurred room: large soft shapes."""
    small = max(8, size[0] // _COARSE), max(8, size[1] // _COARSE)
    image = Image.new("RGB", small, draw_colour(rng, (0.0, 0.4), (0.15, 0.9)))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(4, 14)):
        x, y = rng.randint(-20, small[0]), rng.randint(-20, small[1])
        rect = (x, y, x + rng.randint(6, small[0]), y + rng.randint(4, small[1] // 2))
        shape = draw.ellipse if rng.random() < 0.3 else draw.rectangle
        shape(rect, fill=draw_colour(rng, (0.0, 0.6), (0.05, 0.95)))
    blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 3.0)))
    return blurred.resize(size, Image.Resampling.BILINEAR)


def _add_hand(image: Image.Image, rng: Random) -> None:
    """Fingers that reach in from one side, behind the pack."""
    draw = ImageDraw.Draw(image)
    width, height = image.size
    skin = rng.choice(((224, 172, 140), (198, 134, 98), (141, 85, 60), (240, 195, 165)))
    left = rng.random() < 0.5
    thick, top = height // rng.randint(9, 14), rng.uniform(0.2, 0.6) * height
    for finger in range(4):
        reach = width * rng.uniform(0.25, 0.4)
        y = top + finger * thick * 0.95
        x0, x1 = (-thick, reach) if left else (width - reach, width + thick)
        shade = tuple(int(c * rng.uniform(0.85, 1.0)) for c in skin)
        draw.rounded_rectangle((x0, y, x1, y + thick), thick / 2, fill=(shade[0], shade[1], shade[2]))
