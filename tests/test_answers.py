"""The answer grammar: a golden table typed by hand, and properties of the round trip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nutridet_core.answers import FAILURES, Form, Problem, read_answer, write_answer
from nutridet_core.boxes import Box, iou

THOUSAND = (1000, 1000)
NATIVE = "<|object_ref_start|>nutrition table<|object_ref_end|><|box_start|>(273,304),(713,679)<|box_end|>"
TRUTH = Box(0.273, 0.304, 0.713, 0.679)
JSON = '```json\n[\n\t{"bbox_2d": [273, 304, 713, 679], "label": "nutrition table"}\n]\n```'

# text, boxes in thousandths, form, problems; typed by hand from answers seen in public runs
GOLDEN = [
    pytest.param(NATIVE, [(273, 304, 713, 679)], Form.NATIVE, [], id="native tokens kept"),
    pytest.param("nutrition table(273,304),(713,679)", [(273, 304, 713, 679)], Form.PAIRS, [], id="tokens stripped"),
    pytest.param("nutrition-table(278,495),(726,625)", [(278, 495, 726, 625)], Form.PAIRS, [], id="seed's label"),
    pytest.param("nutrition table(273,304,713,679)", [(273, 304, 713, 679)], Form.FLAT, [], id="flat"),
    pytest.param("(273, 304), (713, 679)", [(273, 304, 713, 679)], Form.PAIRS, [], id="no label, spaces"),
    pytest.param("<box>(273,304),(713,679)</box>", [(273, 304, 713, 679)], Form.PAIRS, [], id="box element"),
    pytest.param("[[273, 304, 713, 679]]", [(273, 304, 713, 679)], Form.FLAT, [], id="nested list"),
    pytest.param(
        '```json\n[{"bbox_2d": [273, 304, 713, 679], "label": "nutrition table"}]\n```',
        [(273, 304, 713, 679)], Form.JSON, [], id="json bbox_2d",
    ),
    pytest.param(
        JSON.replace("\n]", ',\n\t{"label": "nutrition table", "bbox_2d": [10, 20, 90, 95]}\n]'),
        [(273, 304, 713, 679), (10, 20, 90, 95)], Form.JSON, [], id="two tables, one with its label first",
    ),
    pytest.param(
        JSON.replace("nutrition table", "barcode"), [], Form.JSON, [Problem.WRONG_LABEL], id="json, another object"
    ),
    pytest.param(
        '{"label": "barcode", "bbox_2d": [273, 304, 713, 679]}', [], Form.JSON, [Problem.WRONG_LABEL],
        id="json, another object's label first",
    ),
    pytest.param('{"bbox": [273, 304, 713, 679]}', [(273, 304, 713, 679)], Form.FLAT, [], id="json, another key"),
    pytest.param(
        JSON.replace("\n]\n```", ',\n\t{"bbo'), [(273, 304, 713, 679)], Form.JSON, [Problem.TRUNCATED],
        id="json, second box cut off before its numbers",
    ),
    pytest.param(
        JSON.replace("\n]\n```", ',\n\t{"bbox_2d": [10, 2'), [(273, 304, 713, 679)], Form.JSON, [Problem.TRUNCATED],
        id="json, second box cut off",
    ),
    pytest.param("```json\n[]\n```", [], Form.NEGATIVE, [], id="json, none"),
    pytest.param("(273.5,304.0),(713.0,679.5)", [(273.5, 304, 713, 679.5)], Form.PAIRS, [], id="floats on the grid"),
    pytest.param("[0.05,0.38,0.55,0.6]", [(50, 380, 550, 600)], Form.FLAT, [Problem.UNIT_FLOATS], id="unit floats"),
    pytest.param("(713,679),(273,304)", [(273, 304, 713, 679)], Form.PAIRS, [Problem.SWAPPED_CORNERS], id="swapped"),
    pytest.param(
        NATIVE + NATIVE.replace("273,304", "10,20").replace("713,679", "90,95"),
        [(273, 304, 713, 679), (10, 20, 90, 95)], Form.NATIVE, [], id="two tables",
    ),
    pytest.param(NATIVE * 3, [(273, 304, 713, 679)], Form.NATIVE, [Problem.DUPLICATE_BOX] * 2, id="repeats itself"),
    pytest.param("no nutrition table", [], Form.NEGATIVE, [], id="says there is none"),
    pytest.param("No table found.", [], Form.NEGATIVE, [], id="another way to say none"),
    pytest.param("[]", [], Form.NEGATIVE, [], id="empty list"),
    pytest.param("", [], Form.NONE, [Problem.NO_ANSWER], id="nothing"),
    pytest.param("The table is at the bottom.", [], Form.NONE, [Problem.NO_ANSWER], id="prose"),
    pytest.param("nutrition table(273,304),(713", [], Form.NONE, [Problem.TRUNCATED], id="cut off"),
    pytest.param(NATIVE[:-20], [], Form.NONE, [Problem.TRUNCATED], id="cut off inside a native box"),
    pytest.param(
        NATIVE + "<|object_ref_start|>nutrition ta", [(273, 304, 713, 679)], Form.NATIVE, [Problem.TRUNCATED],
        id="second box cut off",
    ),
    pytest.param("(273,304),(713)", [], Form.NONE, [Problem.BAD_SYNTAX], id="three numbers"),
    pytest.param("(1,2,3)", [], Form.NONE, [Problem.BAD_SYNTAX], id="triple"),
    pytest.param("(273,304),(713,1679)", [], Form.PAIRS, [Problem.OUT_OF_RANGE], id="beyond the photo"),
    pytest.param("(-5,304),(713,679)", [], Form.PAIRS, [Problem.OUT_OF_RANGE], id="negative"),
    pytest.param("(273,304),(273,679)", [], Form.PAIRS, [Problem.ZERO_AREA], id="no width"),
    pytest.param(
        NATIVE.replace("nutrition table", "barcode"), [], Form.NATIVE, [Problem.WRONG_LABEL], id="another object"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "boxes", "form", "problems"), GOLDEN)
def test_golden(text: str, boxes: list[tuple[float, ...]], form: Form, problems: list[Problem]) -> None:
    answer = read_answer(text, THOUSAND)
    assert [tuple(round(1000 * value, 6) for value in box.as_tuple()) for box in answer.boxes] == boxes
    assert (answer.form, list(answer.problems)) == (form, problems)
    assert answer.failed == bool(FAILURES & set(problems))


def test_pixels_of_the_resized_photo() -> None:
    """Qwen2.5-VL counts pixels after the resize, not thousandths."""
    answer = read_answer('{"bbox_2d": [126, 84, 252, 168]}', (252, 336))
    assert answer.boxes == (Box(0.5, 0.25, 1.0, 0.5),)


def test_the_text_a_model_learns() -> None:
    assert write_answer([TRUTH], THOUSAND) == NATIVE
    assert write_answer([], THOUSAND) == "no nutrition table"
    assert write_answer([TRUTH], THOUSAND, Form.JSON) == JSON
    assert write_answer([], THOUSAND, Form.JSON) == "```json\n[]\n```"
    with pytest.raises(ValueError, match="no family writes 'flat'"):
        write_answer([TRUTH], THOUSAND, Form.FLAT)


def test_boxes_are_written_in_reading_order() -> None:
    low, high = Box(0.1, 0.6, 0.3, 0.9), Box(0.5, 0.1, 0.9, 0.4)
    assert read_answer(write_answer([low, high], THOUSAND), THOUSAND).boxes == (high, low)


FORMS = st.sampled_from([Form.NATIVE, Form.JSON])


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x0, y0 = draw(st.floats(0, 0.99)), draw(st.floats(0, 0.99))
    return Box(x0, y0, draw(st.floats(x0 + 0.005, 1.0)), draw(st.floats(y0 + 0.005, 1.0)))


@given(boxes(), st.sampled_from([(1000, 1000), (252, 196), (784, 1176)]), FORMS)
def test_round_trip_is_exact_to_half_a_step(box: Box, extent: tuple[int, int], form: Form) -> None:
    """Rounding to the nearest step errs by at most half a step; a sliver that vanished keeps one whole step."""
    answer = read_answer(write_answer([box], extent, form), extent)
    assert not answer.problems
    assert answer.form is form
    (back,) = answer.boxes
    for steps, before, after in zip(
        extent * 2, (box.x0, box.y0, box.x1, box.y1), (back.x0, back.y0, back.x1, back.y1), strict=True
    ):
        wide = (box.x1 - box.x0) * extent[0] >= 1 and (box.y1 - box.y0) * extent[1] >= 1
        assert abs(before - after) * steps <= (0.5 if wide else 1.0) + 1e-6


@given(st.lists(boxes(), min_size=1, max_size=4, unique=True), FORMS)
def test_every_box_comes_back(many: list[Box], form: Form) -> None:
    back = read_answer(write_answer(many, THOUSAND, form), THOUSAND).boxes
    assert all(any(iou(box, other) > 0 for other in back) for box in many)


@given(st.text(alphabet=st.sampled_from('0123456789.,-()[]{}<>|":_ abnotbxse\n'), max_size=80))
def test_any_text_is_read_without_an_error(text: str) -> None:
    answer = read_answer(text, THOUSAND)
    assert answer.boxes or answer.problems or answer.form is Form.NEGATIVE


@given(st.integers(0, len(NATIVE)), st.sampled_from([NATIVE, JSON]))
def test_any_cut_of_an_answer_is_a_counted_failure_or_whole(end: int, whole: str) -> None:
    answer = read_answer(whole[:end], THOUSAND)
    assert answer.boxes or answer.failed
