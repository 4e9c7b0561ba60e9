"""The peer: which lines of text make a table, and the real OCR on one photo drawn here."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest
from PIL import Image, ImageDraw, ImageFont

from nutridet_core.answers import Form
from nutridet_core.boxes import Box, iou
from nutridet_core.errors import SettingsError
from nutridet_core.evaluation.peer import Line, find_table, form_of, line_reader

NUTRIENTS = (("Energy", "1523 kJ"), ("Fat", "12 g"), ("Sugars", "4.5 g"), ("Protein", "8 g"), ("Salt", "0.9 g"))
INGREDIENTS = "Ingredients: sugar, palm fat, skimmed milk powder, salt, milk protein, fibre"
SIZE = 800, 600


def table(x: float, y: float, rows: Sequence[tuple[str, str]] = NUTRIENTS, height: float = 20) -> list[Line]:
    """Words at `x`, values 150 px to their right, one row every 1.5 line heights."""
    lines = []
    for number, (word, value) in enumerate(rows):
        top = y + 1.5 * height * number
        lines += [
            Line(word, x, top, x + 80, top + height),
            Line(value, x + 150, top, x + 210, top + height),
        ]
    return lines


def hull(x: float, y: float, rows: int) -> Box:
    return Box.from_xyxy_px((x, y, x + 210, y + 30 * (rows - 1) + 20), *SIZE)


def test_the_box_is_the_hull_of_words_and_values() -> None:
    assert find_table(table(100, 200), *SIZE) == hull(100, 200, 5)


def test_order_of_lines_decides_nothing() -> None:
    assert find_table(table(100, 200)[::-1], *SIZE) == hull(100, 200, 5)


def test_text_elsewhere_is_left_out() -> None:
    others = [Line("Crunchy Oats", 100, 20, 500, 80), Line("Best before 12/2026", 100, 560, 300, 580)]
    assert find_table([*others, *table(100, 200)], *SIZE) == hull(100, 200, 5)


def test_a_value_without_a_word_on_its_row_is_left_out() -> None:
    assert find_table([*table(100, 200), Line("500 g", 250, 380, 310, 400)], *SIZE) == hull(100, 200, 5)


def test_of_two_blocks_the_one_with_more_nutrients_counts() -> None:
    larger, smaller = table(500, 50), table(20, 400, NUTRIENTS[:3])
    assert find_table([*smaller, *larger], *SIZE) == hull(500, 50, 5)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        table(100, 200, NUTRIENTS[1:3]),
        [Line("Oats", 0, 0, 90, 20), Line("Honey", 0, 30, 90, 50), Line("500 g", 0, 60, 90, 80)],
        [Line(INGREDIENTS, 0, 20 * n, 500, 20 * n + 18) for n in range(4)],
    ],
    ids=["nothing", "two nutrients", "no nutrient", "long lines of ingredients"],
)  # fmt: skip
def test_too_few_nutrients_are_no_table(lines: list[Line]) -> None:
    assert find_table(lines, *SIZE) is None


@pytest.mark.parametrize(
    "words",
    [
        ("Brennwert", "Fett", "Kohlenhydrate", "Eiweiß", "Salz"),
        ("Énergie", "Matières grasses", "Glucides", "Protéines", "Sel"),
        ("Valor energético", "Grasas", "Hidratos de carbono", "Proteínas", "Sal"),
        ("Energia", "Tłuszcz", "Węglowodany", "Białko", "Sól"),
        ("CALORIES 120", "TOTAL FAT", "SODIUM", "CHOLESTEROL", "DIETARY FIBER"),
    ],
    ids=["de", "fr", "es", "pl", "us"],
)
def test_languages(words: tuple[str, ...]) -> None:
    assert find_table(table(100, 200, [(word, "1 g") for word in words]), *SIZE) == hull(100, 200, 5)


def test_a_table_that_leaves_the_photo_is_cut_at_its_edge() -> None:
    found = find_table(table(-30, 530, height=25), *SIZE)
    assert found is not None
    assert (found.x0, found.y1) == (0.0, 1.0)


def test_the_peer_is_never_malformed() -> None:
    assert form_of(None) is Form.NEGATIVE
    assert form_of(hull(100, 200, 5)) is Form.FLAT


def test_without_ocr_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(SettingsError, match=r"pip install 'nutridet\[peers\]'"):
        line_reader()


def test_the_real_ocr_finds_a_drawn_table_and_nothing_on_a_blank_photo() -> None:
    pytest.importorskip("rapidocr")
    photo, font = Image.new("RGB", SIZE, "white"), ImageFont.load_default(26)
    pen = ImageDraw.Draw(photo)
    pen.text((60, 40), "CRUNCHY OATS", fill="black", font=ImageFont.load_default(50))
    for row, (word, value) in enumerate((("Nutrition per 100 g", ""), *NUTRIENTS)):
        pen.text((300, 200 + 45 * row), word, fill="black", font=font)
        pen.text((580, 200 + 45 * row), value, fill="black", font=font)
    read = line_reader()
    lines = read(photo)
    assert {"Energy", "Protein"} <= {line.text.strip() for line in lines}
    found = find_table(lines, *SIZE)
    assert found is not None
    assert iou(found, Box.from_xyxy_px((300, 200, 680, 455), *SIZE)) > 0.7
    assert find_table(read(Image.new("RGB", SIZE, "white")), *SIZE) is None
