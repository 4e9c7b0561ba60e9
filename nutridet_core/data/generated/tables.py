"""Nutrition tables: the common layouts, as panels in em.

Belongs here: the geometry of nutrition tables. Rarer layouts are in `regional`. Does not belong here:
other printed objects (`objects`), even the ones that look like a nutrition table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .languages import ENGLISH, LANGUAGES, NUTRIENTS, Language
from .nutrients import Amounts, daily_share, draw_amounts, format_amount
from .palettes import Ink, blend, contrasting
from .panels import Bar, Panel, Text, text_width, wrap

Line = tuple[int, str, str, str]  # indent, nutrient, amount, daily value

_GAP = 1.1  # least space between two columns
_PARTS = ("saturates", "sugars")
_MICRONUTRIENTS = ("Vitamin D", "Calcium", "Iron", "Potassium", "Vitamin A", "Vitamin C")


@dataclass(frozen=True)
class GridStyle:
    """How a grid of cells is ruled."""

    pitch: float
    rules: bool
    framed: bool
    banded: bool
    columns_ruled: bool
    title_bar: bool


# ---------------------------------------------------------------- grids


def draw_grid_style(rng: Random) -> GridStyle:
    """A random ruling."""
    ruled = rng.random() < 0.65
    return GridStyle(
        pitch=rng.uniform(1.15, 1.75),
        rules=ruled,
        framed=rng.random() < (0.8 if ruled else 0.25),
        banded=rng.random() < 0.2,
        columns_ruled=ruled and rng.random() < 0.5,
        title_bar=rng.random() < 0.25,
    )


def grid(rows: Sequence[Sequence[str]], title: str, ink: Ink, style: GridStyle) -> Panel:
    """A grid: first column left-aligned, the others right-aligned, the first row bold."""
    pad = 0.5 if style.framed or ink.paper or style.banded or style.title_bar else 0.0
    widths = [max(text_width(row[i], ink.bold) for row in rows) for i in range(len(rows[0]))]
    spare = max(0.0, text_width(title, ink.bold) * 1.15 - sum(widths) - _GAP * (len(widths) - 1))
    widths[0] += spare
    width = sum(widths) + _GAP * (len(widths) - 1) + 2 * pad
    head = 1.6 if title else 0.0
    panel = Panel(width, head + len(rows) * style.pitch + pad)
    if ink.paper:
        panel.add(Bar(0, 0, panel.width, panel.height, ink.paper))
    _grid_title(panel, title, head, pad, ink, style)
    edges = [pad + sum(widths[: i + 1]) + _GAP * i for i in range(len(widths))]
    for number, row in enumerate(rows):
        _grid_row(panel, row, number, head, edges, pad, ink, style)
    if style.columns_ruled:
        for edge in edges[:-1]:
            x = edge + (0.4 if edge == edges[0] else _GAP / 2)
            panel.add(Bar(x, head, x + 0.06, panel.height, ink.text))
    if style.framed:
        panel.frame(ink.text, 0.1)
    return panel


def _grid_title(panel: Panel, title: str, head: float, pad: float, ink: Ink, style: GridStyle) -> None:
    colour = ink.text
    if style.title_bar and title:
        panel.add(Bar(0, 0, panel.width, head, ink.accent))
        colour = contrasting(ink.accent)
    panel.add(Text(pad, head / 2, title, colour, 1.15, ink.bold))


def _grid_row(
    panel: Panel, row: Sequence[str], number: int, head: float, edges: list[float], pad: float, ink: Ink,
    style: GridStyle,
) -> None:  # fmt: skip
    top = head + number * style.pitch
    middle = top + style.pitch / 2
    if style.banded and number % 2:
        band = blend(ink.paper or ink.ground, ink.accent, 0.3)
        panel.add(Bar(0, top, panel.width, top + style.pitch, band))
    if style.rules and (number or head):
        panel.add(Bar(0, top, panel.width, top + 0.05, ink.text))
    face = ink.bold if number == 0 else ink.regular
    panel.add(Text(pad, middle, row[0], ink.text, 1.0, face))
    for cell, edge in zip(row[1:], edges[1:], strict=True):
        panel.add(Text(edge, middle, cell, ink.text, 1.0, face, "r"))


def _nutrient_rows(rng: Random, language: Language, amounts: Amounts, columns: int) -> list[list[str]]:
    """Rows of name, per 100 g and, up to `columns`, per portion and daily share."""
    portion = amounts.scaled(rng.choice((0.25, 0.3, 0.4, 0.5, 1.25, 2.0)))
    rows = [["", language.per_100, language.per_portion, "%*"][: columns + 1]]
    for name, word in zip(NUTRIENTS, language.nutrients, strict=True):
        if name == "fibre" and rng.random() < 0.4:
            continue
        cells = [format_amount(name, a, language.decimal) for a in (amounts, portion)]
        label = ("- " if name in _PARTS and rng.random() < 0.5 else "") + word
        rows.append([label, *cells, daily_share(name, portion)][: columns + 1])
    if rng.random() < 0.5:
        rows[1:2] = _split_energy(rows[1])
    return rows


def _split_energy(row: list[str]) -> list[list[str]]:
    """The energy row as one row of kJ and one of kcal."""
    parts = [cell.split(" / ") if " / " in cell else [cell, ""] for cell in row[1:]]
    return [[row[0], *(p[0] for p in parts)], ["", *(p[1] for p in parts)]]


def european_grid(rng: Random, ink: Ink) -> Panel:
    """The EU declaration: per 100 g, often per portion, sometimes the reference intake."""
    language = rng.choice(LANGUAGES)
    rows = _nutrient_rows(rng, language, draw_amounts(rng), rng.choices((1, 2, 3), (5, 4, 2))[0])
    title = rng.choice(language.titles) if rng.random() < 0.85 else ""
    rows[0][0] = "" if title else rng.choice(language.titles)
    return grid(rows, title, ink, draw_grid_style(rng))


def multilingual_grid(rng: Random, ink: Ink) -> Panel:
    """Nutrient names in two or three languages in one cell."""
    languages = rng.sample(LANGUAGES, rng.choice((2, 2, 3)))
    rows = _nutrient_rows(rng, languages[0], draw_amounts(rng), 1)
    joined = ("/".join(words) for words in zip(*(t.nutrients for t in languages), strict=True))
    names = dict(zip(languages[0].nutrients, joined, strict=True))
    for row in rows[1:]:
        row[0] = names.get(row[0].removeprefix("- "), row[0])
    title = " / ".join(rng.choice(language.titles) for language in languages)
    return grid(rows, title, ink, draw_grid_style(rng))


def minimal_list(rng: Random, ink: Ink) -> Panel:
    """A small table without rules, as on Asian and Indian packs."""
    amounts = draw_amounts(rng)
    names = rng.sample(NUTRIENTS[1:], rng.randint(4, 7))
    rows = [["", rng.choice(("Per 100g", "per 100 ml", "Amount"))]]
    rows.append(["Energy", f"{amounts.kcal:.0f} kcal"])
    rows += [[n.capitalize(), format_amount(n, amounts, ".")] for n in NUTRIENTS if n in names]
    style = GridStyle(rng.uniform(1.3, 2.2), rng.random() < 0.3, rng.random() < 0.5, False, False, False)
    return grid(rows, rng.choice(ENGLISH.titles).upper(), ink, style)


# ---------------------------------------------------------------- Nutrition Facts


def nutrition_facts(rng: Random, ink: Ink) -> Panel:
    """The US vertical label."""
    amounts = draw_amounts(rng).scaled(rng.choice((0.3, 0.4, 0.55, 1.0)))
    paper = ink.paper
    panel = Panel(rng.uniform(15.5, 19.0), 0.0)
    if paper:
        panel.add(Bar(0, 0, panel.width, 0, paper))
    title_size = (panel.width - 1.0) / text_width("Nutrition Facts", ink.bold)
    y = 0.35 + title_size
    panel.add(Text(0.5, 0.25 + title_size / 2, "Nutrition Facts", ink.text, title_size, ink.bold))
    servings = f"{rng.randint(2, 40)} servings per container"
    for line in (servings, f"Serving size {rng.randint(1, 9)} oz (28g)"):
        panel.add(Text(0.5, y + 0.6, line, ink.text, 1.0, rng.choice((ink.regular, ink.bold))))
        y += 1.2
    y = _calories(panel, y, amounts, ink, rng)
    y = facts_rows(panel, y, _facts(amounts, rng), ink)
    y = _vitamins(panel, y, ink, rng)
    panel.height = y + 0.2
    if paper:
        panel.marks[0] = Bar(0, 0, panel.width, panel.height, paper)
    panel.frame(ink.text, rng.choice((0.1, 0.18)))
    return panel


def thick_rule(panel: Panel, y: float, thickness: float, ink: Ink) -> float:
    """Add a thick rule at `y` and return where it ends."""
    panel.add(Bar(0.5, y, panel.width - 0.5, y + thickness, ink.text))
    return y + thickness


def _calories(panel: Panel, y: float, amounts: Amounts, ink: Ink, rng: Random) -> float:
    y = thick_rule(panel, y + 0.1, 0.5, ink)
    panel.add(Text(0.5, y + 0.5, "Amount per serving", ink.text, 0.8, ink.bold))
    size = rng.choice((1.2, 1.8, 2.2))
    middle = y + 0.8 + size / 2
    panel.add(Text(0.5, middle, "Calories", ink.text, min(size, 1.8), ink.bold))
    panel.add(Text(panel.width - 0.5, middle, f"{amounts.kcal:.0f}", ink.text, size, ink.bold, "r"))
    y = thick_rule(panel, middle + size / 2 + 0.2, 0.25, ink)
    panel.add(Text(panel.width - 0.5, y + 0.55, "% Daily Value*", ink.text, 0.8, ink.bold, "r"))
    return y + 1.1


def _facts(amounts: Amounts, rng: Random) -> list[Line]:
    """Indent, name, amount and daily value of every line."""
    g = amounts.grams
    lines = [
        (0, "Total Fat", f"{g['fat']:.0f}g", daily_share("fat", amounts)),
        (1, "Saturated Fat", f"{g['saturates']:.1f}g", daily_share("saturates", amounts)),
        (1, "Trans Fat", "0g", ""),
        (0, "Cholesterol", f"{rng.choice((0, 5, 10, 30))}mg", f"{rng.randint(0, 10)}%"),
        (0, "Sodium", f"{g['salt'] * 400:.0f}mg", daily_share("salt", amounts)),
        (0, "Total Carbohydrate", f"{g['carbohydrate']:.0f}g", daily_share("carbohydrate", amounts)),
        (1, "Dietary Fiber", f"{g['fibre']:.0f}g", f"{g['fibre'] * 3.6:.0f}%"),
        (1, "Sugars", f"{g['sugars']:.0f}g", ""),
        (0, "Protein", f"{g['protein']:.0f}g", ""),
    ]
    return [line for line in lines if line[1] not in ("Trans Fat", "Cholesterol") or rng.random() < 0.7]


def facts_rows(panel: Panel, y: float, lines: list[Line], ink: Ink) -> float:
    """Add ruled lines of nutrients from `y` on and return where they end."""
    for indent, name, amount, share in lines:
        panel.add(Bar(0.5, y, panel.width - 0.5, y + 0.05, ink.text))
        left, face = 0.5 + indent * 0.9, ink.regular if indent else ink.bold
        panel.add(Text(left, y + 0.65, name, ink.text, 1.0, face))
        panel.add(Text(left + text_width(name + " ", face), y + 0.65, amount, ink.text, 1.0, ink.regular))
        panel.add(Text(panel.width - 0.5, y + 0.65, share, ink.text, 1.0, ink.bold, "r"))
        y += 1.3
    return thick_rule(panel, y, 0.5, ink)


def _vitamins(panel: Panel, y: float, ink: Ink, rng: Random) -> float:
    names = rng.sample(_MICRONUTRIENTS, rng.choice((0, 2, 4)))
    for left, right in zip(names[::2], names[1::2], strict=True):
        panel.add(Text(0.5, y + 0.6, f"{left} {rng.randint(0, 25)}%", ink.text, 0.9, ink.regular))
        share = f"{right} {rng.randint(0, 25)}%"
        panel.add(Text(panel.width - 0.5, y + 0.6, share, ink.text, 0.9, ink.regular, "r"))
        y += 1.2
        panel.add(Bar(0.5, y, panel.width - 0.5, y + 0.05, ink.text))
    if rng.random() < 0.6:
        note = "* The % Daily Value tells you how much a nutrient in a serving contributes to a daily diet."
        for line in wrap(note.split(), (panel.width - 1) / 0.75, ink.regular):
            panel.add(Text(0.5, y + 0.5, line, ink.text, 0.75, ink.regular))
            y += 0.9
    return y


# ---------------------------------------------------------------- text-like layouts


def linear(rng: Random, ink: Ink) -> Panel:
    """The declaration as running text."""
    language = rng.choice(LANGUAGES)
    amounts = draw_amounts(rng)
    cells = [
        f"{word} {format_amount(name, amounts, language.decimal)}"
        for name, word in zip(NUTRIENTS, language.nutrients, strict=True)
    ]
    body = f"{language.per_100}: " + "; ".join(cells) + "."
    lines = [rng.choice(language.titles), *wrap(body.split(), rng.uniform(15, 34), ink.regular)]
    return _text_panel(lines, ink, framed=rng.random() < 0.3)


def _text_panel(lines: list[str], ink: Ink, framed: bool) -> Panel:
    pad = 0.5 if framed or ink.paper else 0.05
    width = max(text_width(line, ink.bold if i == 0 else ink.regular) for i, line in enumerate(lines)) + 2 * pad
    panel = Panel(width, len(lines) * 1.2 + 2 * pad)
    if ink.paper:
        panel.add(Bar(0, 0, panel.width, panel.height, ink.paper))
    for i, line in enumerate(lines):
        panel.add(Text(pad, pad + 0.6 + i * 1.2, line, ink.text, 1.0, ink.regular if i else ink.bold))
    if framed:
        panel.frame(ink.text, 0.08)
    return panel


def side_by_side(rng: Random, ink: Ink) -> Panel:
    """A wide table: the nutrients are the columns, as on cans and bars."""
    language = rng.choice(LANGUAGES)
    amounts = draw_amounts(rng)
    names = list(zip(NUTRIENTS, language.nutrients, strict=True))[: rng.randint(4, 8)]
    head = [word for _, word in names]
    values = [format_amount(name, amounts, language.decimal).split(" / ")[-1] for name, _ in names]
    rows = [["", *head], [language.per_100, *values]]
    return grid(rows, rng.choice(language.titles), ink, draw_grid_style(rng))
