"""Two sets of greedy answers compared token by token.

Logits are rounded to bf16, so that two right computations of one model part where the two best tokens are within a
few rounding steps. How far apart they were at the first token that differs is what tells a fault from rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import LogitsProcessor

from nutridet_core.predict import encode, generate
from nutridet_core.prompts import Contract

ANSWER_TOKENS = 32
_CLOSE = 2.0
"""Rounding steps of a bf16 logit within which the two best tokens cannot be told apart."""


@dataclass(frozen=True)
class Written:
    """A greedy answer, token by token."""

    tokens: list[int]
    margins: list[float]
    """Of each token, the distance of the two best logits, in rounding steps of bf16."""


class _Margins(LogitsProcessor):
    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        best = scores.float().topk(2, dim=-1).values
        rounding = torch.exp2(best[:, 0].abs().clamp(min=1e-3).log2().floor() - 7)  # bf16 keeps 8 bits of a number
        self.steps.append((best[:, 0] - best[:, 1]) / rounding)
        return scores


def write_answers(
    model: Any, processor: Any, contract: Contract, images: Sequence[Image.Image], batch_size: int
) -> list[Written]:
    """A greedy answer per photo."""
    pad, written = processor.tokenizer.pad_token_id, []
    for at in range(0, len(images), batch_size):
        watch = _Margins()
        inputs = encode(processor, contract, list(images[at : at + batch_size]))
        tokens, _ = generate(model, processor, inputs, ANSWER_TOKENS, [watch])
        margins = torch.stack(watch.steps, dim=1).tolist()
        for row, distances in zip(tokens.tolist(), margins, strict=True):
            kept = [token for token in row if token != pad]
            written.append(Written(kept, distances[: len(kept)]))
    return written


def agreement_of(reference: Sequence[Written], other: Sequence[Written]) -> dict[str, Any]:
    """How many answers are the same, and how close the two best tokens were where the others part."""
    parted = [
        (mine, _first_difference(mine.tokens, theirs.tokens)) for mine, theirs in zip(reference, other, strict=True)
    ]
    margins = [mine.margins[at] if at < len(mine.margins) else float("inf") for mine, at in parted if at is not None]
    decided = [at is None for mine, at in parted if min(mine.margins) > _CLOSE]
    return {
        "n": len(parted),
        "same_or_parted_within_rounding": share(
            sum(m <= _CLOSE for m in margins) + len(parted) - len(margins), len(parted)
        ),
        "same": share(sum(at is None for _, at in parted), len(parted)),
        "same_where_every_margin_is_clear": share(sum(decided), len(decided)),
        "margins_where_they_part": sorted(round(margin, 2) for margin in margins),
    }


def _first_difference(mine: list[int], theirs: list[int]) -> int | None:
    for at, (one, other) in enumerate(zip(mine, theirs, strict=False)):
        if one != other:
            return at
    return None if len(mine) == len(theirs) else min(len(mine), len(theirs))


def share(count: int, of: int) -> dict[str, float | None]:
    """A share with its 95 % Wilson interval."""
    if of == 0:
        return {"value": None, "low": None, "high": None, "n": 0}
    z, p = 1.96, count / of
    centre, spread = p + z * z / (2 * of), z * ((p * (1 - p) + z * z / (4 * of)) / of) ** 0.5
    scale = 1 + z * z / of
    return {"value": p, "low": (centre - spread) / scale, "high": (centre + spread) / scale, "n": of}
