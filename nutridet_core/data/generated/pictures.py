"""Pictures on packs: food, scenery and abstract shapes, made of nothing but random numbers.

Belongs here: one function per kind of picture, `(rng, size) -> RGBA image`. Does not belong here:
where a picture stands on a pack (`fronts`).
"""

from __future__ import annotations

import colorsys
import math
from random import Random

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .palettes import BLACK, WHITE, blend, draw_colour
from .panels import Colour

Size = tuple[int, int]

_LONGEST = 150  # px; pictures are drawn this large and scaled, as they are never sharp in a photo
_FOOD_HUES = (0.0, 0.03, 0.06, 0.08, 0.1, 0.13, 0.17, 0.25, 0.3, 0.93)  # red, brown, orange, yellow, green, pink


def draw_picture(rng: Random, size: Size) -> Image.Image:
    """A random picture of `size` px; transparent where the pack shows through."""
    scale = min(1.0, _LONGEST / max(size))
    small = max(8, round(size[0] * scale)), max(8, round(size[1] * scale))
    kind = rng.choices((fruit, heap, plate, scenery, texture), (0.3, 0.25, 0.2, 0.15, 0.1))[0]
    return kind(rng, small).resize(size, Image.Resampling.BILINEAR)


def _food_colour(rng: Random, value: tuple[float, float] = (0.4, 0.95)) -> Colour:
    hue = rng.choice(_FOOD_HUES) + rng.uniform(-0.02, 0.02)
    r, g, b = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.4, 0.95), rng.uniform(*value))
    return round(r * 255), round(g * 255), round(b * 255)


def _near(colour: Colour, rng: Random, spread: float) -> Colour:
    """`colour`, darker or lighter by up to `spread`."""
    return blend(colour, BLACK if rng.random() < 0.6 else WHITE, rng.uniform(0, spread))


def _empty(size: Size) -> Image.Image:
    return Image.new("RGBA", size, (0, 0, 0, 0))


def _ball(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radii: tuple[float, float], colour: Colour) -> None:
    """An ellipse that is lit from the upper left, by discs that get smaller and brighter."""
    dark, bright = blend(colour, BLACK, 0.45), blend(colour, WHITE, 0.45)
    for share in (0.0, 0.2, 0.4, 0.6, 0.8):
        shade = blend(dark, colour, share * 2) if share < 0.5 else blend(colour, bright, share * 2 - 1)
        x, y = centre[0] - 0.35 * share * radii[0], centre[1] - 0.35 * share * radii[1]
        rx, ry = radii[0] * (1 - share), radii[1] * (1 - share)
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=shade)


def fruit(rng: Random, size: Size) -> Image.Image:
    """A few large round things, some with a leaf, some cut open."""
    image = _empty(size)
    draw = ImageDraw.Draw(image)
    colour, side = _food_colour(rng, (0.6, 1.0)), min(size)
    for _ in range(rng.randint(1, 5)):
        radius = side * rng.uniform(0.2, 0.48)
        radii = radius, radius * rng.uniform(0.7, 1.1)
        centre = rng.uniform(radii[0], max(radii[0], size[0] - radii[0])), rng.uniform(0.4, 0.65) * size[1]
        _ball(draw, centre, radii, _near(colour, rng, 0.15))
        if rng.random() < 0.4:
            _add_slice(draw, centre, radius * 0.8, colour, rng)
        if rng.random() < 0.5:
            x, y = centre[0], centre[1] - radii[1]
            draw.ellipse((x, y - radius * 0.1, x + radius * 0.7, y + radius * 0.25), fill=_green(rng))
    return image.filter(ImageFilter.BoxBlur(0.6))


def _green(rng: Random) -> Colour:
    return rng.randint(20, 90), rng.randint(90, 160), rng.randint(20, 60)


def _add_slice(
    draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: Colour, rng: Random
) -> None:
    """The cut face of a fruit: pale with spokes."""
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=blend(colour, WHITE, 0.6))
    for spoke in range(8):
        start = spoke * 45 + rng.uniform(0, 8)
        inner = radius * 0.88
        draw.pieslice((x - inner, y - inner, x + inner, y + inner), start, start + 37, fill=_near(colour, rng, 0.2))


