"""Drafts for vLLM: what the grammar says comes next, never what the model would not be asked to check."""

from __future__ import annotations

import importlib
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nutridet_core.boxes import Box
from nutridet_core.families import QWEN2_5_VL
from nutridet_core.profiles import QWEN2_5_VL_7B, QWEN2_VL_7B, TINY
from nutridet_core.serving.in_vllm import answer_drafts
from nutridet_core.serving.in_vllm.answer_drafts import HEADER, TEMPLATE, AnswerDrafts, Template
from nutridet_core.serving.vllm_command import VllmOptions, command, environment
from nutridet_core.tiny.architecture import build_tokenizer

END = "<|im_end|>"
LENGTH = 6


built = cache(build_tokenizer)


@pytest.fixture
def tokenizer() -> Any:
    return built()


def template(tokenizer: Any) -> Template:
    text = environment(TINY, "key", VllmOptions(drafts=True))[TEMPLATE]
    digits = frozenset(tokenizer.encode(str(digit))[-1] for digit in range(10))
    return Template(tokenizer.encode(text), digits)


def steps(tokenizer: Any, answer: str, *, guess: bool) -> tuple[list[int], int]:
    """The answer as vLLM would decode it, and in how many steps: drafts that are right save some."""
    drafts, wanted, written, count = template(tokenizer), tokenizer.encode(answer + END), [], 0
    while len(written) < len(wanted):
        for token in drafts.draft(written, LENGTH, guess=guess) if written else []:
            if token != wanted[len(written)]:
                break
            written.append(token)
            if len(written) == len(wanted):
                return written, count + 1
        written.append(wanted[len(written)])
        count += 1
    return written, count


ONE = TINY.contract.write([Box(0.273, 0.304, 0.713, 0.679)], (336, 336))
TWO = TINY.contract.write([Box(0.273, 0.304, 0.713, 0.679), Box(0.1, 0.8, 1.0, 0.95)], (336, 336))


def test_a_box_takes_as_many_steps_as_it_has_digits_and_two(tokenizer: Any) -> None:
    """The first token, which the prompt's step writes, and twelve digits; the end comes with the last check."""
    written, count = steps(tokenizer, ONE, guess=False)
    assert len(written) == 24
    assert count == 14


@pytest.mark.parametrize("guess", [True, False])
@pytest.mark.parametrize("answer", [ONE, TWO, "no nutrition table", "table table table", "(1000,3),(12,1000)", ""])
def test_any_answer_comes_out_as_it_is(tokenizer: Any, answer: str, guess: bool) -> None:
    written, count = steps(tokenizer, answer, guess=guess)
    assert tokenizer.decode(written) == answer + END
    assert count <= len(written)


@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 4).filter(lambda c: c[0] < c[2] and c[1] < c[3]), min_size=1, max_size=3)
)
def test_drafts_never_leave_the_grammar(corners: list[tuple[float, float, float, float]]) -> None:
    """Every literal of every right answer is drafted: short and long numbers, and one box after another."""
    tokenizer = built()
    drafts, answer = template(tokenizer), TINY.contract.write([Box(*each) for each in corners], (336, 336))
    tokens = tokenizer.encode(answer + END)
    for place in range(1, len(tokens)):
        assert drafts.position(tokens[:place]) is not None


def test_after_the_end_nothing_is_drafted(tokenizer: Any) -> None:
    drafts = template(tokenizer)
    assert drafts.draft(tokenizer.encode(ONE + END), LENGTH, guess=True) == []
    assert drafts.draft(tokenizer.encode("no"), LENGTH, guess=True) == []


def test_guesses_have_one_length(tokenizer: Any) -> None:
    """So that vLLM can replay a CUDA graph."""
    drafts, tokens = template(tokenizer), tokenizer.encode(ONE + END)
    for place in range(len(tokens)):
        assert len(drafts.draft(tokens[:place], LENGTH, guess=True)) == LENGTH


