"""Fronts of packs: brand, product name, picture and badges, the print that sells.

Belongs here: painting one front into a rectangle of a face. None of it is recorded as an object.
Does not belong here: backs with their small print (`faces`), the pictures themselves (`pictures`).
"""

from __future__ import annotations

import math
from random import Random

from PIL import Image, ImageDraw

from .camera import Rect
from .fonts import BOLD, REGULAR, draw_family
from .languages import BRAND_SYLLABLES, CLAIMS, LANGUAGES, PRODUCTS
from .palettes import BLACK, WHITE, blend, contrasting, draw_colour, draw_ink, draw_pack_colour, luminance
from .panels import Bar, Colour, Oval, Panel, Text, paint, text_width
from .pictures import draw_picture

_SCORE_COLOURS = ((3, 129, 65), (133, 187, 47), (254, 203, 2), (238, 129, 0), (230, 62, 17))  # Nutri-Score A to E
_LIGHTS = ((120, 180, 60), (245, 170, 30), (215, 45, 45))  # traffic lights: low, medium, high
_LEAST_SIDE = 24  # px; a smaller front is a plain field


def paint_front(canvas: Image.Image, rect: Rect, ground: Colour, rng: Random) -> None:
    """Paint a front onto `rect` of the canvas, on its own `ground`."""
    x0, y0, x1, y1 = (round(v) for v in rect)
    if min(x1 - x0, y1 - y0) < _LEAST_SIDE:
        return
    front = Image.new("RGB", (x1 - x0, y1 - y0), ground)
    _add_fields(front, ground, rng)
    order = ["brand", "name", "picture"]
    if rng.random() < 0.3:
        rng.shuffle(order)
    _stack(front, order, rng)
    for _ in range(rng.randint(0, 3)):
        _add_badge(front, rng)
    canvas.paste(front, (x0, y0))


def _add_fields(front: Image.Image, ground: Colour, rng: Random) -> None:
    """Bands, arcs and slanted fields of other colours."""
    width, height = front.size
    draw = ImageDraw.Draw(front)
    for _ in range(rng.choices((0, 1, 2, 3), (2, 4, 3, 1))[0]):
        colour = blend(ground, draw_pack_colour(rng), rng.choice((0.3, 1.0, 1.0)))
        near, far = sorted((rng.uniform(-0.3, 1.3) * height, rng.uniform(-0.3, 1.3) * height))
        kind = rng.random()
        if kind < 0.4:
            lean = rng.choice((0.0, 0.0, rng.uniform(-0.3, 0.3))) * width
            draw.polygon([(0, near), (width, near + lean), (width, far + lean), (0, far)], fill=colour)
        elif kind < 0.7:
            radius = rng.uniform(0.5, 1.6) * width
            x = rng.uniform(0, 1) * width
            draw.ellipse((x - radius, near, x + radius, near + 2 * radius), fill=colour)
        else:
            inset = rng.uniform(0, 0.35) * width
            draw.rectangle((inset, near, width - rng.choice((0, inset)), far), fill=colour)


def _stack(front: Image.Image, order: list[str], rng: Random) -> None:
    """Brand, name and picture from top to bottom; the picture may run under the others."""
    width, height = front.size
    shares = {"brand": rng.uniform(0.12, 0.3), "name": rng.uniform(0.15, 0.45)}
    shares["picture"] = 1 - sum(shares.values())
    if rng.random() < 0.2:
        _add_picture(front, (0, 0, width, height), rng)
        order = [part for part in order if part != "picture"]
    top = 0.0
    for part in order:
        room = (0.05 * width, top, 0.95 * width, top + shares[part] * height)
        if part == "picture":
            _add_picture(front, (0, top, width, room[3]), rng)
        elif rng.random() < 0.92:
            _add_words(front, room, part == "brand", rng)
        top = room[3]


def _add_picture(front: Image.Image, room: Rect, rng: Random) -> None:
    shrink = rng.uniform(0.0, 0.3)
    width, height = (room[2] - room[0]) * (1 - shrink), (room[3] - room[1]) * (1 - shrink)
    if min(width, height) < _LEAST_SIDE / 2:
        return
    picture = draw_picture(rng, (round(width), round(height)))
    left = room[0] + rng.random() * (room[2] - room[0] - width)
    top = room[1] + rng.random() * (room[3] - room[1] - height)
    front.paste(picture, (round(left), round(top)), picture)


