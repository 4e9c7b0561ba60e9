"""Nutrition tables of some regions: East Asia, Canada, the older US label, and long ones.

Belongs here: layouts beyond the common ones of `tables`. Does not belong here: how often each layout
is drawn (`layouts`).
"""

from __future__ import annotations

from random import Random

from .languages import LANGUAGES, NUTRIENTS
from .nutrients import Amounts, daily_share, draw_amounts, format_amount
from .palettes import Ink
from .panels import Bar, Panel, Text, text_width, wrap
from .tables import Line, draw_grid_style, facts_rows, grid, thick_rule

# The fonts lack the usual Chinese words for carbohydrate and sodium, so others stand for them.
# Titles, per 100 g, share of the daily value; then words in the order of `_ASIAN_NUTRIENTS`.
_ASIAN_NUTRIENTS = ("energy", "protein", "fat", "saturates", "carbohydrate", "sugars", "salt")
_JAPANESE = (
    ("栄養成分表示", "栄養成分", "栄養成分表示 (100g当たり)"), "100g当たり", "",
    ("エネルギー", "たんぱく質", "脂質", "飽和脂肪酸", "炭水化物", "糖質", "食塩相当量"),
)  # fmt: skip
_KOREAN = (
    ("영양정보", "영양성분", "영양정보 총 내용량 100g"), "100g당", "1일 영양성분 기준치",
    ("열량", "단백질", "지방", "포화지방", "탄수화물", "당류", "나트륨"),
)  # fmt: skip
_CHINESE = (
    ("營養標示", "營養成分表", "營養資料"), "每100公克", "NRV%",
    ("熱量", "蛋白質", "脂肪", "飽和脂肪", "糖類", "糖分", "食鹽"),
)  # fmt: skip
ASIAN_WORDS = (_JAPANESE, _KOREAN, _CHINESE)
_INDENTED = ("saturates", "sugars")

_CANADIAN = (
    (0, "Fat / Lipides", "fat", "g"), (1, "Saturated / saturés", "saturates", "g"),
    (1, "+ Trans / trans", "", "g"), (0, "Carbohydrate / Glucides", "carbohydrate", "g"),
    (1, "Fibre / Fibres", "fibre", "g"), (1, "Sugars / Sucres", "sugars", "g"),
    (0, "Protein / Protéines", "protein", "g"), (0, "Cholesterol / Cholestérol", "", "mg"),
    (0, "Sodium", "salt", "mg"), (0, "Potassium", "", "mg"), (0, "Calcium", "", "mg"), (0, "Iron / Fer", "", "mg"),
)  # fmt: skip
_OLD_US = (
    (0, "Total Fat", "fat", "g"), (1, "Saturated Fat", "saturates", "g"), (1, "Trans Fat", "", "g"),
    (1, "Polyunsaturated Fat", "", "g"), (1, "Monounsaturated Fat", "", "g"), (0, "Cholesterol", "", "mg"),
    (0, "Sodium", "salt", "mg"), (0, "Potassium", "", "mg"), (0, "Total Carbohydrate", "carbohydrate", "g"),
    (1, "Dietary Fiber", "fibre", "g"), (1, "Sugars", "sugars", "g"), (0, "Protein", "protein", "g"),
)  # fmt: skip
_ALWAYS = ("fat", "saturates", "carbohydrate", "sugars", "protein", "salt")
_VITAMINS = ("Vitamin A", "Vitamin C", "Vitamin D", "Vitamin E", "Thiamin", "Riboflavin", "Niacin", "Vitamin B6",
             "Folate", "Calcium", "Iron", "Phosphorus", "Magnesium", "Zinc")  # fmt: skip
_SODIUM_PER_SALT = 400  # mg per g


