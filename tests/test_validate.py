"""Validation and the image loader: what is kept, what is set aside and why, and that no bytes make them raise."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from nutridet_core.boxes import Box
from nutridet_core.data.examples import BoxFormat, Candidate, Example, Rejection
from nutridet_core.data.photos import MAX_ASPECT, MAX_BYTES, PhotoError, Reason, load_photo
from nutridet_core.data.validate import accept
from tests.photo_files import BOX, HEIGHT, UNIT, WIDTH, encode, huge_png, picture

GOOD = encode(picture(1))
FORMATS: dict[BoxFormat, tuple[float, ...]] = {
    "xyxy_px": BOX,
    "xywh_px": (16, 8, 80, 16),
    "xyxy_unit": UNIT,
    "yxyx_unit": (0.125, 0.125, 0.375, 0.75),
}
NAN, INF = math.nan, math.inf


def candidate(**changes: Any) -> Candidate:
    plain: dict[str, Any] = {
        "id": "a.png",
        "image": GOOD,
        "boxes": (BOX,),
        "box_format": "xyxy_px",
        "barcode": "400",
        "split": None,
        "where": "index.json line 1 a.png",
    }
    return Candidate(**(plain | changes))


def kept(**changes: Any) -> Example:
    found = accept(candidate(**changes))
    assert isinstance(found, Example), found
    return found


def refused(**changes: Any) -> Rejection:
    found = accept(candidate(**changes))
    assert isinstance(found, Rejection), found
    assert (found.id, found.where) == ("a.png", "index.json line 1 a.png")
    return found


def test_a_good_photo_is_stored_byte_for_byte() -> None:
    example = kept()
    assert example.image == GOOD
    assert (example.width, example.height) == (WIDTH, HEIGHT)
    assert example.boxes == (Box(*UNIT),)
    assert example.flags == ()


@pytest.mark.parametrize("box_format", FORMATS)
def test_every_box_format_means_the_same_box(box_format: BoxFormat) -> None:
    example = kept(box_format=box_format, boxes=(FORMATS[box_format],))
    assert example.boxes == (Box(*UNIT),)
    inside = example.open().crop(example.boxes[0].to_px(WIDTH, HEIGHT))
    assert np.asarray(inside).min() == 255


@pytest.mark.parametrize(
    ("box_format", "box", "reason"),
    [
        ("xyxy_px", (16, 8, WIDTH + 1.5, 24), Reason.BOX_OUTSIDE),
        ("xyxy_px", (-1.5, 8, 96, 24), Reason.BOX_OUTSIDE),
        ("xywh_px", (100, 8, 40, 16), Reason.BOX_OUTSIDE),
        ("xyxy_unit", (0.1, 0.1, 1.01, 0.9), Reason.BOX_OUTSIDE),  # more than 1 px of 128
        ("yxyx_unit", (0.1, 0.1, 1.02, 0.9), Reason.BOX_OUTSIDE),  # more than 1 px of 64
        ("xyxy_unit", BOX, Reason.BOX_OUTSIDE),  # pixels where shares belong
        ("xyxy_px", (16, 8, 16, 24), Reason.BOX_ZERO_AREA),
        ("xywh_px", (16, 8, 80, 0), Reason.BOX_ZERO_AREA),
        ("xyxy_px", (WIDTH, 8, WIDTH + 1, 24), Reason.BOX_ZERO_AREA),  # nothing left after clamping
        ("xyxy_px", (96, 8, 16, 24), Reason.BOX_SWAPPED),
        ("xyxy_px", (16, 24, 96, 8), Reason.BOX_SWAPPED),
        ("xywh_px", (96, 24, -80, -16), Reason.BOX_SWAPPED),
        ("yxyx_unit", (0.9, 0.1, 0.1, 0.9), Reason.BOX_SWAPPED),
        ("xyxy_px", (16, 8, NAN, 24), Reason.BOX_NOT_FINITE),
        ("xyxy_unit", (0, 0, INF, 1), Reason.BOX_NOT_FINITE),
        ("xyxy_px", (16, 8, 96), Reason.BOX_MALFORMED),
        ("xyxy_px", (), Reason.BOX_MALFORMED),
        ("xyxy_px", (16, 8, 96, 24, 1), Reason.BOX_MALFORMED),
    ],
)
def test_a_bad_box_sets_its_photo_aside(box_format: BoxFormat, box: tuple[float, ...], reason: Reason) -> None:
    rejection = refused(box_format=box_format, boxes=(FORMATS[box_format], box))
    assert rejection.reason == reason
    assert "box" in rejection.detail


@pytest.mark.parametrize(
    ("box_format", "box"),
    [("xyxy_px", (-0.9, -0.9, WIDTH + 0.9, HEIGHT + 0.9)), ("xyxy_unit", (-0.007, -0.015, 1.007, 1.015))],
)
def test_up_to_one_pixel_outside_is_clamped(box_format: BoxFormat, box: tuple[float, ...]) -> None:
    assert kept(box_format=box_format, boxes=(box,)).boxes == (Box(0, 0, 1, 1),)


@given(
    st.sampled_from(sorted(FORMATS)),
    st.lists(st.one_of(st.floats(), st.floats(-2, 130), st.floats(-0.1, 1.1)), max_size=5),
)
@settings(deadline=None)
def test_any_numbers_give_a_valid_box_or_a_reason(box_format: BoxFormat, values: list[float]) -> None:
    found = accept(candidate(box_format=box_format, boxes=(tuple(values),)))
    if isinstance(found, Example):
        x0, y0, x1, y1 = found.boxes[0].as_tuple()
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
    else:
        assert found.reason.startswith("box_")


def cut(kind: str) -> bytes:
    data = encode(picture(1), kind)
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", Reason.UNREADABLE, id="empty"),
        pytest.param(b"<html>404</html>", Reason.UNREADABLE, id="no photo"),
        pytest.param(encode(picture(1).quantize(), "GIF"), Reason.UNREADABLE, id="another format"),
        pytest.param(Path(__file__).with_name("missing.jpg"), Reason.UNREADABLE, id="missing"),
        pytest.param(Path(__file__).parent, Reason.UNREADABLE, id="folder"),
        pytest.param(cut("JPEG"), Reason.TRUNCATED, id="half a JPEG"),
        pytest.param(cut("PNG"), Reason.TRUNCATED, id="half a PNG"),
        pytest.param(huge_png(60_000, 60_000), Reason.TOO_MANY_PIXELS, id="bomb"),
        pytest.param(huge_png(9_440, 9_440), Reason.TOO_MANY_PIXELS, id="below Pillow's own limit"),
        pytest.param(encode(Image.new("RGB", (2 * MAX_ASPECT + 1, 2))), Reason.EXTREME_ASPECT, id="wide"),
        pytest.param(encode(Image.new("RGB", (2, 2 * MAX_ASPECT + 1))), Reason.EXTREME_ASPECT, id="tall"),
    ],
)
def test_a_bad_photo_is_set_aside(data: bytes | Path, reason: Reason) -> None:
    assert refused(image=data, boxes=()).reason == reason


def test_half_a_webp_is_set_aside() -> None:
    assert refused(image=cut("WEBP")).reason in (
        Reason.TRUNCATED,
        Reason.UNREADABLE,
    )  # libwebp says only that it failed


def test_the_longest_photo_that_the_model_takes_is_kept() -> None:
    assert kept(image=encode(Image.new("RGB", (2 * MAX_ASPECT, 2))), boxes=()).width == 2 * MAX_ASPECT


def test_a_file_that_is_too_large_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(GOOD)
    os.truncate(file, MAX_BYTES + 1)  # sparse
    monkeypatch.delattr(Path, "read_bytes")
    assert refused(image=file).reason == Reason.TOO_MANY_BYTES


def test_too_many_bytes_in_an_index_are_set_aside() -> None:
    assert refused(image=GOOD + bytes(MAX_BYTES)).reason == Reason.TOO_MANY_BYTES


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8), st.data())
@settings(deadline=None, max_examples=150)
def test_damaged_bytes_never_raise(damage: list[tuple[float, int]], data: st.DataObject) -> None:
    content = bytearray(encode(picture(1), data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))))
    for position, value in damage:
        content[int(position * len(content))] = value
    accept(candidate(image=bytes(content)))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), (254, 0, 0), id="CMYK"),
        pytest.param(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), (255, 255, 255), id="transparent is white"),
        pytest.param(Image.new("RGBA", (32, 32), (200, 0, 0, 51)), (244, 204, 204), id="half transparent"),
        pytest.param(Image.new("LA", (32, 32), (40, 255)), (40, 40, 40), id="grey with alpha"),
        pytest.param(Image.new("RGB", (32, 32), (10, 200, 30)).quantize(4), (10, 200, 30), id="palette"),
        pytest.param(Image.fromarray(np.full((32, 32), 128 * 257, np.uint16)), (128, 128, 128), id="16 bit"),
        pytest.param(Image.new("L", (32, 32), 77), (77, 77, 77), id="grey"),
        pytest.param(Image.new("1", (32, 32), 1), (255, 255, 255), id="black and white"),
    ],
)
def test_every_mode_becomes_rgb(image: Image.Image, expected: tuple[int, int, int]) -> None:
    example = kept(image=encode(image, "JPEG" if image.mode == "CMYK" else "PNG"), boxes=())
    assert example.flags == ("reencoded",)
    with Image.open(io.BytesIO(example.image)) as stored:
        assert stored.mode == "RGB"
    assert np.asarray(example.open()) == pytest.approx(np.full((32, 32, 3), expected), abs=2)


def test_a_transparent_palette_colour_is_white() -> None:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert kept(image=encode(image, transparency=0), boxes=()).open().getpixel((5, 5)) == (255, 255, 255)


# How a camera that was turned stores a picture, by the orientation that it notes.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turned(orientation: int, kind: str = "PNG") -> bytes:
    """`picture(1)` as such a camera stores it."""
    transpose, exif = STORED[orientation], Image.Exif()
    exif[0x0112] = orientation
    upright = picture(1)
    return encode(upright if transpose is None else upright.transpose(transpose), kind, exif=exif)


@pytest.mark.parametrize("orientation", STORED)
def test_exif_rotation_is_applied_once_and_boxes_are_upright(orientation: int) -> None:
    example = kept(image=turned(orientation), size=(WIDTH, HEIGHT))
    stored = Image.open(io.BytesIO(example.image))
    assert stored.getexif().get(0x0112, 1) == 1
    for reader in (load_photo(example.image), ImageOps.exif_transpose(stored), stored):
        assert reader.tobytes() == picture(1).tobytes()
    assert example.boxes == (Box(*UNIT),)
    assert example.pixels_sha256 == kept().pixels_sha256


def test_a_turned_jpeg_is_stored_upright() -> None:
    example = kept(image=turned(6, "JPEG"))
    assert (example.width, example.height) == (WIDTH, HEIGHT)
    assert np.asarray(example.open().crop(BOX)).mean() > 240
    assert example.flags == ("reencoded",)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_an_unreadable_exif_block_costs_nothing() -> None:
    example = kept(image=encode(picture(1), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"))
    assert example.open().size == (WIDTH, HEIGHT)


def test_pixels_hash_alike_in_any_container() -> None:
    assert kept(image=encode(picture(1), "WEBP", lossless=True)).pixels_sha256 == kept().pixels_sha256
    assert kept(image=encode(picture(2))).pixels_sha256 != kept().pixels_sha256


@pytest.mark.parametrize(
    ("box_format", "size", "fits"),
    [
        ("xyxy_px", (WIDTH, HEIGHT), True),
        ("xyxy_px", (2 * WIDTH, 2 * HEIGHT), False),
        ("xywh_px", (HEIGHT, WIDTH), False),
        ("yxyx_unit", (2 * WIDTH, 2 * HEIGHT), True),
        ("yxyx_unit", (HEIGHT, WIDTH), False),
    ],
)
def test_an_index_must_mean_the_frame_of_the_photo(box_format: BoxFormat, size: tuple[int, int], fits: bool) -> None:
    found = accept(candidate(box_format=box_format, boxes=(FORMATS[box_format],), size=size))
    assert isinstance(found, Example) == fits
    if isinstance(found, Rejection):
        assert found.reason == Reason.SIZE_MISMATCH
        assert ("EXIF" in found.detail) == (size == (HEIGHT, WIDTH))


def test_doubtful_labels_are_kept_and_flagged() -> None:
    assert kept(boxes=((16, 8, 18, 9),)).flags == ("tiny_box",)
    assert kept(boxes=(BOX, (16, 8, 97, 24))).flags == ("overlapping_boxes",)


def test_the_loader_says_where_what_and_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(cut("JPEG"))
    with pytest.raises(PhotoError) as error:
        load_photo(file)
    assert error.value.reason == Reason.TRUNCATED
    assert str(error.value).startswith(f"{file} [pixels]: is cut off")
    assert error.value.remedy