@pytest.fixture
def vllm(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the class asks vLLM for, and how vLLM loads it: by name, from a folder on its path."""
    module = ModuleType("vllm.tokenizers")
    module.cached_tokenizer_from_config = lambda config: tokenizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.tokenizers", module)
    given = environment(TINY, "key", VllmOptions(drafts=True))
    monkeypatch.setenv(TEMPLATE, given[TEMPLATE])
    monkeypatch.syspath_prepend(given["PYTHONPATH"].split(":")[0])
    return SimpleNamespace(model_config=None, speculative_config=SimpleNamespace(num_speculative_tokens=LENGTH))


def test_vllm_finds_the_class_by_its_name(vllm: Any) -> None:
    line = command(TINY, "/weights", 1, VllmOptions(drafts=True))
    path = json.loads(line[line.index("--speculative-config") + 1])["model"]
    module, name = path.rsplit(".", 1)
    assert Path(importlib.import_module(module).__file__ or "") == Path(answer_drafts.__file__)
    assert callable(getattr(importlib.import_module(module), name)(vllm).propose)


def test_graphs_fit_the_largest_photo_and_its_prompt() -> None:
    line = command(QWEN2_VL_7B, "/weights", 1, VllmOptions(graphs=True))
    found = json.loads(line[line.index("--compilation-config") + 1])
    tokens = QWEN2_VL_7B.contract.max_pixels // 28**2
    assert tokens in found["encoder_cudagraph_token_budgets"]
    assert tokens < found["max_cudagraph_capture_size"] and found["max_cudagraph_capture_size"] % 16 == 0
    assert "--compilation-config" not in command(QWEN2_VL_7B, "/weights", 1, VllmOptions())


def test_graphs_take_the_runner_that_replays_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    assert environment(QWEN2_VL_7B, "key", VllmOptions(graphs=True))["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    assert "VLLM_USE_V2_MODEL_RUNNER" not in environment(QWEN2_VL_7B, "key", VllmOptions())


def test_drafts_give_a_photo_more_threads_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert "OMP_NUM_THREADS" not in environment(TINY, "key", VllmOptions())
    assert int(environment(TINY, "key", VllmOptions(drafts=True))["OMP_NUM_THREADS"]) > 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert environment(TINY, "key", VllmOptions(drafts=True))["OMP_NUM_THREADS"] == "2"


def test_requests_are_told_apart(vllm: Any, tokenizer: Any) -> None:
    """One that has answered something, one whose prompt is still read, one that was asked nothing."""
    answering = tokenizer.encode(f"{END}\n{HEADER}<|object_ref_start|>")
    rows = np.zeros((3, 64), np.int32)
    rows[0, : len(answering)] = rows[1, : len(answering)] = answering
    rows[2, :4] = tokenizer.encode("table")[0]
    drafts = AnswerDrafts(vllm).propose([[answering[-1]], [], [5]], [len(answering), len(answering), 4], rows)
    assert tokenizer.decode(drafts[0]).startswith("nutrition table<|object_ref_end|><|box_start|>(")
    assert drafts[1:] == [[], []]


def test_many_requests_get_what_is_certain(vllm: Any, tokenizer: Any) -> None:
    answering = tokenizer.encode(f"{HEADER}{ONE[: ONE.index('273') + 3]}")
    rows = np.tile(np.array(answering, np.int32), (9, 1))
    drafts = AnswerDrafts(vllm).propose([[1]] * 9, [len(answering)] * 9, rows)
    assert {tokenizer.decode(each) for each in drafts} == {","}


def test_other_families_are_drafted_too(tokenizer: Any) -> None:
    """JSON has other fixed tokens, and its numbers are digits one by one as well."""
    text = environment(QWEN2_5_VL_7B, "key", VllmOptions(drafts=True))[TEMPLATE]
    assert text == QWEN2_5_VL_7B.contract.write([Box(0.25, 0.25, 0.75, 0.75)], (644, 644)) + END
    assert QWEN2_5_VL_7B.architecture is QWEN2_5_VL
    assert '"bbox_2d": [161, 161, 483, 483]' in text


def test_drafts_are_asked_for() -> None:
    options = VllmOptions()
    assert "--speculative-config" not in command(TINY, "/weights", 1, options)
    assert TEMPLATE not in environment(TINY, "key", options)
