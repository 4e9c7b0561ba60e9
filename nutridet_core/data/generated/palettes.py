"""Colours of packs and print.

Belongs here: colour choice and legibility. Does not belong here: where colours are applied.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from random import Random

from .fonts import DEJAVU, Family, Font
from .panels import Colour

BLACK: Colour = (15, 15, 15)
WHITE: Colour = (250, 250, 248)


@dataclass(frozen=True)
class Ink:
    """The colours and the typeface of a printed object. `paper` is None when it stands straight on the `ground`."""

    ground: Colour
    text: Colour
    paper: Colour | None
    accent: Colour
    family: Family = DEJAVU

    @property
    def regular(self) -> Font:
        """The face of most print."""
        return self.family.regular

    @property
    def bold(self) -> Font:
        """The face of headings."""
        return self.family.bold


def draw_colour(rng: Random, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """A colour of any hue, saturation and value within the given ranges."""
    r, g, b = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return round(r * 255), round(g * 255), round(b * 255)


def draw_pack_colour(rng: Random) -> Colour:
    """White-ish, kraft, pastel, strong or dark, in about the shares of a supermarket shelf."""
    kind = rng.random()
    if kind < 0.28:
        return draw_colour(rng, (0.0, 0.06), (0.85, 1.0))
    if kind < 0.36:
        return rng.randint(185, 225), rng.randint(155, 180), rng.randint(110, 140)
    if kind < 0.56:
        return draw_colour(rng, (0.1, 0.4), (0.75, 1.0))
    if kind < 0.85:
        return draw_colour(rng, (0.5, 0.9), (0.4, 0.85))
    return draw_colour(rng, (0.0, 0.6), (0.06, 0.3))


def luminance(colour: Colour) -> float:
    """Rec. 601 luma, 0..255."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def contrasting(colour: Colour) -> Colour:
    """Black or white, whichever is legible on `colour`."""
    return WHITE if luminance(colour) < 140 else BLACK


def blend(a: Colour, b: Colour, share: float) -> Colour:
    """`a` moved towards `b`; a share of 1 is `b`."""
    mixed = [round(x + (y - x) * share) for x, y in zip(a, b, strict=True)]
    return mixed[0], mixed[1], mixed[2]


def draw_ink(rng: Random, ground: Colour, boxed: float, family: Family = DEJAVU) -> Ink:
    """Legible print on `ground`; with probability `boxed` on paper of its own."""
    paper = _draw_paper(rng) if rng.random() < boxed else None
    accent = draw_colour(rng, (0.5, 1.0), (0.3, 0.95))
    if luminance(paper or ground) < 125:
        text = draw_colour(rng, (0.0, 0.1), (0.9, 1.0))
    elif rng.random() < 0.3:
        text = draw_colour(rng, (0.4, 1.0), (0.15, 0.4))
    else:
        text = draw_colour(rng, (0.0, 0.2), (0.0, 0.2))
    return Ink(ground, text, paper, accent, family)


def _draw_paper(rng: Random) -> Colour:
    if rng.random() < 0.85:
        return draw_colour(rng, (0.0, 0.12), (0.9, 1.0))
    return draw_colour(rng, (0.2, 0.9), (0.05, 0.35))
