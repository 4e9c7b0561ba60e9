"""Boxes on photos: where the colours are, what stays untouched, and what odd photos do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from nutridet_core.boxes import FULL_IMAGE, Box
from nutridet_core.overlay import (
    PREDICTED_COLOUR,
    TRUTH_COLOUR,
    add_strip,
    contact_sheet,
    draw_boxes,
    mark_boxes,
    predicted_files,
)

GREY = (90, 90, 90)
INNER = Box(0.25, 0.25, 0.75, 0.75)


def _photo(width: int = 400, height: int = 300) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def _mask(image: Image.Image, colour: str) -> np.ndarray:
    """Where the image has exactly this colour, shape (height, width)."""
    return (np.asarray(image) == ImageColor.getrgb(colour)).all(axis=-1)


def test_truth_is_a_closed_green_line_at_the_box_and_nothing_inside() -> None:
    green = _mask(mark_boxes(_photo(), [INNER], []), TRUTH_COLOUR)
    rows, columns = np.nonzero(green)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (100, 75, 300, 225)
    assert green[75, 100:301].all(), "the top side has a gap"
    assert green[75:226, 300].all(), "the right side has a gap"
    assert not green[100:200, 130:270].any(), "the inside must stay readable"


def test_predicted_is_dashed_orange_with_every_corner_drawn() -> None:
    orange = _mask(mark_boxes(_photo(), [], [INNER]), PREDICTED_COLOUR)
    top = orange[75, 100:301]
    assert 0.3 < top.mean() < 0.8, "dashes and gaps"
    for y, x in ((75, 101), (75, 299), (225, 101), (225, 299)):
        assert orange[y, x]


def test_both_stay_visible_when_they_coincide() -> None:
    marked = mark_boxes(_photo(), [INNER], [INNER])
    assert _mask(marked, TRUTH_COLOUR).sum() > 100
    assert _mask(marked, PREDICTED_COLOUR).sum() > 100


def test_pixels_away_from_the_boxes_are_those_of_the_photo() -> None:
    marked = np.asarray(mark_boxes(_photo(), [INNER], [INNER]))
    assert (marked[:60] == GREY).all()
    assert (marked[100:200, 130:270] == GREY).all()


def test_a_box_around_the_whole_photo_keeps_all_four_sides() -> None:
    green = _mask(mark_boxes(_photo(), [FULL_IMAGE], []), TRUTH_COLOUR)
    for side in (green[:3], green[-3:], green[:, :3], green[:, -3:]):
        assert side.any(axis=0 if side.shape[0] == 3 else 1).mean() > 0.95


def test_dashes_at_the_edge_are_as_thick_as_elsewhere() -> None:
    whole, inner = (_mask(mark_boxes(_photo(), [], [box]), PREDICTED_COLOUR) for box in (FULL_IMAGE, INNER))
    at_corner = [whole[:8, 6], whole[-8:, 6], whole[6, :8], whole[6, -8:]]
    inside = [inner[70:80, 106], inner[220:230, 106], inner[81, 95:105], inner[81, 295:305]]
    assert [line.sum() for line in at_corner] == [line.sum() for line in inside]


@pytest.mark.parametrize(("size", "expected"), [((300, 200), 2), ((1600, 900), 10)])
def test_the_line_grows_with_the_photo(size: tuple[int, int], expected: int) -> None:
    green = _mask(mark_boxes(_photo(*size), [INNER], [], max_side=2000), TRUTH_COLOUR)
    assert green[:, size[0] // 2].sum() == 2 * expected


def test_large_photos_shrink_and_small_ones_are_not_enlarged() -> None:
    assert mark_boxes(_photo(3000, 1500), [], [], max_side=480).size == (480, 240)
    assert mark_boxes(_photo(200, 100), [], [], max_side=480).size == (200, 100)


def test_the_photo_given_is_not_changed() -> None:
    photo = _photo()
    draw_boxes(photo, [INNER], [INNER], caption="IoU 1.00")
    assert photo.size == (400, 300)
    assert photo.getcolors() == [(400 * 300, GREY)]


def test_the_strip_lies_below_the_photo() -> None:
    marked, tile = mark_boxes(_photo(), [INNER], []), draw_boxes(_photo(), [INNER], [], caption="IoU 0.00")
    assert tile.width == 400
    assert 310 < tile.height < 360
    assert (np.asarray(tile)[:300] == np.asarray(marked)).all()


def test_the_legend_names_only_what_there_is() -> None:
    unlabelled = np.asarray(draw_boxes(_photo(), [], [INNER]))[300:]
    labelled = np.asarray(draw_boxes(_photo(), [INNER], [INNER]))[300:]
    assert not _mask(Image.fromarray(unlabelled), TRUTH_COLOUR).any()
    assert _mask(Image.fromarray(labelled), TRUTH_COLOUR).any()
    nothing = np.asarray(draw_boxes(_photo(), [INNER], []))[300:]
    assert nothing.shape == labelled.shape
    assert (nothing != labelled).any(), "an answer without a box must say so"


def test_the_caption_is_shown_and_cut_to_the_width() -> None:
    plain, short, long = (draw_boxes(_photo(), [], [INNER], caption=text) for text in (None, "IoU 0.83", "word " * 80))
    assert (np.asarray(plain) != np.asarray(short)).any()
    assert long.width == plain.width
    assert long.height > short.height, "a long caption takes its own line"
    assert (np.asarray(long)[:, -2:][302:] == 255).all(), "text ran over the edge"


def test_a_caption_of_several_lines_becomes_one() -> None:
    assert list(add_strip(_photo(), [], [], caption="a\nb").getdata()) == list(
        add_strip(_photo(), [], [], caption="a b").getdata()
    )


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    tile = draw_boxes(_photo().convert(mode), [INNER], [INNER])
    assert tile.mode == "RGB"
    assert _mask(tile, TRUTH_COLOUR).any()


@pytest.mark.parametrize("size", [(4000, 8), (8, 4000), (1, 1)])
def test_extreme_photos_still_give_a_tile(size: tuple[int, int]) -> None:
    tile = draw_boxes(_photo(*size), [FULL_IMAGE], [INNER], caption="IoU 0.25")
    assert tile.width >= 140
    assert tile.height > 20


def test_a_sheet_fills_rows_from_the_left() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = contact_sheet([Image.new("RGB", (50, 40), colour) for colour in colours], 2)
    assert sheet.size == (2 * 50 + 3 * 8, 2 * 40 + 3 * 8)
    assert [sheet.getpixel(at) for at in ((20, 20), (80, 20), (20, 70))] == colours
    assert [sheet.getpixel(at) for at in ((65, 20), (66, 20), (115, 20), (8, 55), (8, 56))] == [
        sheet.getpixel((0, 0)), colours[1], colours[1], sheet.getpixel((0, 0)), colours[2]
    ]  # fmt: skip


def test_a_sheet_keeps_tiles_of_different_sizes_apart() -> None:
    tiles = [Image.new("RGB", size, (255, 0, 0)) for size in ((50, 90), (30, 20), (10, 10))]
    red = (np.asarray(contact_sheet(tiles, 2)) == (255, 0, 0)).all(axis=-1)
    assert red.sum() == sum(tile.width * tile.height for tile in tiles)


@pytest.mark.parametrize(("tiles", "columns"), [(0, 3), (3, 0)])
def test_a_sheet_of_nothing_is_refused(tiles: int, columns: int) -> None:
    with pytest.raises(ValueError, match="make no sheet"):
        contact_sheet([_photo()] * tiles, columns)


def test_photos_of_the_same_name_do_not_overwrite_each_other():
    photos = [Path("a/front.jpg"), Path("b/front.png"), Path("b/back.jpg")]
    names = [path.name for path in predicted_files(photos, Path("out"))]
    assert names == ["front.boxes.png", "front-2.boxes.png", "back.boxes.png"]
