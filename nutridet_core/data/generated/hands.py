"""A hand that holds the pack.

Belongs here: the arm behind the pack and the fingers in front of it. Does not belong here: the rest
of the background (`backgrounds`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw, ImageFilter

from .camera import Rect
from .palettes import BLACK, WHITE, blend
from .panels import Colour

_SKINS: tuple[Colour, ...] = ((224, 172, 140), (214, 150, 118), (198, 134, 98), (141, 85, 60), (240, 195, 165))
_COARSE = 3  # hands are soft: they are drawn this much smaller
_LEAST_REACH = 0.02  # of the photo's width; shorter fingers are not seen

Point = tuple[float, float]


@dataclass(frozen=True)
class Grip:
    """Where a hand holds the pack.

    Args:
        left: whether it comes from the left.
        edge: x of the pack's edge that it grips, photo px.
        reach: how far its fingers come over the pack, photo px.
        top: y of the first finger.
        thick: thickness of a finger.
    """

    left: bool
    edge: float
    reach: float
    top: float
    thick: float
    skin: Colour

    def inwards(self, distance: float) -> float:
        """X at `distance` px from the edge towards the middle of the pack."""
        return self.edge + distance if self.left else self.edge - distance


def draw_grip(pack: Rect, tables: list[Rect], size: tuple[int, int], rng: Random) -> Grip | None:
    """A hand at one side of the pack whose fingers stay off the tables; None when there is no room."""
    left = rng.random() < 0.7
    edge = max(pack[0], 0.0) if left else min(pack[2], size[0])
    free = min((t[0] - edge if left else edge - t[2] for t in tables), default=float(size[0]))
    reach = min(rng.uniform(0.08, 0.3) * (pack[2] - pack[0]), free)
    if reach < _LEAST_REACH * size[0]:
        return None
    thick = rng.uniform(0.05, 0.09) * max(size)
    top = pack[1] + rng.uniform(0.3, 0.7) * (pack[3] - pack[1])
    return Grip(left, edge, reach, top, thick, rng.choice(_SKINS))


def add_arm(background: Image.Image, grip: Grip, rng: Random) -> None:
    """The palm and the arm, which go behind the pack."""
    width, height = background.size
    outside = -0.1 * width if grip.left else 1.1 * width
    wrist = (outside, grip.top + rng.uniform(0.1, 0.6) * height)
    palm = (grip.inwards(grip.thick), grip.top + grip.thick * rng.uniform(0.5, 2.0))
    _limb(background, [wrist, palm], grip.thick * rng.uniform(2.5, 4.0), grip.skin)


def add_fingers(image: Image.Image, grip: Grip, rng: Random) -> None:
    """A thumb or up to four fingers, which come in front of the pack."""
    if rng.random() < 0.45:
        start = (grip.inwards(-grip.thick * 1.5), grip.top + grip.thick * rng.uniform(0.5, 2.5))
        tip = (grip.inwards(grip.reach - grip.thick * 0.65), grip.top + rng.uniform(-1, 1) * grip.thick)
        _limb(image, [start, tip], grip.thick * 1.15, grip.skin)
        return
    for finger in range(rng.randint(2, 4)):
        y = grip.top + finger * grip.thick * 0.95
        reach = grip.reach * rng.uniform(0.6, 1.0) - grip.thick * 0.55
        slope = rng.uniform(-0.2, 0.2) * grip.thick
        points = [(grip.inwards(-grip.thick), y), (grip.inwards(reach), y + slope)]
        _limb(image, points, grip.thick, blend(grip.skin, BLACK, rng.uniform(0, 0.12)))


def _limb(image: Image.Image, points: list[Point], thick: float, skin: Colour) -> None:
    """A thick line with round ends, darker towards its rims."""
    small = image.width // _COARSE + 1, image.height // _COARSE + 1
    layer, mask = Image.new("RGB", small, blend(skin, BLACK, 0.5)), Image.new("L", small)
    coarse = [(x / _COARSE, y / _COARSE) for x, y in points]
    _stroke(ImageDraw.Draw(mask), coarse, thick / _COARSE, 255)
    draw = ImageDraw.Draw(layer)
    for share, light in ((1.0, -0.3), (0.8, -0.12), (0.6, 0.0), (0.3, 0.12)):
        colour = blend(skin, WHITE, light) if light > 0 else blend(skin, BLACK, -light)
        _stroke(draw, [(x, y - thick / _COARSE * 0.1) for x, y in coarse], thick / _COARSE * share, colour)
    layer = layer.filter(ImageFilter.BoxBlur(max(1.0, thick / _COARSE * 0.12)))
    scaled = Image.Resampling.BILINEAR
    grown = small[0] * _COARSE, small[1] * _COARSE
    image.paste(layer.resize(grown, scaled), (0, 0), mask.filter(ImageFilter.BoxBlur(0.7)).resize(grown, scaled))


def _stroke(draw: ImageDraw.ImageDraw, points: list[Point], thick: float, fill: Colour | int) -> None:
    (x0, y0), (x1, y1) = points
    r = thick / 2
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    across = (y1 - y0) / length * r, -(x1 - x0) / length * r
    draw.polygon([(x0 + across[0], y0 + across[1]), (x1 + across[0], y1 + across[1]),
                  (x1 - across[0], y1 - across[1]), (x0 - across[0], y0 - across[1])], fill=fill)  # fmt: skip
    for x, y in points:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