def asian_grid(rng: Random, ink: Ink) -> Panel:
    """The Japanese, Korean or Taiwanese label: often without rules, the daily share on the right."""
    titles, per_100, share, words = rng.choice(ASIAN_WORDS)
    amounts = draw_amounts(rng)
    shares = bool(share) and rng.random() < 0.6
    rows = [["", per_100, share][: 3 if shares else 2]]
    for name, word in zip(_ASIAN_NUTRIENTS, words, strict=True):
        if name in _INDENTED and rng.random() < 0.4:
            continue
        cell = f"{amounts.kcal:.0f} kcal" if name == "energy" else format_amount(name, amounts, ".")
        label = ("- " if name in _INDENTED and titles[0].startswith("栄") else "") + word
        rows.append([label, cell, daily_share(name, amounts)][: len(rows[0])])
    return grid(rows, rng.choice(titles), ink, draw_grid_style(rng))


def long_grid(rng: Random, ink: Ink) -> Panel:
    """Nutrients, then vitamins and minerals with their daily share, as on cereals and supplements."""
    language, amounts = rng.choice(LANGUAGES), draw_amounts(rng)
    rows = [["", language.per_100, "% NRV"]]
    rows += [
        [word, format_amount(name, amounts, language.decimal), daily_share(name, amounts)]
        for name, word in zip(NUTRIENTS, language.nutrients, strict=True)
    ]
    for name in rng.sample(_VITAMINS, rng.randint(3, len(_VITAMINS))):
        rows.append([name, f"{rng.uniform(0.1, 90):.1f} mg".replace(".", language.decimal), f"{rng.randint(5, 100)}%"])
    return grid(rows, rng.choice(language.titles), ink, draw_grid_style(rng))


def bilingual_facts(rng: Random, ink: Ink) -> Panel:
    """The Canadian label in English and French."""
    amounts = draw_amounts(rng).scaled(rng.choice((0.3, 0.5, 1.0)))
    panel = _new_label(max(rng.uniform(15, 19), text_width("Carbohydrate / Glucides 77g 30%%", ink.bold) + 1), ink)
    titles = ("Nutrition Facts", "Valeur nutritive")
    y = _titles(panel, titles if rng.random() < 0.8 else titles[::-1], ink)
    y = _small(panel, y, (f"Per {rng.randint(1, 9)} pieces ({rng.randint(20, 90)} g)", "pour 1 portion"), ink)
    y = thick_rule(panel, y + 0.1, 0.3, ink)
    panel.add(Text(0.5, y + 0.75, f"Calories {amounts.kcal:.0f}", ink.text, 1.3, ink.bold))
    panel.add(Text(panel.width - 0.5, y + 0.5, "% Daily Value*", ink.text, 0.65, ink.bold, "r"))
    panel.add(Text(panel.width - 0.5, y + 1.1, "% valeur quotidienne*", ink.text, 0.65, ink.bold, "r"))
    y = facts_rows(panel, y + 1.5, _lines(_CANADIAN, amounts, rng), ink)
    note = "*5% or less is a little, 15% or more is a lot / *5% ou moins c'est peu, 15% ou plus c'est beaucoup"
    return _closed(panel, _note(panel, y, note, ink), ink, rng)


def old_facts(rng: Random, ink: Ink) -> Panel:
    """The US label before 2016: vitamins in two columns, then daily values for two diets."""
    amounts = draw_amounts(rng).scaled(rng.choice((0.3, 0.5, 1.0)))
    panel = _new_label(max(rng.uniform(14, 17), 2 * text_width("• Phosphorus 25%", ink.regular)), ink)
    y = _titles(panel, ("Nutrition Facts",), ink)
    y = _small(panel, y, (f"Serving Size 1/{rng.randint(2, 4)} cup ({rng.randint(20, 240)}g)",
                          f"Servings Per Container about {rng.randint(2, 30)}"), ink)  # fmt: skip
    y = thick_rule(panel, y + 0.1, 0.5, ink)
    panel.add(Text(0.5, y + 0.5, "Amount Per Serving", ink.text, 0.75, ink.bold))
    panel.add(Bar(0.5, y + 1.0, panel.width - 0.5, y + 1.05, ink.text))
    panel.add(Text(0.5, y + 1.65, f"Calories {amounts.kcal:.0f}", ink.text, 1.0, ink.bold))
    fat = f"Calories from Fat {amounts.grams['fat'] * 9:.0f}"
    panel.add(Text(panel.width - 0.5, y + 1.65, fat, ink.text, 0.9, ink.regular, "r"))
    y = thick_rule(panel, y + 2.3, 0.25, ink)
    panel.add(Text(panel.width - 0.5, y + 0.55, "% Daily Value*", ink.text, 0.8, ink.bold, "r"))
    y = facts_rows(panel, y + 1.1, _lines(_OLD_US, amounts, rng), ink)
    names = rng.sample(_VITAMINS, rng.choice((2, 4, 4, 6, 10)))
    for left, right in zip(names[::2], names[1::2], strict=True):
        panel.add(Text(0.5, y + 0.6, f"{left} {rng.randint(0, 25)}%", ink.text, 0.9, ink.regular))
        panel.add(Text(panel.width / 2 + 0.5, y + 0.6, f"• {right} {rng.randint(0, 25)}%", ink.text, 0.9, ink.regular))
        y += 1.2
        panel.add(Bar(0.5, y, panel.width - 0.5, y + 0.05, ink.text))
    y = _note(panel, y, "*Percent Daily Values are based on a 2,000 calorie diet.", ink)
    if rng.random() < 0.5:
        y = _diets(panel, y, ink)
    return _closed(panel, y, ink, rng)


