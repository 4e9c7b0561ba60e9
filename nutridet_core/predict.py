"""Answers from a model in this process: batched, greedy, left-padded, with a score for every box.

Belongs here: generation through transformers. Does not belong here: loading (`models`), servers
(`engines`), scoring against ground truth (`evaluate`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

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
    for batch in _batches(photos, batch_size):
        predictions += _predict_batch(
            model, processor, contract, [open_photo() for open_photo in batch], max_new_tokens
        )
        progress(len(predictions), len(photos))
    return predictions


@torch.inference_mode()
def _predict_batch(
    model: Any, processor: Any, contract: Contract, photos: list[Image.Image], max_new_tokens: int
) -> list[Prediction]:
    began = time.perf_counter()
    inputs = encode(processor, contract, photos).to(model.device)
    output = model.generate(
        **inputs, max_new_tokens=max_new_tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    new_tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
    scores = _sequence_scores(output.logits, new_tokens, processor.tokenizer.pad_token_id)
    texts = processor.tokenizer.batch_decode(new_tokens, skip_special_tokens=False)
    seconds = (time.perf_counter() - began) / len(photos)
    return [
        Prediction(contract.read(without_terminators(text), resized_size(contract, *photo.size)), score, seconds)
        for text, score, photo in zip(texts, scores, photos, strict=True)
    ]


def encode(processor: Any, contract: Contract, photos: list[Image.Image]) -> Any:
    """Model inputs for the contract's question about each photo, left-padded."""
    prompts = [prompt_text(contract, processor)] * len(photos)
    return processor(images=photos, text=prompts, padding=True, padding_side="left", return_tensors="pt")


def _sequence_scores(logits: tuple[torch.Tensor, ...], tokens: torch.Tensor, pad: int) -> list[float]:
    log_probabilities = torch.stack([step.float().log_softmax(-1) for step in logits], dim=1)
    chosen = log_probabilities.gather(-1, tokens[..., None]).squeeze(-1)
    written = (tokens != pad).float()
    means = (chosen * written).sum(1) / written.sum(1).clamp(min=1)
    return [float(value) for value in means.exp()]


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
