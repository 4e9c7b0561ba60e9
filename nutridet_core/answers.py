"""The answer grammar: boxes to the text a model should write, and any text back to boxes.

Belongs here: the grounding grammars of the families and a parser that survives every form seen in
the wild. Does not belong here: which family writes which (`families`), prompts (`prompts`) or
scoring (`evaluation.scores`).

Writing is strict, reading is lenient: a model's answer may be bad, and then it is *counted* in
`Answer.problems`; it never raises. Coordinates are written on a grid of `extent` steps: 1000 x 1000
for Qwen2-VL and Qwen3-VL, pixels of the resized photo for Qwen2.5-VL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from nutridet_core.boxes import Box

OBJECT_START, OBJECT_END = "<|object_ref_start|>", "<|object_ref_end|>"
BOX_START, BOX_END = "<|box_start|>", "<|box_end|>"
LABEL = "nutrition table"
NO_TABLE = "no nutrition table"

Extent = tuple[int, int]
"""Steps of the coordinate grid across and down, e.g. (1000, 1000)."""


class Form(StrEnum):
    """How the boxes were written."""

    NATIVE = "native"
    """With the family's special tokens."""
    PAIRS = "pairs"
    """`(a,b),(c,d)`: the native form after special tokens were stripped."""
    FLAT = "flat"
    """`(a,b,c,d)` or `[a,b,c,d]`."""
    JSON = "json"
    """`{"bbox_2d": [a,b,c,d], "label": "..."}`, as Qwen2.5-VL and Qwen3-VL write it."""
    NEGATIVE = "negative"
    """The answer says that there is no table."""
    NONE = "none"
    """No box and no such statement."""


class Problem(StrEnum):
    """What was wrong with an answer. `FAILURES` are those that cost the answer or one of its boxes."""

    NO_ANSWER = "no_answer"
    BAD_SYNTAX = "bad_syntax"
    TRUNCATED = "truncated"
    OUT_OF_RANGE = "out_of_range"
    ZERO_AREA = "zero_area"
    WRONG_LABEL = "wrong_label"
    SWAPPED_CORNERS = "swapped_corners"
    UNIT_FLOATS = "unit_floats"
    DUPLICATE_BOX = "duplicate_box"


FAILURES = frozenset(Problem) - {Problem.SWAPPED_CORNERS, Problem.UNIT_FLOATS, Problem.DUPLICATE_BOX}


