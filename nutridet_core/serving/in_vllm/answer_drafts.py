"""Drafts of an answer's fixed tokens, for vLLM's speculative decoding.

Belongs here: which tokens the grammar says come next. Does not belong here: whether they are right: the model checks
all drafted tokens in one step and keeps those that it would have written itself, so answers stay the same, also
those without a table.

`nutrition table(273,304),(713,679)` with its special tokens takes 24 tokens, of which 12 are digits. vLLM loads
the class by name (`speculative_config`), calls `propose` after every step and knows nothing of the grammar: a right
answer, given by environment, is the template, and its digits are holes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

TEMPLATE = "NUTRIDET_ANSWER_TEMPLATE"
"""Environment variable: an answer as the model should write it, terminator included."""
HEADER = "<|im_start|>assistant\n"
"""What an answer follows, in the chat format of all families."""
_FEW = 8
"""Answers under way up to which digits are guessed too: checking a wrong guess costs nothing while the GPU waits for
memory, and drafts of one length run from a captured CUDA graph."""


class Template:
    """A right answer as tokens.

    Args:
        tokens: of the answer, terminator included.
        digits: every token that is a single digit.
    """

    def __init__(self, tokens: Sequence[int], digits: frozenset[int]) -> None:
        self.tokens, self.digits = tuple(tokens), digits

    def position(self, answer: Sequence[int]) -> int | None:
        """Where in the template an answer stands that was written so far; None once it has left the grammar."""
        place = 0
        for token in answer:
            following = self._after(token, place)
            if following is None:
                return None
            place = following
        return place

    def draft(self, answer: Sequence[int], length: int, *, guess: bool) -> list[int]:
        """The tokens that come next: with `guess` exactly `length`, without it only those before the next digit."""
        place = self.position(answer)
        if place is None or place == len(self.tokens):
            return []
        coming = list(self.tokens[place : place + length])
        if guess:
            return coming + coming[-1:] * (length - len(coming))
        return coming[: next((index for index, token in enumerate(coming) if token in self.digits), len(coming))]

    def _after(self, token: int, place: int) -> int | None:
        """The place after one more token: numbers may be shorter or longer, and another box may follow."""
        tokens = self.tokens
        if place < len(tokens) and (token == tokens[place] or self._both_digits(token, tokens[place])):
            return place + 1
        if token in self.digits:
            return place if place and tokens[place - 1] in self.digits else None
        if token == tokens[0]:
            return 1 if place == len(tokens) - 1 else None
        end = self._end_of_number(place)
        return end + 1 if end > place and end < len(tokens) and token == tokens[end] else None

    def _both_digits(self, first: int, second: int) -> bool:
        return first in self.digits and second in self.digits

    def _end_of_number(self, place: int) -> int:
        while place < len(self.tokens) and self.tokens[place] in self.digits:
            place += 1
        return place


class AnswerDrafts:
    """The proposer that vLLM loads."""

    def __init__(self, vllm_config: Any) -> None:
        from vllm.tokenizers import cached_tokenizer_from_config  # type: ignore[import-not-found]

        encode = cached_tokenizer_from_config(vllm_config.model_config).encode
        self._header: list[int] = encode(HEADER, add_special_tokens=False)
        digits = frozenset(encode(str(digit), add_special_tokens=False)[-1] for digit in range(10))
        self._template = Template(encode(os.environ[TEMPLATE], add_special_tokens=False), digits)
        self._length = int(vllm_config.speculative_config.num_speculative_tokens)

    def load_model(self, *arguments: Any, **named: Any) -> None:
        """There is none."""

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: Any,
        token_ids_cpu: Any,
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """Drafts for each request; none for one whose prompt is not read yet.

        Args:
            sampled_token_ids: new tokens of each request.
            num_tokens_no_spec: tokens of each request, prompt included.
            token_ids_cpu: the tokens, one row a request.
        """
        guess = len(sampled_token_ids) <= _FEW
        return [
            self._propose(token_ids_cpu[row, : num_tokens_no_spec[row]], guess=guess) if new else []
            for row, new in enumerate(sampled_token_ids)
        ]

    def _propose(self, tokens: Any, *, guess: bool) -> list[int]:
        """The answer begins after the last header: no answer has one in it."""
        starts = (tokens == self._header[0]).nonzero()[0]
        if not len(starts):
            return []
        answer = tokens[starts[-1] + len(self._header) :].tolist()
        return self._template.draft(answer, self._length, guess=guess)