def _draw_lines(brand: bool, rng: Random) -> list[str]:
    """The words of a brand or a product name, by line."""
    if brand:
        name = "".join(rng.choices(BRAND_SYLLABLES, k=rng.choice((2, 2, 3)))).capitalize()
        return [name.upper() if rng.random() < 0.4 else name]
    words = rng.choice(rng.choice((PRODUCTS, CLAIMS))).split()
    if rng.random() < 0.6:
        words = rng.choices(rng.choice(LANGUAGES).words, k=rng.randint(1, 5))
        words = [word.capitalize() for word in words]
    if rng.random() < 0.4:
        words = [word.upper() for word in words]
    return words if rng.random() < 0.7 else [" ".join(words[i : i + 2]) for i in range(0, len(words), 2)]


def _add_words(front: Image.Image, room: Rect, brand: bool, rng: Random) -> None:
    """Large words, line by line, each as wide as the room or all of one size."""
    lines = _draw_lines(brand, rng)
    family = draw_family(rng)
    font = rng.choice((family.bold, family.bold, family.regular, family.oblique))
    width, height = room[2] - room[0], room[3] - room[1]
    widest = max(text_width(line, font) for line in lines)
    panel = Panel(widest + 0.2, 0.0)
    justified = rng.random() < 0.35
    for line in lines:
        size = min(2.5, widest / text_width(line, font)) if justified else 1.0
        x, align = rng.choice(((panel.width / 2, "m"),)) if justified or rng.random() < 0.7 else (0.1, "l")
        panel.add(Text(x, panel.height + 0.55 * size, line, BLACK, size, font, align))
        panel.height += 1.12 * size
    em = min(width / panel.width, height / panel.height) * rng.uniform(0.6, 1.0)
    left = room[0] + rng.choice((0.0, 0.5, 0.5)) * (width - panel.width * em)
    top = room[1] + rng.random() * (height - panel.height * em)
    behind = front.getpixel((round(left + panel.width * em / 2), min(front.height - 1, round(top))))
    colour = _word_colour(behind if isinstance(behind, tuple) else WHITE, rng)
    panel.marks = [Text(m.x, m.y, m.string, colour, m.size, m.face, m.align) for m in panel.marks
                   if isinstance(m, Text)]  # fmt: skip
    if brand and rng.random() < 0.5:
        _add_badge_ground(panel, colour, rng)
    paint(panel, front, left, top, em)


def _word_colour(behind: tuple[int, ...], rng: Random) -> Colour:
    """A colour that is legible on `behind`, often a strong one."""
    ground = (behind[0], behind[1], behind[2])
    if rng.random() < 0.5:
        return contrasting(ground)
    value = (0.7, 1.0) if luminance(ground) < 120 else (0.1, 0.55)
    return draw_colour(rng, (0.2, 1.0), value)


def _add_badge_ground(panel: Panel, colour: Colour, rng: Random) -> None:
    """A bar or an oval behind the words."""
    ground = (
        draw_colour(rng, (0.6, 1.0), (0.7, 1.0)) if luminance(colour) < 100 else draw_colour(rng, (0.3, 1), (0, 0.5))
    )
    x0, x1, y1 = -0.5, panel.width + 0.5, panel.height
    shape = (
        Oval(x0, -0.2, x1, y1 + 0.2, ground) if rng.random() < 0.4 else Bar(x0, 0, x1, y1, ground, rng.choice((0, 0.4)))
    )
    panel.marks.insert(0, shape)


# ---------------------------------------------------------------- badges


