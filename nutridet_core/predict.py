"""Answers from a model in this process: batched, greedy, left-padded, with a score for every box.

Belongs here: generation through transformers. Does not belong here: loading (`models`), servers
(`engines`), scoring against ground truth (`evaluate`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from nutridet_core.answers import Answer, without_terminators
from nutridet_core.prompts import Contract, prompt_text, resized_size


@dataclass(frozen=True)
class Prediction:
    """A model's answer about one photo."""

    answer: Answer
    score: float
    """Geometric mean of the answer's token probabilities, 0..1: the confidence of all its boxes."""
    seconds: float
    """Share of its batch's wall clock, photo preparation included."""


def predict(
    model: Any,
    processor: Any,
    contract: Contract,
    photos: Sequence[Callable[[], Image.Image]],
    *,
    batch_size: int,
    max_new_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Prediction]:
    """One prediction per photo, in order.

    Args:
        photos: functions that open a photo (RGB, EXIF applied), so that only one batch is in memory.
        progress: called with (done, total) after every batch.
    """
    predictions: list[Prediction] = []
    began = time.perf_counter()
    for sizes, inputs in _prepared(processor, contract, photos, batch_size):
        tokens, scores = generate(model, processor, inputs, max_new_tokens)
        texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=False)
        seconds, began = (time.perf_counter() - began) / len(sizes), time.perf_counter()
        predictions += [
            Prediction(contract.read(without_terminators(text), resized_size(contract, *size)), score, seconds)
            for text, score, size in zip(texts, scores, sizes, strict=True)
        ]
        progress(len(predictions), len(photos))
    return predictions


@torch.inference_mode()
def generate(
    model: Any, processor: Any, inputs: Any, max_new_tokens: int, watch: Sequence[LogitsProcessor] = ()
) -> tuple[torch.Tensor, list[float]]:
    """The greedy answer to each row of `inputs`: tokens, shape `(rows, steps)`, padded at the end, and scores.

    Args:
        watch: further processors that see each step's logits, and should return them as they are.
    """
    confidence = Confidence()
    tokens = model.generate(
        **inputs.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        repetition_penalty=1.0,  # some published models ask for more than 1, which would punish a repeated digit
        logits_processor=LogitsProcessorList([confidence, *watch]),
    )[:, inputs["input_ids"].shape[1] :]
    return tokens, confidence.of(tokens != processor.tokenizer.pad_token_id)


class Confidence(LogitsProcessor):
    """Remembers the log-probability of the token that greedy decoding takes, and nothing else of the vocabulary."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores, unchanged."""
        self.steps.append(scores.amax(-1) - scores.logsumexp(-1))
        return scores

    def of(self, written: torch.Tensor) -> list[float]:
        """Geometric mean of each row's probabilities over the tokens written, shape `(rows, steps)`."""
        log_probabilities, weights = torch.stack(self.steps, dim=1), written.float()
        means = (log_probabilities * weights).sum(1) / weights.sum(1).clamp(min=1)
        return [float(value) for value in means.exp()]


def _prepared(
    processor: Any, contract: Contract, photos: Sequence[Callable[[], Image.Image]], batch_size: int
) -> Iterator[tuple[list[tuple[int, int]], Any]]:
    """Sizes and model inputs of batches; the next batch is prepared while the model answers this one."""

    def prepare(batch: Sequence[Callable[[], Image.Image]]) -> tuple[list[tuple[int, int]], Any]:
        opened = [open_photo() for open_photo in batch]
        return [photo.size for photo in opened], encode(processor, contract, opened)

    with ThreadPoolExecutor(max_workers=1) as ahead:
        waiting: deque[Future[tuple[list[tuple[int, int]], Any]]] = deque()
        for batch in _batches(photos, batch_size):
            waiting.append(ahead.submit(prepare, batch))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)


def encode(processor: Any, contract: Contract, photos: list[Image.Image]) -> Any:
    """Model inputs for the contract's question about each photo, left-padded."""
    prompts = [prompt_text(contract, processor)] * len(photos)
    return processor(images=photos, text=prompts, padding=True, padding_side="left", return_tensors="pt")


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
