"""The synthetic generator: determinism, boxes, shares of tables, and geometry that can be checked by hand."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from nutridet_core.boxes import Box
from nutridet_core.data.generated import LABELS, Drawing, draw_page, draw_product_photo
from nutridet_core.data.generated import photos as photos_module
from nutridet_core.data.generated.camera import Camera, Pose, clip, outline, visible_share
from nutridet_core.data.generated.crumple import Crumple
from nutridet_core.data.generated.fonts import FAMILIES, Family, Font
from nutridet_core.data.generated.fronts import paint_front
from nutridet_core.data.generated.hands import add_fingers, draw_grip
from nutridet_core.data.generated.languages import LANGUAGES, NUTRIENTS
from nutridet_core.data.generated.layouts import LAYOUTS
from nutridet_core.data.generated.nutrients import draw_amounts
from nutridet_core.data.generated.objects import BUILDERS, TABLE
from nutridet_core.data.generated.palettes import BLACK, WHITE, Ink
from nutridet_core.data.generated.panels import Panel, Text, paint, text_width
from nutridet_core.data.generated.pictures import fruit, heap, plate, scenery, texture
from nutridet_core.data.generated.regional import ASIAN_WORDS
from nutridet_core.data.generated.shapes import SHAPES, add_shape

Draw = Callable[[int, int], Drawing]
Layout = Callable[[random.Random, Ink], Panel]

PHOTOS = 150
INK = Ink(WHITE, BLACK, None, (180, 30, 30))


@pytest.fixture(scope="module")
def photos() -> list[Drawing]:
    return [draw_product_photo(7, index) for index in range(PHOTOS)]


@pytest.fixture(scope="module")
def pages() -> list[Drawing]:
    return [draw_page(7, index) for index in range(PHOTOS)]


def _tables(drawing: Drawing) -> int:
    return sum(label == TABLE for label, _ in drawing.objects)


@pytest.mark.parametrize("draw", [draw_product_photo, draw_page])
def test_same_seed_and_index_give_the_same_drawing(draw: Draw) -> None:
    first = draw(3, 11)
    random.seed(99)
    np.random.seed(99)  # global state must not matter
    draw(3, 12)  # nor what was drawn before
    second = draw(3, 11)
    assert first.objects == second.objects
    assert first.image.tobytes() == second.image.tobytes()


@pytest.mark.parametrize("draw", [draw_product_photo, draw_page])
def test_seed_and_index_both_matter(draw: Draw) -> None:
    assert len({draw(seed, index).image.tobytes() for seed, index in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4


def test_photo_sizes_and_mode(photos: list[Drawing]) -> None:
    assert all(d.image.mode == "RGB" for d in photos)
    assert all(448 <= max(d.image.size) <= 640 for d in photos)
    aspects = [d.image.width / d.image.height for d in photos]
    assert min(aspects) < 0.7
    assert max(aspects) > 1.3


def test_page_sizes_and_object_counts(pages: list[Drawing]) -> None:
    assert all(252 <= side <= 336 for d in pages for side in d.image.size)
    assert all(1 <= len(d.objects) <= 4 for d in pages)


def test_every_label_is_known_and_occurs_on_pages(photos: list[Drawing], pages: list[Drawing]) -> None:
    assert {label for d in photos for label, _ in d.objects} <= set(LABELS)
    assert {label for d in pages for label, _ in d.objects} == set(LABELS)


def test_shares_of_photos_by_number_of_tables(photos: list[Drawing]) -> None:
    counts = Counter(_tables(d) for d in photos)
    assert 0.12 < counts[0] / PHOTOS < 0.3
    assert 0.03 < sum(n for tables, n in counts.items() if tables >= 2) / PHOTOS < 0.16


def test_every_table_on_the_face_has_a_box(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[int] = []
    aim = photos_module._aim

    def spy(plan: photos_module.Plan, rng: random.Random) -> Camera:
        planned.append(len(plan.tables))
        return aim(plan, rng)

    monkeypatch.setattr(photos_module, "_aim", spy)
    drawn = [_tables(draw_product_photo(8, index)) for index in range(PHOTOS)]
    assert drawn == planned


@pytest.mark.parametrize("seed", range(12))
def test_fingers_stay_off_the_tables(seed: int) -> None:
    rng = random.Random(seed)
    tables = [(150.0, 120.0, 260.0, 300.0)]
    grip = draw_grip((90, 50, 320, 380), tables, (400, 400), rng)
    assert grip is not None
    image = Image.new("RGB", (400, 400), WHITE)
    add_fingers(image, grip, rng)
    inked = (np.asarray(image) != WHITE).any(axis=-1)
    assert inked.any()
    assert inked[120:300, 150:260].mean() < 0.01  # soft rims may touch its border


def test_no_hand_where_tables_reach_the_edges_of_the_pack() -> None:
    grips = [draw_grip((50, 50, 350, 350), [(52, 60, 348, 340)], (400, 400), random.Random(seed)) for seed in range(9)]
    assert grips == [None] * 9


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_hold_the_whole_print(kind: str) -> None:
    pack = (120.0, 220.0, 300.0, 380.0)
    for seed in range(5):
        canvas = Image.new("RGB", (420, 480), WHITE)
        shape = add_shape(canvas, pack, (200, 40, 40), kind, random.Random(seed))
        mask = Image.new("L", canvas.size)
        ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in shape], fill=255)
        assert np.asarray(mask)[222:379, 122:299].all()


def test_a_front_stays_inside_its_rectangle() -> None:
    for seed in range(8):
        canvas = Image.new("RGB", (300, 300), WHITE)
        paint_front(canvas, (60, 50, 220, 260), (30, 90, 60), random.Random(seed))
        inked = np.argwhere((np.asarray(canvas) != WHITE).any(axis=-1))
        assert inked.min(axis=0).tolist() >= [50, 60]
        assert inked.max(axis=0)[0] < 260
        assert inked.max(axis=0)[1] < 220
        front = canvas.crop((60, 50, 220, 260))
        assert len(front.getcolors(300 * 300) or []) > 10  # more than its ground


@pytest.mark.parametrize("kind", [fruit, heap, plate, scenery, texture])
def test_pictures_have_their_size_and_something_on_them(
    kind: Callable[[random.Random, tuple[int, int]], Image.Image],
) -> None:
    for seed in range(4):
        picture = kind(random.Random(seed), (70, 50))
        assert (picture.mode, picture.size) == ("RGBA", (70, 50))
        assert (np.asarray(picture)[..., 3] > 0).mean() > 0.02


def test_table_areas_span_close_ups_and_whole_packs(photos: list[Drawing]) -> None:
    areas = [box.area for d in photos for label, box in d.objects if label == TABLE]
    low, median, high = np.percentile(areas, (10, 50, 90))
    assert low < 0.12
    assert 0.15 < median < 0.4
    assert high > 0.5


def test_pages_rarely_repeat_a_label(pages: list[Drawing]) -> None:
    repeated = [max(Counter(label for label, _ in d.objects).values()) > 1 for d in pages]
    assert 0.02 < np.mean(repeated) < 0.2


def _has_letter(font: Font, letter: str) -> bool:
    """Whether the font draws `letter` as something other than the sign of a missing one."""
    sized = ImageFont.truetype(font.path, 32)
    return bytes(sized.getmask(letter)) != bytes(sized.getmask("\uffff"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_the_letters_of_every_language(family: Family) -> None:
    words = [w for lang in LANGUAGES for w in (*lang.words, *lang.nutrients, *lang.titles)]
    words += [w for titles, *_, nutrients in ASIAN_WORDS for w in (*titles, *nutrients)]
    faces = (family.regular, family.bold)
    needed = {(font.for_script(part), letter) for w in words for part in w.split() for letter in part for font in faces}
    assert [letter for font, letter in needed if not _has_letter(font, letter)] == []


def test_words_of_other_scripts_change_the_font_and_keep_its_stretch() -> None:
    lato = next(f for f in FAMILIES if f.regular.folder == "lato").condensed(0.8)
    chosen = [lato.bold.for_script(word) for word in ("Fett", "Жиры", "지방", "脂質", "たんぱく質")]
    assert [font.folder for font in chosen] == ["lato", "dejavu", "nanum", "ipaex", "ipaex"]
    assert {font.stretch for font in chosen} == {0.8}


@pytest.mark.parametrize("em", [9.0, 60.0])  # put together from letters, and rendered as a whole
def test_painted_words_are_as_wide_as_computed(em: float) -> None:
    for family in FAMILIES:
        for font in (family.regular, family.condensed(0.7).bold):
            panel = Panel(20, 1, [Text(0, 0.5, "Carbohydrates of which sugars", WHITE, 1.0, font)])
            canvas = Image.new("RGB", (1400, 100))
            paint(panel, canvas, 4, 10, em)
            columns = np.flatnonzero(np.asarray(canvas).any(axis=(0, 2)))
            width = text_width("Carbohydrates of which sugars", font) * em
            assert columns[-1] - columns[0] == pytest.approx(width, rel=0.06)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_table_ink_fills_its_panel_and_stays_inside(layout: Layout) -> None:
    em, margin = 16.0, 40
    for seed in range(9):
        panel = layout(random.Random(seed), replace(INK, family=FAMILIES[seed % len(FAMILIES)]))
        width, height = panel.width * em, panel.height * em
        canvas = Image.new("RGB", (round(width) + 2 * margin, round(height) + 2 * margin), WHITE)
        paint(panel, canvas, margin, margin, em)
        inked = np.argwhere((np.asarray(canvas) != WHITE).any(axis=-1))
        (top, left), (bottom, right) = inked.min(axis=0), inked.max(axis=0) + 1
        expected = (margin, margin, margin + width, margin + height)
        assert (left, top, right, bottom) == pytest.approx(expected, abs=0.95 * em)
        assert left >= margin - 2
        assert right <= margin + width + 0.3 * em  # sizes snap, so spaces may not shrink enough


@pytest.mark.parametrize("bend", [0.0, 0.9])
def test_box_bounds_the_pixels_that_the_camera_sees(bend: float) -> None:
    pose = Pose(roll=0.12, tilt=(0.15, -0.1), bend=bend, sag=0.2 if bend else 0.0)
    camera = Camera(pose, ((250, 200), (160, 150)), (0.7, 0.8), 420, 400)
    face = Image.new("RGB", (500, 400), BLACK)
    rect = (120, 100, 330, 290)
    face.paste((255, 255, 255), rect)
    seen = np.asarray(camera.take(face, (400, 400)).convert("L")) > 127
    (top, left), (bottom, right) = np.argwhere(seen).min(axis=0), np.argwhere(seen).max(axis=0) + 1
    assert camera.bounds(rect) == pytest.approx((left, top, right, bottom), abs=2.0)


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_boxes_follow_crumpled_foil(strength: float) -> None:
    smooth = Camera(Pose(roll=0.1), ((250, 200), (200, 200)), (0.8, 0.8), 420, 400)
    crumple = Crumple((400, 400), 7, strength, random.Random(5))
    camera = Camera(Pose(roll=0.1), ((250, 200), (200, 200)), (0.8, 0.8), 420, 400, crumple)
    face = Image.new("RGB", (500, 400), BLACK)
    rect = (150, 100, 350, 290)
    face.paste((255, 255, 255), rect)
    seen = np.asarray(camera.take(face, (400, 400)).convert("L")) > 127
    (top, left), (bottom, right) = np.argwhere(seen).min(axis=0), np.argwhere(seen).max(axis=0) + 1
    assert camera.bounds(rect) == pytest.approx((left, top, right, bottom), abs=2.0)
    moved = np.abs(camera.to_photo(outline(rect)) - smooth.to_photo(outline(rect))).max()
    assert moved > 2  # so the boxes above would be wrong without the field


def test_quarter_turns_carry_the_boxes_along() -> None:
    image = Image.new("RGB", (200, 100), BLACK)
    image.paste((255, 255, 255), (20, 30, 90, 60))
    drawing = Drawing(image, ((TABLE, Box.from_xyxy_px((20, 30, 90, 60), 200, 100)),))
    for _ in range(4):
        drawing = drawing.quarter_turned()
        white = np.argwhere(np.asarray(drawing.image.convert("L")) > 127)
        (top, left), (bottom, right) = white.min(axis=0), white.max(axis=0) + 1
        assert drawing.objects[0][1].to_px(*drawing.image.size) == pytest.approx((left, top, right, bottom))
    assert drawing.image.tobytes() == image.tobytes()


def test_frontal_camera_only_scales_and_shifts() -> None:
    camera = Camera(Pose(), ((100, 100), (50, 60)), (0.5, 0.25), 200, 200)
    assert camera.bounds((80, 80, 140, 120)) == pytest.approx((40, 55, 70, 65))


def test_quarter_turn_swaps_the_sides() -> None:
    camera = Camera(Pose(roll=np.pi / 2), ((0, 0), (50, 50)), (1, 1), 100, 100)
    assert camera.bounds((-20, -10, 20, 10)) == pytest.approx((40, 30, 60, 70))


@pytest.mark.parametrize("bend", [0.0, 0.8])
def test_to_face_inverts_to_photo(bend: float) -> None:
    camera = Camera(Pose(0.1, (0.2, 0.1), bend, 0.1), ((200, 150), (180, 170)), (0.8, 0.8), 400, 400)
    points = np.array([[100.0, 80.0], [250.0, 220.0], [200.0, 150.0]])
    assert camera.to_face(camera.to_photo(points)) == pytest.approx(points)


def test_clipping_and_visible_share() -> None:
    assert clip((-10, 20, 50, 140), (100, 100)) == (0, 20, 50, 100)
    assert visible_share((-50, 0, 50, 100), (100, 100)) == pytest.approx(0.5)
    assert visible_share((120, 0, 150, 100), (100, 100)) == 0


def test_every_language_names_every_nutrient() -> None:
    assert all(len(language.nutrients) == len(NUTRIENTS) for language in LANGUAGES)


def test_amounts_are_consistent() -> None:
    for seed in range(50):
        grams = draw_amounts(random.Random(seed)).grams
        assert grams["saturates"] <= grams["fat"]
        assert grams["sugars"] <= grams["carbohydrate"]
        assert grams["fat"] + grams["carbohydrate"] + grams["protein"] <= 98.5


@pytest.mark.parametrize("label", LABELS)
def test_every_builder_makes_a_panel_with_extent(label: str) -> None:
    for seed in range(5):
        panel = BUILDERS[label](random.Random(seed), INK)
        assert panel.width > 1
        assert panel.height > 1
        assert panel.marks
