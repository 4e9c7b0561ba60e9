"""The pack in its surroundings.

Belongs here: what is behind the pack, its shadow, and the hand that holds it. Does not belong here:
the pack itself (`faces`) and light on the whole photo (`effects`).
"""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw, ImageFilter

from .backgrounds import draw_background
from .camera import Camera, Rect, visible_share
from .faces import Face
from .hands import add_arm, add_fingers, draw_grip
from .objects import TABLE

_LEAST_BEHIND = 0.12  # share of the photo that is not pack; less leaves no room for a hand


def compose(face: Face, camera: Camera, size: tuple[int, int], held: float, rng: Random) -> Image.Image:
    """The face in front of a background, with a soft shadow; with probability `held` in a hand."""
    background = draw_background(rng, size)
    edge = camera.to_photo(face.shape)
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in edge], fill=255)
    (x0, y0), (x1, y1) = edge.min(axis=0), edge.max(axis=0)
    pack = (float(x0), float(y0), float(x1), float(y1))
    grip = None
    if rng.random() < held and _covered(pack, size) < 1 - _LEAST_BEHIND:
        tables = [camera.bounds(rect) for label, rect in face.objects if label == TABLE]
        grip = draw_grip(pack, tables, size, rng)
    if grip:
        add_arm(background, grip, rng)
    if rng.random() < 0.6:
        background.paste((0, 0, 0), (rng.randint(-8, 8), rng.randint(0, 10)), _shadow(mask, rng))
    background.paste(camera.take(face.canvas, size), (0, 0), mask.filter(ImageFilter.BoxBlur(0.7)))
    if grip:
        add_fingers(background, grip, rng)
    return background


def _covered(pack: Rect, size: tuple[int, int]) -> float:
    """Share of the photo inside the pack's bounds."""
    inside = visible_share(pack, size) * (pack[2] - pack[0]) * (pack[3] - pack[1])
    return inside / (size[0] * size[1])


def _shadow(mask: Image.Image, rng: Random) -> Image.Image:
    small = mask.resize((mask.width // 6, mask.height // 6))
    small = small.filter(ImageFilter.GaussianBlur(rng.uniform(1, 3)))
    strength = rng.uniform(0.3, 0.7)
    return small.point(lambda value: value * strength).resize(mask.size, Image.Resampling.BILINEAR)