def _add_badge(front: Image.Image, rng: Random) -> None:
    """One badge anywhere, more often near the lower edge."""
    ground = front.getpixel((front.width // 2, front.height - 1))
    colour = (ground[0], ground[1], ground[2]) if isinstance(ground, tuple) else WHITE
    kind = rng.choices((_score, _traffic_lights, _claim, _small_print, _round), (2, 2, 2, 3, 2))[0]
    panel = kind(colour, rng)
    share = rng.uniform(0.15, 0.6) if kind in (_traffic_lights, _small_print) else rng.uniform(0.12, 0.35)
    em = min(share * front.width / panel.width, 0.3 * front.height / panel.height)
    left = rng.uniform(0.03, 0.97) * (front.width - panel.width * em)
    top = math.sqrt(rng.random()) * (front.height - panel.height * em)
    paint(panel, front, left, top, em)


def _score(ground: Colour, rng: Random) -> Panel:
    """Five letters from green to red, one of them larger."""
    del ground
    panel = Panel(8.4, 4.2)
    panel.add(Bar(0, 0, 8.4, 4.2, WHITE, 0.6), Text(0.4, 0.8, "NUTRI-SCORE", (90, 90, 90), 0.95, BOLD))
    best = rng.randrange(5)
    for i, colour in enumerate(_SCORE_COLOURS):
        grown = 0.4 if i == best else 0.0
        panel.add(Bar(0.4 + i * 1.5 - grown, 1.6 - grown, 1.9 + i * 1.5 + grown, 3.6 + grown, colour, grown))
        panel.add(Text(1.15 + i * 1.5, 2.6, "ABCDE"[i], WHITE, 1.2 + grown, BOLD, "m"))
    return panel


def _traffic_lights(ground: Colour, rng: Random) -> Panel:
    """Front-of-pack lozenges: energy and a few nutrients per portion. They are no nutrition table."""
    del ground
    names = ("Energy", "Fat", "Saturates", "Sugars", "Salt")[: rng.choice((1, 4, 5, 5))]
    panel = Panel(len(names) * 4.2, 5.6)
    for i, name in enumerate(names):
        x = i * 4.2
        colour = WHITE if name == "Energy" else rng.choice(_LIGHTS)
        panel.add(Bar(x + 0.1, 0, x + 4.1, 5.6, colour, 1.2))
        panel.add(Text(x + 2.1, 0.9, name, BLACK, 0.8, REGULAR, "m"))
        panel.add(Text(x + 2.1, 2.6, f"{rng.uniform(0, 30):.1f}g", BLACK, 1.1, BOLD, "m"))
        panel.add(
            Bar(x + 0.1, 3.6, x + 4.1, 3.7, BLACK), Text(x + 2.1, 4.5, f"{rng.randint(1, 40)}%", BLACK, 1, BOLD, "m")
        )
    return panel


def _claim(ground: Colour, rng: Random) -> Panel:
    """A claim, on a flash of colour or straight on the pack."""
    words, font = rng.choice(CLAIMS), draw_family(rng).bold
    panel = Panel(text_width(words, font) + 0.8, 1.6)
    colour = contrasting(ground)
    if rng.random() < 0.6:
        flash = draw_colour(rng, (0.5, 1.0), (0.5, 1.0))
        panel.add(Bar(0, 0, panel.width, 1.6, flash, rng.choice((0.0, 0.7))))
        colour = contrasting(flash)
    panel.add(Text(panel.width / 2, 0.8, words, colour, 1.0, font, "m"))
    return panel


def _small_print(ground: Colour, rng: Random) -> Panel:
    """A few lines of words, centred or flush left, without a heading."""
    words = rng.choice(LANGUAGES).words
    lines = [" ".join(rng.choices(words, k=rng.randint(2, 4))) for _ in range(rng.randint(1, 6))]
    font = draw_family(rng).regular
    panel = Panel(max(text_width(line, font) for line in lines), 1.2 * len(lines))
    x, align = (panel.width / 2, "m") if rng.random() < 0.5 else (0.0, "l")
    ink = draw_ink(rng, ground, boxed=0.0)
    for i, line in enumerate(lines):
        panel.add(Text(x, 0.6 + 1.2 * i, line, ink.text, 1.0, font, align))
    return panel


def _round(ground: Colour, rng: Random) -> Panel:
    """A round emblem with a word."""
    del ground
    colour = draw_colour(rng, (0.4, 1.0), (0.3, 0.9))
    panel, word = Panel(6, 6), rng.choice(CLAIMS).split()[0]
    panel.add(Oval(0, 0, 6, 6, WHITE), Oval(0.3, 0.3, 5.7, 5.7, colour))
    size = min(1.6, 4.6 / text_width(word, BOLD))
    panel.add(Text(3, 3, word, contrasting(colour), size, BOLD, "m"))
    return panel
