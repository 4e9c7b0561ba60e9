"""Answers as models write them, in the grammars of all families, and then worse.

Belongs here: text. `use` is the parser, under every family's grid.
"""

from __future__ import annotations

import re
from random import Random

from benchmarks.fuzz import damage
from benchmarks.fuzz.outcome import Outcome
from nutridet_core.answers import Answer, Form, read_answer, write_answer
from nutridet_core.boxes import Box

_EXTENTS = ((1000, 1000), (336, 252), (28, 2800))
_TOKEN = re.compile(r"<\|\w+\|>|\d+|\s+|\w+|.", re.DOTALL)
_NUMBERS = (
    "-1",
    "1001",
    "0.5",
    "1e3",
    "nan",
    "inf",
    "9" * 400,
    "٣",
    "+7",
    "1.",
    ".5",
    "1,000",
    "",
    "0x1f",
    "½",
    "00012",
)
_PIECES = (
    "<|box_start|>", "<|box_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|im_end|>",
    "<|endoftext|>", "<box>",
    "</box>", "```json", "```", '"bbox_2d":', '"label": "', "no ", "I see ", "nutrition table", "(", ")", "[",
    "]", "{", "}",
    ",", "(1,2),(3,4)", "(1,2,3,4)", "[[1,2],[3,4]]", "\0", "\ud800", " " * 3000, "(" * 3000, "(1,2,3,4)" * 300,
)  # fmt: skip

Given = tuple[str, tuple[int, int], tuple[Box, ...] | None]
"""Text, grid, and the boxes that it says, where it was not spoiled."""


def make(random: Random) -> Given:
    """A right answer now and then, else one that was changed one to six times."""
    extent = random.choice(_EXTENTS)
    boxes = tuple(_box(random) for _ in range(random.choice((0, 1, 1, 1, 2, 5))))
    text = write_answer(boxes, extent, random.choice((Form.NATIVE, Form.JSON)))
    if random.random() < 0.05:
        return text, extent, boxes
    for _ in range(random.randint(1, 6)):
        text = _spoil(text, random)
    return text, extent, None


def use(given: Given) -> Outcome:
    """What is read is a box, a denial, or counted as a problem."""
    text, extent, boxes = given
    answer = read_answer(text, extent)
    assert answer.text == text
    assert answer.boxes or answer.failed or answer.form is Form.NEGATIVE
    if boxes is not None:
        _require_right(answer, boxes)
    if answer.problems:
        return Outcome("problem", answer.problems[0].value)
    return Outcome("value", answer.form.value)


def _require_right(answer: Answer, boxes: tuple[Box, ...]) -> None:
    assert not answer.failed
    assert len(answer.boxes) + len(answer.problems) == len(boxes)  # two boxes may fall on the same steps


def _box(random: Random) -> Box:
    x0, y0 = random.uniform(0, 0.9), random.uniform(0, 0.9)
    return Box(x0, y0, random.uniform(x0 + 0.05, 1), random.uniform(y0 + 0.05, 1))


def _spoil(text: str, random: Random) -> str:
    """Word by word, as a model slips, or character by character, as an attacker tries."""
    tokens = _TOKEN.findall(text) or [""]
    at, to = random.randrange(len(tokens)), random.randrange(len(tokens))
    way = random.randrange(7)
    if way == 0:
        del tokens[at]
    elif way == 1:
        tokens.insert(to, tokens[at])
    elif way == 2:
        tokens[at], tokens[to] = tokens[to], tokens[at]
    elif way == 3:
        numbers = [index for index, token in enumerate(tokens) if token.isdigit()] or [at]
        tokens[random.choice(numbers)] = random.choice(_NUMBERS)
    elif way == 4:
        tokens.insert(at, random.choice(_PIECES))
    elif way == 5:
        del tokens[at:]
    else:
        return damage.spoil_text(text, random)
    return "".join(tokens)