def heap(rng: Random, size: Size) -> Image.Image:
    """Many small pieces: nuts, cereals, pasta, prawns."""
    image = Image.new("RGBA", size, (*_food_colour(rng, (0.1, 0.4)), 255)) if rng.random() < 0.6 else _empty(size)
    draw = ImageDraw.Draw(image)
    colours = [_food_colour(rng) for _ in range(rng.randint(1, 3))]
    piece = min(size) * rng.uniform(0.06, 0.2)
    for _ in range(min(160, round(size[0] * size[1] / piece**2 * 0.6))):
        x, y = rng.gauss(0.5, 0.28) * size[0], rng.gauss(0.55, 0.25) * size[1]
        rx, ry = piece * rng.uniform(0.4, 1.0), piece * rng.uniform(0.3, 0.8)
        colour = _near(rng.choice(colours), rng, 0.4)
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=blend(colour, BLACK, 0.4))
        draw.ellipse((x - rx, y - ry, x + rx * 0.7, y + ry * 0.6), fill=colour)
    return image.filter(ImageFilter.BoxBlur(0.7))


def plate(rng: Random, size: Size) -> Image.Image:
    """Food on a plate or in a bowl."""
    image = _empty(size)
    draw = ImageDraw.Draw(image)
    rim = draw_colour(rng, (0.0, 0.25), (0.6, 1.0))
    width, height = size
    flat = rng.uniform(0.4, 1.0)
    ry = min(height / 2, width / 2 * flat)
    for share, shade in ((1.0, blend(rim, BLACK, 0.25)), (0.95, rim), (0.75, blend(rim, BLACK, 0.12))):
        draw.ellipse(
            (width / 2 * (1 - share), height / 2 - ry * share, width / 2 * (1 + share), height / 2 + ry * share),
            fill=shade,
        )
    food = heap(rng, (max(8, round(width * 0.66)), max(8, round(ry * 1.2))))
    mask = Image.new("L", food.size)
    ImageDraw.Draw(mask).ellipse((0, 0, *food.size), fill=255)
    corner = (width - food.width) // 2, round(height / 2 - food.height * 0.55)
    image.paste(food, corner, ImageChops.multiply(mask, food.getchannel("A")))
    return image


def scenery(rng: Random, size: Size) -> Image.Image:
    """A sky and rows of hills or waves."""
    width, height = size
    image = Image.new("RGBA", size, (*draw_colour(rng, (0.05, 0.6), (0.6, 1.0)), 255))
    draw = ImageDraw.Draw(image)
    colour = draw_colour(rng, (0.3, 0.8), (0.3, 0.9))
    for row in range(rng.randint(2, 5)):
        level = height * (0.35 + 0.17 * row)
        swing, period, phase = rng.uniform(0.02, 0.15) * height, rng.uniform(0.5, 2) * width, rng.uniform(0, 7)
        line = [(x, level + swing * math.sin(phase + x / period * 2 * math.pi)) for x in range(0, width + 9, 8)]
        draw.polygon([*line, (width + 9, height), (0, height)], fill=_near(colour, rng, 0.45))
    if rng.random() < 0.5:
        food = fruit(rng, (max(8, width * 2 // 3), max(8, height * 2 // 3)))
        image.alpha_composite(food, (width // 6, height // 3))
    return image


def texture(rng: Random, size: Size) -> Image.Image:
    """A soft photo of something: random colours at a few scales."""
    generator = np.random.default_rng(rng.getrandbits(63))
    base = np.array(_food_colour(rng), dtype=np.float64)
    total = np.zeros((size[1], size[0], 3))
    for cells, strength in ((4, 45), (12, 35), (36, 22)):
        coarse = generator.normal(0, 1, (cells, cells))[..., None] + generator.normal(0, 0.25, (cells, cells, 3))
        field = Image.fromarray((coarse * strength + 128).clip(0, 255).astype(np.uint8))
        total += np.asarray(field.resize(size, Image.Resampling.BICUBIC), dtype=np.float64) - 128
    return Image.fromarray((base + total).clip(0, 255).astype(np.uint8)).convert("RGBA")