def _new_label(width: float, ink: Ink) -> Panel:
    """A label whose height is not known yet; `_closed` sets it."""
    panel = Panel(width, 0.0)
    if ink.paper:
        panel.add(Bar(0, 0, width, 0, ink.paper))
    return panel


def _closed(panel: Panel, y: float, ink: Ink, rng: Random) -> Panel:
    panel.height = y + 0.3
    if ink.paper:
        panel.marks[0] = Bar(0, 0, panel.width, panel.height, ink.paper)
    panel.frame(ink.text, rng.choice((0.08, 0.18)))
    return panel


def _titles(panel: Panel, titles: tuple[str, ...], ink: Ink) -> float:
    """Titles one below the other, each as wide as the label."""
    y = 0.3
    for title in titles:
        size = min(2.2, (panel.width - 1.0) / text_width(title, ink.bold))
        panel.add(Text(0.5, y + size / 2, title, ink.text, size, ink.bold))
        y += size * 1.05
    return y


def _small(panel: Panel, y: float, lines: tuple[str, ...], ink: Ink) -> float:
    for line in lines:
        panel.add(Text(0.5, y + 0.55, line, ink.text, 0.9, ink.regular))
        y += 1.1
    return y


def _lines(rows: tuple[tuple[int, str, str, str], ...], amounts: Amounts, rng: Random) -> list[Line]:
    """Indent, name, amount and daily value; nutrients that only some packs carry come and go."""
    lines = []
    for indent, word, name, unit in rows:
        if name not in _ALWAYS and rng.random() < 0.3:
            continue
        value = amounts.grams[name] if name else rng.uniform(0, 9)
        number = value * _SODIUM_PER_SALT if name == "salt" else value
        share = daily_share(name, amounts) if name else f"{rng.randint(0, 20)}%" if unit == "mg" else ""
        lines.append((indent, word, f"{number:.0f}{unit}", share))
    return lines


def _note(panel: Panel, y: float, note: str, ink: Ink) -> float:
    for line in wrap(note.split(), (panel.width - 1) / 0.75, ink.regular):
        panel.add(Text(0.5, y + 0.5, line, ink.text, 0.75, ink.regular))
        y += 0.9
    return y


def _diets(panel: Panel, y: float, ink: Ink) -> float:
    """The table of daily values for 2,000 and 2,500 calories."""
    rows = (("", "Calories:", "2,000", "2,500"), ("Total Fat", "Less than", "65g", "80g"),
            ("Sat Fat", "Less than", "20g", "25g"), ("Cholesterol", "Less than", "300mg", "300mg"),
            ("Sodium", "Less than", "2,400mg", "2,400mg"), ("Total Carb", "", "300g", "375g"))  # fmt: skip
    for row in rows:
        for x, cell in zip((0.5, 0.4 * panel.width, 0.64 * panel.width, 0.82 * panel.width), row, strict=True):
            if cell:
                panel.add(Text(x, y + 0.5, cell, ink.text, 0.65, ink.regular))
        y += 0.85
    return y
