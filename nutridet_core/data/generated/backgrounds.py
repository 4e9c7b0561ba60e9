"""What lies behind the pack.

Belongs here: counters, wood, stone, shelves, rooms. Does not belong here: packs with readable
print (`faces`) and hands (`hands`).
"""

from __future__ import annotations

import math
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
    return rng.choices(kinds, (0.25, 0.17, 0.15, 0.26, 0.17))[0](rng, size)


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
    """Rows of packs, each kind several times in a row, above price rails; seen a little askew."""
    small = max(8, size[0] // 2), max(8, size[1] // 2)
    image = Image.new("RGB", small, draw_colour(rng, (0.0, 0.15), rng.choice(((0.05, 0.3), (0.5, 0.95)))))
    draw = ImageDraw.Draw(image)
    row = max(24, small[1] // rng.randint(2, 5))
    rail = draw_colour(rng, (0, 0.1), rng.choice(((0.6, 0.95), (0.1, 0.4))))
    thick = max(4, row // rng.randint(6, 10))
    for top in range(-rng.randint(0, row), small[1], row):
        x = -rng.randint(0, 30)
        while x < small[0]:
            x = _add_facings(image, rng, (x, top + row // 6, top + row - thick))
        draw.rectangle((0, top + row - thick, small[0], top + row), fill=rail)
        _add_tags(draw, rng, (top + row - thick, top + row), small[0])
    if rng.random() < 0.5:
        image = _askew(image, rng.uniform(-15, 15))
    blurred = image.filter(ImageFilter.BoxBlur(rng.uniform(0.3, 3.5)))
    return blurred.resize(size, Image.Resampling.BILINEAR)


def _add_facings(image: Image.Image, rng: Random, place: tuple[int, int, int]) -> int:
    """One kind of pack, a few times from x on between top and bottom; returns where the next one starts."""
    x, top, bottom = place
    height = round((bottom - top) * rng.uniform(0.7, 1.0))
    width = max(8, round(height * rng.uniform(0.3, 0.8)))
    pack = Image.new("RGB", (width, max(8, height)), draw_pack_colour(rng))
    draw = ImageDraw.Draw(pack)
    for _ in range(rng.randint(2, 5)):
        y, inset = rng.uniform(0, 0.9) * height, rng.uniform(0, 0.35) * width
        shape = draw.ellipse if rng.random() < 0.35 else draw.rectangle
        shape((inset, y, width - inset, y + rng.uniform(0.04, 0.35) * height), fill=draw_pack_colour(rng))
    draw.line((width - 1, 0, width - 1, height), fill=(30, 30, 30))
    for _ in range(rng.randint(1, 4)):
        image.paste(pack, (x, bottom - pack.height))
        x += width + rng.randint(0, 2)
    return x


def _add_tags(draw: ImageDraw.ImageDraw, rng: Random, span: tuple[int, int], width: int) -> None:
    """Price tags along a rail."""
    x, y0, y1 = rng.randint(0, 30), span[0], span[1]
    field = rng.choice(((250, 250, 245), (250, 250, 245), (255, 225, 60)))
    while x < width:
        across = rng.randint(14, 26)
        draw.rectangle((x, y0 + 1, x + across, y1 - 1), fill=field)
        draw.rectangle((x + across // 3, y0 + 2, x + across - 3, (y0 + y1) // 2), fill=(50, 45, 45))
        x += across + rng.randint(10, 60)


def _askew(image: Image.Image, degrees: float) -> Image.Image:
    """The image turned and enlarged so that no corner is empty."""
    turned = image.rotate(degrees, Image.Resampling.BILINEAR)
    share = 1 / (1 + 2.2 * abs(math.sin(math.radians(degrees))))
    x, y = image.width * (1 - share) / 2, image.height * (1 - share) / 2
    return turned.crop((round(x), round(y), round(image.width - x), round(image.height - y))).resize(image.size)


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
    blurred = image.filter(ImageFilter.BoxBlur(rng.uniform(0.6, 3.0)))
    return blurred.resize(size, Image.Resampling.BILINEAR)
