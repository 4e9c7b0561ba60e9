"""Answers from a model in this process: batched, greedy, left-padded, with a score for every box.

Belongs here: generation through transformers. Does not belong here: loading (`models`), servers
(`engines`), scoring against ground truth (`evaluation.evaluate`).
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
from nutridet_core.models import gpu_bytes, weight_bytes
from nutridet_core.profiles import Profile
from nutridet_core.prompts import Contract, prompt_text, resized_size

_MOST_AT_ONCE = 128
"""Photos; steps take longer beyond."""

Batch = tuple[list[tuple[int, int]], Any]
"""Sizes of photos in px (width, height), and the model's inputs, padded to the longest."""


@dataclass(frozen=True)
class Prediction:
    """A model's answer about one photo."""

    answer: Answer
    score: float
    """Geometric mean of the answer's token probabilities, 0..1: the confidence of all its boxes."""
    seconds: float
    """Share of its batch's wall clock, photo preparation included."""


class Batches:
    """Photos as model inputs, `(sizes in px, inputs)` a batch: each is prepared while the model answers the one before.

    Whoever goes through them again (the next checkpoint) finds those that fit into memory ready.
    """

    def __init__(
        self,
        processor: Any,
        contract: Contract,
        photos: Sequence[Callable[[], Image.Image]],
        batch_size: int,
        *,
        keep_bytes: int = 0,
    ) -> None:
        """`photos` are functions that open a photo (RGB, EXIF applied), so that few are in memory."""
        self.processor, self.contract, self.photos, self.batch_size = processor, contract, photos, batch_size
        self._parts = [photos[start : start + batch_size] for start in range(0, len(photos), batch_size)]
        self._kept: dict[int, Batch] = {}
        self._room = keep_bytes

    def __iter__(self) -> Iterator[Batch]:
        """Batches in the photos' order."""
        with ThreadPoolExecutor(max_workers=1) as ahead:
            waiting: deque[Future[Batch]] = deque()
            for number in range(len(self._parts)):
                waiting.append(ahead.submit(self._prepare, number))
                if len(waiting) > 1:
                    yield waiting.popleft().result()
            yield from (future.result() for future in waiting)

    def _prepare(self, number: int) -> Batch:
        if number in self._kept:
            return self._kept[number]
        opened = [open_photo() for open_photo in self._parts[number]]
        batch = [photo.size for photo in opened], encode(self.processor, self.contract, opened)
        size = sum(tensor.nbytes for tensor in batch[1].values())
        if size <= self._room:
            self._kept[number], self._room = batch, self._room - size
        return batch


def predict(
    model: Any,
    processor: Any,
    contract: Contract,
    photos: Sequence[Callable[[], Image.Image]],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> list[Prediction]:
    """One prediction per photo, in order; `photos` as in `Batches`."""
    return predict_batches(model, Batches(processor, contract, photos, batch_size), max_new_tokens=max_new_tokens)


def predict_batches(
    model: Any,
    batches: Batches,
    *,
    max_new_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Prediction]:
    """One prediction per photo, in order.

    Args:
        progress: called with (done, total) after every batch.
    """
    predictions: list[Prediction] = []
    processor, contract = batches.processor, batches.contract
    began = time.perf_counter()
    for sizes, inputs in batches:
        tokens, scores = generate(model, processor, inputs, max_new_tokens)
        texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=False)
        seconds, began = (time.perf_counter() - began) / len(sizes), time.perf_counter()
        predictions += [
            Prediction(contract.read(without_terminators(text), resized_size(contract, *size)), score, seconds)
            for text, score, size in zip(texts, scores, sizes, strict=True)
        ]
        progress(len(predictions), len(batches.photos))
    return predictions


def photos_at_once(model: Any, profile: Profile) -> int:
    """Photos to answer together: the profile's number, doubled for as long as a GPU has room and answers gain from it.

    A step of the decoder takes a GPU about as long for one photo as for many. What is free at the moment does not
    matter, so that the same card makes the same batches, and with them the same rounding.
    """
    count = profile.score_batch_size
    if model.device.type == "cpu":
        return count
    text = model.config.get_text_config()
    room = gpu_bytes() - 2 * weight_bytes(model)  # a merged checkpoint's base is kept beside it
    photo = answer_bytes(profile.tokens, text.hidden_size, text.num_hidden_layers, model.dtype.itemsize)
    while 2 * count <= _MOST_AT_ONCE and 2 * count * photo <= room:
        count *= 2
    return count


def answer_bytes(tokens: int, width: int, layers: int, item: int) -> int:
    """A bound on what one photo of a batch takes: keys, values, and the activations of a layer, an adapter beside it.

    Qwen2-VL-7B took 230 kB a token merged, of 400 by this bound (`benchmarks/results/evaluation.json`).
    """
    return tokens * 2 * width * layers * item


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
        **{name: tensor.to(model.device) for name, tensor in inputs.items()},
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


def encode(processor: Any, contract: Contract, photos: list[Image.Image]) -> Any:
    """Model inputs for the contract's question about each photo, left-padded."""
    prompts = [prompt_text(contract, processor)] * len(photos)
    return processor(images=photos, text=prompts, padding=True, padding_side="left", return_tensors="pt")
