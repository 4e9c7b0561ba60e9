"""Printed objects other than nutrition tables: distractors on packs, targets on pages.

Belongs here: one builder per label, as panels in em. Does not belong here: nutrition tables
(`tables`) and placement (`faces`, `pages`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .fonts import MONO, SERIF, SERIF_BOLD, Font
from .languages import BRAND_SYLLABLES, CLAIMS, LANGUAGES, PRODUCTS
from .layouts import draw_table
from .palettes import BLACK, WHITE, Ink, contrasting
from .panels import Bar, Oval, Panel, Text, text_width, wrap
from .tables import GridStyle, draw_grid_style, grid

TABLE = "nutrition table"


def _paper(panel: Panel, ink: Ink) -> None:
    if ink.paper:
        panel.marks.insert(0, Bar(0, 0, panel.width, panel.height, ink.paper))


def _paragraph(heading: str, words: list[str], width: float, ink: Ink, face: Font | None = None) -> Panel:
    """A heading and wrapped words; the panel is as wide as its widest line."""
    face = face or ink.regular
    lines = ([heading] if heading else []) + list(wrap(words, width, face))
    pad = 0.5 if ink.paper else 0.05
    faces = [ink.bold if heading and i == 0 else face for i in range(len(lines))]
    widest = max(text_width(line, f) for line, f in zip(lines, faces, strict=True))
    panel = Panel(widest + 2 * pad, len(lines) * 1.2 + 2 * pad)
    for i, (line, line_face) in enumerate(zip(lines, faces, strict=True)):
        panel.add(Text(pad, pad + 0.6 + 1.2 * i, line, ink.text, 1.0, line_face))
    _paper(panel, ink)
    return panel


def ingredients(rng: Random, ink: Ink) -> Panel:
    """A list of ingredients, some with their share."""
    language = rng.choice(LANGUAGES)
    words = [
        word + rng.choice((",", ",", "", f" {rng.randint(1, 60)}%,"))
        for word in rng.choices(language.words, k=rng.randint(10, 30))
    ]
    return _paragraph(language.ingredients_heading, words, rng.uniform(12, 28), ink)


def text_block(rng: Random, ink: Ink) -> Panel:
    """Running text without a heading."""
    words = rng.choices(rng.choice(LANGUAGES).words, k=rng.randint(8, 34))
    return _paragraph("", words, rng.uniform(9, 24), ink, rng.choice((ink.regular, ink.family.oblique, SERIF)))


def recipe(rng: Random, ink: Ink) -> Panel:
    """A heading, an accent rule and numbered steps."""
    language = rng.choice(LANGUAGES)
    width, y = max(rng.uniform(12, 20), text_width(language.recipe_heading, SERIF_BOLD) * 1.5 + 0.2), 2.2
    panel = Panel(width, 0)
    panel.add(Text(0.1, 0.9, language.recipe_heading, ink.accent, 1.5, SERIF_BOLD))
    panel.add(Bar(0, 1.8, width, 1.95, ink.accent))
    for step in range(1, rng.randint(3, 5)):
        panel.add(Oval(0, y, 1.3, y + 1.3, ink.accent))
        panel.add(Text(0.65, y + 0.65, str(step), contrasting(ink.accent), 0.9, ink.bold, "m"))
        for line in wrap(rng.choices(language.words, k=rng.randint(4, 9)), width - 1.9, ink.regular):
            panel.add(Text(1.8, y + 0.65, line, ink.text, 1.0, ink.regular))
            y += 1.2
        y += 0.3
    panel.height = y
    _paper(panel, ink)
    return panel


def barcode(rng: Random, ink: Ink) -> Panel:
    """An EAN-like symbol with its digits on a white field."""
    del ink  # scanners need black on white
    module, modules, height = 0.12, 95, rng.uniform(4, 8)
    panel = Panel(modules * module + 1.6, height + 1.6)
    panel.add(Bar(0, 0, panel.width, panel.height, WHITE))
    x = 0
    while x < modules:
        bar = rng.randint(1, 3)
        panel.add(Bar(0.8 + x * module, 0.4, 0.8 + min(modules, x + bar) * module, 0.4 + height, BLACK))
        x += bar + rng.randint(1, 3)
    digits = "".join(rng.choice("0123456789") for _ in range(13))
    number = f"{digits[0]} {digits[1:7]} {digits[7:]}"
    panel.add(Text(panel.width / 2, height + 0.95, number, BLACK, 1.1, MONO, "m"))
    return panel


def qr_code(rng: Random, ink: Ink) -> Panel:
    """A QR-like symbol: random modules and three finders."""
    del ink
    side, module = 21, 0.35
    panel = Panel(side * module + 1, side * module + 1)
    panel.add(Bar(0, 0, panel.width, panel.height, WHITE))
    for row in range(side):
        for column in range(side):
            if rng.random() < 0.45:
                x, y = 0.5 + column * module, 0.5 + row * module
                panel.add(Bar(x, y, x + module, y + module, BLACK))
    for x, y in ((0, 0), (14, 0), (0, 14)):
        for inset, colour in ((-1, WHITE), (0, BLACK), (1, WHITE), (2, BLACK)):
            low, high = inset * module, (7 - inset) * module
            x0, y0 = 0.5 + x * module, 0.5 + y * module
            panel.add(Bar(x0 + max(low, 0), y0 + max(low, 0), x0 + high, y0 + high, colour))
    return panel


def logo(rng: Random, ink: Ink) -> Panel:
    """A brand name on a coloured badge."""
    name = "".join(rng.choices(BRAND_SYLLABLES, k=rng.choice((2, 2, 3)))).capitalize()
    face = rng.choice((ink.bold, SERIF_BOLD, ink.family.oblique))
    panel = Panel(text_width(name, face) * 2 + 2, 3.4)
    shape = rng.choice((Bar(0, 0, panel.width, 3.4, ink.accent, rng.choice((0.0, 0.8, 1.7))),
                        Oval(0, 0, panel.width, 3.4, ink.accent)))  # fmt: skip
    panel.add(shape, Text(panel.width / 2, 1.7, name, contrasting(ink.accent), 2.0, face, "m"))
    return panel


def seal(rng: Random, ink: Ink) -> Panel:
    """A round claim."""
    panel = Panel(6, 6)
    rim = contrasting(ink.accent)
    for inset, colour in ((0.0, ink.accent), (0.35, rim), (0.6, ink.accent)):
        panel.add(Oval(inset, inset, 6 - inset, 6 - inset, colour))
    words = rng.choice(CLAIMS).split()
    for i, word in enumerate(words):
        size = min(1.3, 4.2 / text_width(word, ink.bold))
        panel.add(Text(3, 3 + (i - (len(words) - 1) / 2) * 1.3, word, rim, size, ink.bold, "m"))
    return panel


def price_tag(rng: Random, ink: Ink) -> Panel:
    """A shelf label: product, price, unit price."""
    euros, cents = rng.randint(0, 19), rng.choice((9, 29, 49, 79, 95, 99))
    price = f"{euros}.{cents:02d} €"
    panel = Panel(max(rng.uniform(11, 14), text_width(price, ink.bold) * 2.8 + 1), 6.4)
    field = rng.choice(((255, 236, 60), WHITE, (255, 140, 60)))
    panel.add(Bar(0, 0, panel.width, 6.4, field, 0.3))
    panel.add(Text(0.5, 0.9, rng.choice(PRODUCTS), BLACK, 1.0, ink.bold))
    panel.add(Text(panel.width - 0.5, 3.3, price, (170, 10, 20), 2.8, ink.bold, "r"))
    panel.add(Text(0.5, 5.6, f"1 kg = {euros * 3 + 1},{cents:02d} €", BLACK, 0.9, ink.regular))
    return panel


def size_table(rng: Random, ink: Ink) -> Panel:
    """A feeding or clothing size table: a grid of numbers without nutrients."""
    if rng.random() < 0.5:
        rows = [
            [f"{weight} kg", *(str(weight * per_kg + rng.randint(0, 9)) for per_kg in (22, 17, 12))]
            for weight in range(2, 2 + rng.randint(3, 7))
        ]
        head = ["kg", "1-2 months", "3-6 months", "adult"]
        return grid([head, *rows], "Feeding guide (g/day)", ink, draw_grid_style(rng))
    names = ("XS", "S", "M", "L", "XL", "XXL")[: rng.randint(3, 6)]
    sizes = [[name, str(34 + 2 * i), str(6 + 2 * i), str(76 + 6 * i)] for i, name in enumerate(names)]
    return grid([["Size", "EU", "UK", "cm"], *sizes], "Size table", ink, draw_grid_style(rng))


def opening_hours(rng: Random, ink: Ink) -> Panel:
    """Days and times."""
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[: rng.randint(4, 7)]
    rows = [[day, f"{rng.randint(7, 10)}:00 - {rng.randint(16, 22)}:{rng.choice(('00', '30'))}"] for day in days]
    return grid([["", "Open"], *rows], "Opening hours", ink, draw_grid_style(rng))


def receipt(rng: Random, ink: Ink) -> Panel:
    """A till receipt: products and prices, then a total."""
    rows = [["", "EUR"]]
    prices = [rng.randint(49, 1299) for _ in range(rng.randint(3, 8))]
    rows += [[rng.choice(PRODUCTS), f"{p // 100},{p % 100:02d}"] for p in prices]
    style = GridStyle(1.2, rules=False, framed=False, banded=False, columns_ruled=False, title_bar=False)
    rows.append(["TOTAL", f"{sum(prices) // 100},{sum(prices) % 100:02d}"])
    return grid(rows, "RECEIPT", Ink(WHITE, BLACK, WHITE, BLACK, ink.family), style)


BUILDERS: dict[str, Callable[[Random, Ink], Panel]] = {
    TABLE: draw_table,
    "ingredients": ingredients,
    "barcode": barcode,
    "qr code": qr_code,
    "logo": logo,
    "price tag": price_tag,
    "size table": size_table,
    "recipe": recipe,
    "opening hours": opening_hours,
    "receipt": receipt,
    "seal": seal,
    "text block": text_block,
}
LABELS: tuple[str, ...] = tuple(BUILDERS)
PACK_LABELS = ("ingredients", "ingredients", "text block", "text block", "barcode", "logo", "seal", "recipe",
               "qr code", "size table")  # fmt: skip
LOOKALIKES = ("ingredients", "size table", "recipe", "opening hours", "price tag", "receipt")