@dataclass(frozen=True)
class Answer:
    """What a model's text says: its valid boxes (unit 0..1), how they were written, what was wrong."""

    text: str
    boxes: tuple[Box, ...]
    form: Form
    problems: tuple[Problem, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the text could not be read in full."""
        return not FAILURES.isdisjoint(self.problems)


def write_answer(boxes: Sequence[Box], extent: Extent, form: Form = Form.NATIVE) -> str:
    """The text that a model is trained to write, boxes in reading order, without the terminator.

    Raises:
        ValueError: when no family writes that form.
    """
    in_order = [_to_grid(box, extent) for box in sorted(boxes, key=lambda box: (box.y0, box.x0))]
    if form is Form.NATIVE:
        return "".join(_native(corners) for corners in in_order) or NO_TABLE
    if form is Form.JSON:
        return _fenced_json(in_order)
    raise ValueError(f"no family writes {form.value!r}")


def without_terminators(text: str) -> str:
    """A generated text without terminator and padding; the grammar's own tokens stay."""
    return text.split("<|im_end|>")[0].split("<|endoftext|>")[0].strip()


def read_answer(text: str, extent: Extent) -> Answer:
    """Boxes, form and problems of any text. Never raises."""
    boxes: dict[Box, None] = {}
    problems: list[Problem] = []
    matches = list(_BOX.finditer(text))
    for match in matches:
        box, found = _read_box(match, extent)
        problems += found
        if box in boxes:
            problems.append(Problem.DUPLICATE_BOX)
        elif box is not None:
            boxes[box] = None
    problems += _leftovers(text, matches)
    form = _form(text, matches)
    if form is Form.NONE and not problems:
        problems.append(Problem.NO_ANSWER)
    return Answer(text, tuple(boxes), form, tuple(problems))


_NUMBER = r"\s*([+-]?\d+(?:\.\d+)?)\s*"
_PAIRS = rf"\({_NUMBER},{_NUMBER}\)\s*,?\s*\({_NUMBER},{_NUMBER}\)"
_FLAT = rf"[(\[]{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}[)\]]"
_BOX = re.compile(
    rf"(?:{re.escape(OBJECT_START)}(?P<label>[^<]*){re.escape(OBJECT_END)}\s*)?"
    rf"(?:(?:{re.escape(BOX_START)}|<box>|(?:\"label\"\s*:\s*\"(?P<before>[^\"]*)\"\s*,\s*)?\"bbox_2d\"\s*:)\s*)?"
    rf"(?:{_PAIRS}|{_FLAT})"
    rf"\s*(?:{re.escape(BOX_END)}|</box>|,\s*\"label\"\s*:\s*\"(?P<after>[^\"]*)\")?"
)
_DENIAL = re.compile(r"\b(?:no|not|none|without)\b|^\s*(?:```(?:json)?\s*)?\[\s*\]\s*(?:```\s*)?$", re.IGNORECASE)
_OPENING = re.compile(rf"[(\[]\s*[+-]?\d|{re.escape(BOX_START)}|{re.escape(OBJECT_START)}|\"bbox_2d\"")
_CUT_OBJECT = re.compile(r"\{[^{}\[\]]*\Z")
_CLOSED = re.compile(rf"[)\]]|{re.escape(BOX_END)}")


def _native(corners: tuple[int, int, int, int]) -> str:
    x0, y0, x1, y1 = corners
    return f"{OBJECT_START}{LABEL}{OBJECT_END}{BOX_START}({x0},{y0}),({x1},{y1}){BOX_END}"


def _fenced_json(boxes: Sequence[tuple[int, int, int, int]]) -> str:
    """One object a line in a Markdown fence, as in the families' own cookbooks; `[]` when there is none."""
    lines = ",\n".join(f'\t{{"bbox_2d": {list(corners)}, "label": "{LABEL}"}}' for corners in boxes)
    return f"```json\n[\n{lines}\n]\n```" if boxes else "```json\n[]\n```"


def _to_grid(box: Box, extent: Extent) -> tuple[int, int, int, int]:
    """Nearest grid steps; a side thinner than one step keeps one step, so that the box stays a box."""
    x0, x1 = _span(box.x0, box.x1, extent[0])
    y0, y1 = _span(box.y0, box.y1, extent[1])
    return x0, y0, x1, y1


def _span(low: float, high: float, steps: int) -> tuple[int, int]:
    start, end = math.floor(low * steps + 0.5), math.floor(high * steps + 0.5)
    if start == end:
        return (start - 1, end) if end == steps else (start, end + 1)
    return start, end


def _read_box(match: re.Match[str], extent: Extent) -> tuple[Box | None, list[Problem]]:
    labels = [match[name] for name in ("label", "before", "after") if match[name] is not None]
    if any(LABEL.split()[0] not in label.lower() for label in labels):
        return None, [Problem.WRONG_LABEL]
    texts = _numbers(match)
    values, problems = _to_unit(texts, extent)
    if not all(0 <= value <= 1 for value in values):
        return None, [*problems, Problem.OUT_OF_RANGE]
    x0, y0, x1, y1 = values
    if x0 > x1 or y0 > y1:
        problems.append(Problem.SWAPPED_CORNERS)
        x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    if x0 == x1 or y0 == y1:
        return None, [*problems, Problem.ZERO_AREA]
    return Box(x0, y0, x1, y1), problems


def _numbers(match: re.Match[str]) -> list[str]:
    """The four coordinates, of whichever form."""
    named = set(_BOX.groupindex.values())
    return [text for group, text in enumerate(match.groups(), start=1) if text is not None and group not in named]


def _to_unit(texts: Sequence[str], extent: Extent) -> tuple[list[float], list[Problem]]:
    numbers = [float(text) for text in texts]
    if any("." in text for text in texts) and all(0 <= number <= 1 for number in numbers):
        return numbers, [Problem.UNIT_FLOATS]
    width, height = extent
    return [number / steps for number, steps in zip(numbers, (width, height) * 2, strict=True)], []


def _leftovers(text: str, matches: Sequence[re.Match[str]]) -> list[Problem]:
    """A box that was begun and not read: cut off at the end of the text, or malformed before it."""
    problems: list[Problem] = []
    ends = [0, *(match.end() for match in matches)]
    starts = [*(match.start() for match in matches), len(text)]
    for position, (start, end) in enumerate(zip(ends, starts, strict=True)):
        gap = text[start:end]
        is_last = position == len(matches)
        opening = _OPENING.search(gap) or (_CUT_OBJECT.search(gap) if is_last else None)
        if opening is None:
            continue
        cut_off = is_last and not _CLOSED.search(_without_pair(gap[opening.start() :]))
        if cut_off:
            problems.append(Problem.TRUNCATED)
        elif not gap[opening.start() :].startswith('"bbox_2d"'):
            problems.append(Problem.BAD_SYNTAX)
    return problems


def _without_pair(text: str) -> str:
    """`(273,304),(713` is cut off although its first pair is closed: drop complete pairs first."""
    return re.sub(rf"\({_NUMBER},{_NUMBER}\)", "", text)


def _form(text: str, matches: Sequence[re.Match[str]]) -> Form:
    if not matches:
        return Form.NEGATIVE if _DENIAL.search(text) else Form.NONE
    if "bbox_2d" in text:
        return Form.JSON
    if BOX_START in text:
        return Form.NATIVE
    return Form.PAIRS if re.search(_PAIRS, matches[0][0]) else Form.FLAT
