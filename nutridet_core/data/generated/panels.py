"""Panels: flat display lists measured in em, and how they are painted onto a canvas.

Belongs here: marks (text, bars, ovals), the `Panel` that holds them, and painting. Does not
belong here: what a panel says (`tables`, `objects`) or where it stands (`faces`, `pages`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .fonts import REGULAR, Font

Colour = tuple[int, int, int]

_SPACES = re.compile("( +)")
_ALIGNMENT = {"l": 0.0, "m": 0.5, "r": 1.0}
_LEAST_SPACE = 0.15  # em between two words
_REFERENCE_PX = 64
_MOST_CACHED_PX = 40  # larger words are few and rarely the same
_SIZE_STEP = 1.05  # sizes of words snap to this ratio, so that they can be reused between drawings
_LETTER_STEP = 2  # letters snap to this power of it


@dataclass(frozen=True, slots=True)
class Text:
    """One run of text. `y` is its vertical middle; `align` is "l", "m" or "r" of `x`."""

    x: float
    y: float
    string: str
    colour: Colour
    size: float = 1.0
    face: Font = REGULAR
    align: str = "l"


@dataclass(frozen=True, slots=True)
class Bar:
    """A filled rectangle; `radius` rounds its corners."""

    x0: float
    y0: float
    x1: float
    y1: float
    colour: Colour
    radius: float = 0.0


@dataclass(frozen=True, slots=True)
class Oval:
    """A filled ellipse inscribed in its rectangle."""

    x0: float
    y0: float
    x1: float
    y1: float
    colour: Colour


Mark = Text | Bar | Oval


@dataclass(slots=True)
class Panel:
    """A printed object `width` x `height` em; marks are painted in order."""

    width: float
    height: float
    marks: list[Mark] = field(default_factory=list)

    def add(self, *marks: Mark) -> None:
        self.marks.extend(marks)

    def frame(self, colour: Colour, thickness: float) -> None:
        """Rule the panel's outline, inside its extent."""
        w, h, t = self.width, self.height, thickness
        self.add(Bar(0, 0, w, t, colour), Bar(0, h - t, w, h, colour))
        self.add(Bar(0, 0, t, h, colour), Bar(w - t, 0, w, h, colour))


@lru_cache(maxsize=1024)
def _font(face: Font, px: float) -> ImageFont.FreeTypeFont:
    # BASIC layout: the other engine depends on how Pillow was built, and drawings must not.
    return ImageFont.truetype(face.path, px, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=8192)
def text_width(string: str, face: Font = REGULAR) -> float:
    """Width of `string` in em."""
    if " " in string and not string.isascii():  # word by word, as they may need fonts of different scripts
        return sum(text_width(part, face) for part in _SPACES.split(string) if part)
    return _font(_upright(face, string), _REFERENCE_PX).getlength(string) / _REFERENCE_PX * face.stretch


def _upright(face: Font, word: str) -> Font:
    """The font that renders `word`, not condensed yet."""
    font = face.for_script(word)
    return font if font.stretch == 1 else replace(font, stretch=1.0)


def wrap(words: list[str], width: float, face: Font = REGULAR) -> Iterator[str]:
    """Lines of `words`, each at most `width` em wide (a longer word stands alone)."""
    line: list[str] = []
    used, space = 0.0, text_width(" ", face)
    for word in words:
        needed = text_width(word, face)
        if line and used + space + needed > width:
            yield " ".join(line)
            line, used = [], 0.0
        used += needed + (space if line else 0.0)
        line.append(word)
    if line:
        yield " ".join(line)


@lru_cache(maxsize=32768)
def _glyph(letter: str, font: Font, step: int) -> NDArray[np.uint8]:
    """Coverage of one letter between the font's ascender and descender, as wide as its advance."""
    sized = _font(font, _SIZE_STEP ** (step * _LETTER_STEP))
    ascent, descent = sized.getmetrics()
    mask = Image.new("L", (max(1, round(sized.getlength(letter))), ascent + descent))
    ImageDraw.Draw(mask).text((0, ascent), letter, fill=255, font=sized, anchor="ls")
    return np.asarray(mask)


@lru_cache(maxsize=32768)
def _word_mask(word: str, face: Font, size_index: int) -> tuple[Image.Image, int]:
    """Coverage of one small word, put together from letters, and the offset of its top from the middle."""
    font, step = _upright(face, word), math.ceil(size_index / _LETTER_STEP)
    mask = Image.fromarray(np.concatenate([_glyph(letter, font, step) for letter in word], axis=1))
    # Letters are too large by up to one step, hinting widens them, and no font is condensed: all that ends here.
    width = max(1, round(text_width(word, face) * _SIZE_STEP**size_index))
    height = max(1, round(mask.height * _SIZE_STEP ** (size_index - step * _LETTER_STEP)))
    if (width, height) != mask.size:
        mask = mask.resize((width, height), Image.Resampling.BOX)
    return mask, -round(height / 2)


def _large_word_mask(word: str, face: Font, size_index: int) -> tuple[Image.Image, int]:
    """Like `_word_mask`, for large words: kerned, and not kept."""
    font = _font(_upright(face, word), _SIZE_STEP**size_index)
    _, y0, x1, y1 = (round(v) for v in font.getbbox(word, anchor="lm"))
    mask = Image.new("L", (max(1, x1), max(1, y1 - y0)))
    ImageDraw.Draw(mask).text((0, -y0), word, fill=255, font=font, anchor="lm")
    if face.stretch != 1:
        mask = mask.resize((max(1, round(mask.width * face.stretch)), mask.height), Image.Resampling.BOX)
    return mask, y0


def _paint_text(canvas: Image.Image, text: Text, left: float, top: float, em: float) -> None:
    px = max(3.0, text.size * em)
    index = math.floor(math.log(px, _SIZE_STEP) + 0.1)  # rather too small than too wide
    mask_of = _word_mask if px < _MOST_CACHED_PX else _large_word_mask
    words = [mask_of(word, text.face, index) for word in text.string.split()]
    if not words:
        return
    # The spaces give way so that a line keeps its nominal width.
    inked = sum(mask.width for mask, _ in words)
    spare = text_width(text.string, text.face) * px - inked
    space = max(_LEAST_SPACE * text.face.stretch * px, spare / max(1, len(words) - 1))
    width = inked + space * (len(words) - 1)
    x = left + text.x * em - width * _ALIGNMENT[text.align]
    y = round(top + text.y * em)
    for mask, rise in words:
        canvas.paste(text.colour, (round(x), y + rise), mask)
        x += mask.width + space


def paint(panel: Panel, canvas: Image.Image, left: float, top: float, em: float) -> None:
    """Paint `panel` onto the RGB `canvas` with its top left corner at `(left, top)` px."""
    draw = ImageDraw.Draw(canvas)
    for mark in panel.marks:
        if isinstance(mark, Text):
            _paint_text(canvas, mark, left, top, em)
            continue
        x0, y0 = round(left + mark.x0 * em), round(top + mark.y0 * em)
        # A rule never vanishes: print is at least one pixel thick.
        x1 = max(x0, round(left + mark.x1 * em) - 1)
        y1 = max(y0, round(top + mark.y1 * em) - 1)
        if isinstance(mark, Oval):
            draw.ellipse((x0, y0, x1, y1), fill=mark.colour)
        elif mark.radius:
            draw.rounded_rectangle((x0, y0, x1, y1), mark.radius * em, fill=mark.colour)
        else:
            draw.rectangle((x0, y0, x1, y1), fill=mark.colour)
