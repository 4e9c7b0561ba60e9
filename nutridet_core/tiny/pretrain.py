"""Pretraining of the embedded model on drawn pages: "detect the X" for every kind of object.

    python -m nutridet_core.tiny.pretrain --out nutridet_core/tiny/base --steps 6000

Belongs here: the one loop that makes the base weights, on one GPU. Fine-tuning is `train`.
Product photos are left out on purpose: the base knows tables on pages, so its zero-shot score on
photos is mediocre and fine-tuning has something to show.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import VisionAttention, apply_rotary_pos_emb_vision

from nutridet_core.answers import LABEL, write_answer
from nutridet_core.boxes import Box
from nutridet_core.data.generated import LABELS, draw_page
from nutridet_core.prompts import Contract, prompt_messages
from nutridet_core.store import Manifest, seal, write_json
from nutridet_core.tiny import architecture

GRIDS = ((9, 9), (10, 8), (8, 10), (11, 7), (7, 11), (12, 6), (6, 12))
"""Cells down and across: the shapes that photos of common aspect take within the pixel budget."""
CELL = 28


@dataclass(frozen=True)
class Recipe:
    """What the run does; written beside the weights."""

    steps: int = 6000
    batch_size: int = 256
    questions_per_page: int = 2
    absent_share: float = 0.15
    """Share of questions about an object that is not on the page."""
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    ema_decay: float = 0.998
    seed: int = 0
    workers: int = 15


@dataclass(frozen=True)
class Batch:
    """Questions about pages of one grid shape."""

    pages: np.ndarray
    """`(pages, height, width, 3)` uint8."""
    page_of: np.ndarray
    """`(questions,)` index into `pages`."""
    labels: tuple[str, ...]
    answers: tuple[str, ...]


class Questions(IterableDataset[Batch]):
    """An endless stream of batches; every worker draws its own share of the page indices."""

    def __init__(self, recipe: Recipe, first_step: int = 0) -> None:
        self.recipe, self.first_step = recipe, first_step

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in itertools.count(self.first_step + offset, stride):
            yield draw_batch(self.recipe, step)


def draw_batch(recipe: Recipe, step: int) -> Batch:
    """The batch of one step, the same for the same recipe and step."""
    rng = random.Random(f"{recipe.seed}:{step}")
    rows, columns = rng.choice(GRIDS)
    count = recipe.batch_size // recipe.questions_per_page
    pages, page_of, labels, answers = [], [], [], []
    for number in range(count):
        drawing = draw_page(recipe.seed, step * count + number)
        pages.append(np.asarray(drawing.image.resize((columns * CELL, rows * CELL))))
        for _ in range(recipe.questions_per_page):
            label, answer = ask(drawing.objects, recipe.absent_share, rng)
            page_of.append(number)
            labels.append(label)
            answers.append(answer)
    return Batch(np.stack(pages), np.array(page_of), tuple(labels), tuple(answers))


def ask(objects: tuple[tuple[str, Box], ...], absent_share: float, rng: random.Random) -> tuple[str, str]:
    """A label to ask for and the right answer; tables are asked for about twice as often."""
    present = sorted({label for label, _ in objects})
    absent = [label for label in LABELS if label not in present]
    if absent and (not present or rng.random() < absent_share):
        label = rng.choice(absent)
        return label, f"no {label}"
    weights = [2 if label == LABEL else 1 for label in present]
    label = rng.choices(present, weights)[0]
    boxes = [box for name, box in objects if name == label]
    return label, write_answer(boxes, (1000, 1000)).replace(LABEL, label)


def patchify(pages: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """`(n, height, width, 3)` uint8 to `(n * patches, 1176)` in the order of Qwen2-VL's processor."""
    n, height, width, _ = pages.shape
    scale = pages.new_tensor([255 * s for s in std], dtype=torch.float32)
    shift = pages.new_tensor([255 * m for m in mean], dtype=torch.float32)
    pixels = ((pages.float() - shift) / scale).permute(0, 3, 1, 2)
    cells = pixels.reshape(n, 3, height // CELL, 2, 14, width // CELL, 2, 14)
    patches = cells.permute(0, 2, 5, 3, 6, 1, 4, 7)  # n, cell row, cell column, row, column, channel, y, x
    doubled = patches.unsqueeze(6).expand(*patches.shape[:6], 2, 14, 14)  # a photo is a video of two equal frames
    return doubled.reshape(n * height * width // 196, 1176)


def batched_vision_attention(
    self: VisionAttention,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: Any,
) -> torch.Tensor:
    """Attention over photos of equal size in one call, where the original loops over photos."""
    count = cu_seqlens.numel() - 1
    query, key, value = self.qkv(hidden_states).reshape(len(hidden_states), 3, self.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    shape = (count, -1, self.num_heads, query.shape[-1])
    query, key, value = (part.reshape(shape).transpose(1, 2).to(value.dtype) for part in (query, key, value))
    mixed = functional.scaled_dot_product_attention(query, key, value)
    return self.proj(mixed.transpose(1, 2).reshape(len(hidden_states), -1))


class Encoder:
    """Turns a `Batch` into model inputs on the device, with labels on the answer only."""

    def __init__(self, processor: Any, contract: Contract, device: torch.device) -> None:
        self.processor, self.tokenizer, self.contract, self.device = processor, processor.tokenizer, contract, device
        self.prompts: dict[tuple[str, int], list[int]] = {}

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        height, width = batch.pages.shape[1] // CELL, batch.pages.shape[2] // CELL
        prompts = [self._prompt(label, height * width) for label in batch.labels]
        answers = self.tokenizer([answer + "<|im_end|>" for answer in batch.answers]).input_ids
        length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        ids = np.full((len(prompts), length), self.tokenizer.pad_token_id)
        labels = np.full_like(ids, -100)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids[row, : len(prompt)] = prompt
            ids[row, len(prompt) : len(prompt) + len(answer)] = answer
            labels[row, len(prompt) : len(prompt) + len(answer)] = answer
        return {**self._vision(batch, height, width), **self._text(ids, labels, height, width)}

    def _prompt(self, label: str, cells: int) -> list[int]:
        if (label, cells) not in self.prompts:
            messages = prompt_messages(self.contract, question=architecture.pretraining_question(label))
            text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            self.prompts[label, cells] = self.tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * cells)).input_ids
        return self.prompts[label, cells]

    def _vision(self, batch: Batch, height: int, width: int) -> dict[str, torch.Tensor]:
        pages = torch.from_numpy(batch.pages).to(self.device, non_blocking=True)
        image_processor = self.processor.image_processor
        patches = patchify(pages, image_processor.image_mean, image_processor.image_std)
        per_page = patches.reshape(len(pages), -1, patches.shape[-1])
        chosen = per_page[torch.from_numpy(batch.page_of).to(self.device)]
        grid = torch.tensor([[1, 2 * height, 2 * width]], device=self.device).expand(len(chosen), 3)
        return {"pixel_values": chosen.flatten(0, 1), "image_grid_thw": grid}

    def _text(self, ids: np.ndarray, labels: np.ndarray, height: int, width: int) -> dict[str, torch.Tensor]:
        start = int(np.argmax(ids[0] == self.tokenizer.convert_tokens_to_ids("<|image_pad|>")))
        positions = mrope_positions(ids.shape[1], start, height, width).to(self.device)
        return {
            "input_ids": torch.from_numpy(ids).to(self.device),
            "labels": torch.from_numpy(labels).to(self.device),
            "position_ids": positions[:, None].expand(3, len(ids), -1),
        }


def mrope_positions(length: int, start: int, height: int, width: int) -> torch.Tensor:
    """Qwen2-VL's `(3, length)` time, row and column positions for one photo that begins at `start`."""
    positions = torch.arange(length).repeat(3, 1)
    cells = torch.arange(height * width)
    image = torch.stack([torch.zeros_like(cells), cells // width, cells % width])
    end = start + height * width
    positions[:, start:end] = start + image
    positions[:, end:] = start + max(height, width) + torch.arange(length - end)
    return positions


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine down to nothing."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def pretrain(recipe: Recipe, out: Path, *, minutes: float, start: Path | None = None) -> dict[str, Any]:
    """Run the recipe, at most `minutes` long (the schedule then ends early), and write the weights."""
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processor = architecture.build_processor()
    contract = Contract("qwen2-vl", architecture.MIN_PIXELS, architecture.MAX_PIXELS)
    model = _network(processor, start).to(device)
    VisionAttention.forward = batched_vision_attention
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema_decay)
    )
    log = _loop(model, average, Encoder(processor, contract, device), recipe, minutes)
    _save(average.module, processor, contract, recipe, log, out)
    return log


def _network(processor: Any, start: Path | None) -> Any:
    if start is not None:
        return Qwen2VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    return Qwen2VLForConditionalGeneration(architecture.build_config(processor.tokenizer))


def _loop(model: Any, average: Any, encode: Encoder, recipe: Recipe, minutes: float) -> dict[str, Any]:
    loader = DataLoader(Questions(recipe), batch_size=None, num_workers=recipe.workers, prefetch_factor=4)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98), fused=True
    )
    began, curve, steps = time.monotonic(), [], recipe.steps
    for step, batch in enumerate(loader):
        steps = _fit_steps(step, steps, time.monotonic() - began, minutes * 60)
        if step >= steps:
            break
        rate = learning_rate(step, Recipe(**{**asdict(recipe), "steps": steps}))
        loss = _update(model, encode(batch), optimizer, rate)
        average.update_parameters(model)
        if step % 100 == 0:
            curve.append({"step": step, "loss": round(loss.item(), 4), "seconds": round(time.monotonic() - began, 1)})
            print(curve[-1], f"of {steps} steps, rate {rate:.2e}", flush=True)
    seconds = time.monotonic() - began
    return {
        "steps": step, "seconds": round(seconds, 1), "questions_per_s": round(step * recipe.batch_size / seconds, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu", "curve": curve,
    }  # fmt: skip


def _fit_steps(step: int, steps: int, elapsed: float, seconds: float) -> int:
    """Shorten the schedule to what fits, judged once after the start-up has passed."""
    if step == 300:
        return min(steps, int(step * seconds / elapsed))
    return steps


def _update(model: Any, inputs: dict[str, torch.Tensor], optimizer: Any, rate: float) -> torch.Tensor:
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(next(model.parameters()).device.type, dtype=torch.bfloat16):
        labels = inputs.pop("labels")
        logits = model(**inputs, use_cache=False).logits
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _save(model: Any, processor: Any, contract: Contract, recipe: Recipe, log: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = architecture.build_generation_config(processor.tokenizer)
    model.to(torch.bfloat16).save_pretrained(out, max_shard_size="12MB")
    processor.save_pretrained(out)
    write_json(out / "pretraining.json", {"recipe": asdict(recipe), "log": log})
    seal(out, Manifest(kind="model", name="tiny-base", contract=contract.hash, config=asdict(recipe)))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="weights to continue from")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall-clock budget")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--workers", type=int, default=Recipe.workers)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    given = parser.parse_args()
    recipe = Recipe(steps=given.steps, workers=given.workers, seed=given.seed)
    print(pretrain(recipe, given.out, minutes=given.minutes, start=given.start))


if __name__ == "__main__":
    main()
