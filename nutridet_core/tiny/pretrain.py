"""Pretraining of the embedded model on drawn pages: "detect the X" for every kind of object.

    python -m nutridet_core.tiny.pretrain --out nutridet_core/tiny/base --minutes 8.5

Belongs here: the one loop that makes the base weights, on one GPU. Fine-tuning is `train`.
Product photos are left out on purpose: the base knows tables on pages, so its zero-shot score on
photos is mediocre and fine-tuning has something to show.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchEmbed, VisionAttention, apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids

from nutridet_core.answers import LABEL, write_answer
from nutridet_core.boxes import Box
from nutridet_core.data.generated import LABELS, draw_page
from nutridet_core.data.generated.pages import close_up, whole_page
from nutridet_core.prompts import Contract, prompt_messages
from nutridet_core.store import Manifest, seal, write_json
from nutridet_core.tiny import architecture

GRIDS = ((10, 7), (7, 10), (11, 7), (7, 11), (12, 6), (6, 12), (13, 6), (9, 9), (8, 8))
"""Cells down and across: the shapes that photos of common aspect take within the pixel budget."""
CELL = 28
EMA_EVERY = 5
TABLE_WEIGHT = 5


@dataclass(frozen=True)
class Recipe:
    """What the run does; written beside the weights."""

    steps: int = 20000
    """At most; the minutes given to `pretrain` usually end the run."""
    batch_size: int = 512
    """Questions per step."""
    views_per_page: int = 4
    """The page and close-ups of it: drawing costs more than cutting."""
    questions_per_view: int = 4
    absent_share: float = 0.15
    """Share of questions about an object that is not on the page."""
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    ema_decay: float = 0.99
    """Of the averaged weights, which are the ones kept, at every `EMA_EVERY` steps."""
    seed: int = 0
    workers: int = 15


@dataclass(frozen=True)
class Batch:
    """Questions about views of one grid shape."""

    pages: torch.Tensor
    """`(pages, height, width, 3)` uint8, padded; a tensor, so that workers hand it over in shared memory."""
    windows: torch.Tensor
    """`(pages, views, 4)`: what each view shows, x0, y0, x1, y1 in px of its page."""
    grid: tuple[int, int]
    """Cells of every view down and across."""
    labels: tuple[str, ...]
    """As many for every view, those of one view next to each other."""
    answers: tuple[str, ...]

    @property
    def questions_per_view(self) -> int:
        """How many questions in a row are about one view."""
        return len(self.labels) // (self.windows.shape[0] * self.windows.shape[1])

    def pin_memory(self) -> Batch:
        """Called by the loader: the copy to the GPU then runs beside its computation."""
        return replace(self, pages=self.pages.pin_memory(), windows=self.windows.pin_memory())


class Questions(IterableDataset[tuple[Batch, dict[str, torch.Tensor]]]):
    """An endless stream of batches and their text; every worker draws its own share of the steps."""

    def __init__(self, recipe: Recipe, encoder: Encoder) -> None:
        self.recipe, self.encoder = recipe, encoder

    def __iter__(self) -> Iterator[tuple[Batch, dict[str, torch.Tensor]]]:
        worker = torch.utils.data.get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in itertools.count(first, stride):
            batch = draw_batch(self.recipe, step)
            yield batch, self.encoder.text(batch)


def draw_batch(recipe: Recipe, step: int) -> Batch:
    """The batch of one step, the same for the same recipe and step."""
    rng = random.Random(f"{recipe.seed}:{step}")
    rows, columns = rng.choice(GRIDS)
    count = max(1, recipe.batch_size // (recipe.views_per_page * recipe.questions_per_view))
    pages, windows, labels, answers = [], [], [], []
    for number in range(count):
        page = draw_page(recipe.seed, step * count + number, columns / rows)
        views = [whole_page(page), *(close_up(page, columns / rows, rng) for _ in range(recipe.views_per_page - 1))]
        for _, objects in views:
            for label, answer in ask(objects, recipe.questions_per_view, recipe.absent_share, rng):
                labels.append(label)
                answers.append(answer)
        pages.append(np.asarray(page.image))
        windows.append([window for window, _ in views])
    return Batch(padded(pages), torch.tensor(windows), (rows, columns), tuple(labels), tuple(answers))


def padded(pages: list[np.ndarray]) -> torch.Tensor:
    """Images of different sizes in one tensor, each in the top left corner."""
    height, width = (max(page.shape[axis] for page in pages) for axis in (0, 1))
    padded = torch.zeros((len(pages), height, width, 3), dtype=torch.uint8)
    for row, page in zip(padded.numpy(), pages, strict=True):
        row[: page.shape[0], : page.shape[1]] = page
    return padded


def ask(
    objects: tuple[tuple[str, Box], ...], count: int, absent_share: float, rng: random.Random
) -> Iterator[tuple[str, str]]:
    """`count` labels to ask for, each with the right answer; tables are asked for `TABLE_WEIGHT` times as often."""
    present = sorted({label for label, _ in objects})
    absent = [label for label in LABELS if label not in present]
    left: list[str] = []
    for _ in range(count):
        if rng.random() < absent_share:
            label = _draw_label(absent, rng)
            yield label, f"no {label}"
            continue
        left = left or present.copy()
        label = _draw_label(left, rng)
        left.remove(label)
        boxes = [box for name, box in objects if name == label]
        yield label, write_answer(boxes, (1000, 1000)).replace(LABEL, label)


def _draw_label(labels: list[str], rng: random.Random) -> str:
    return rng.choices(labels, [TABLE_WEIGHT if label == LABEL else 1 for label in labels])[0]


def look(batch: Batch, device: torch.device) -> torch.Tensor:
    """The views, `(views, height, width, 3)` float 0..255: each pixel the mean of four samples of its page."""
    height, width = (2 * CELL * cells for cells in batch.grid)
    pages = batch.pages.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    x0, y0, x1, y1 = batch.windows.to(device, non_blocking=True)[..., None].unbind(2)
    across = (torch.arange(width, device=device) + 0.5) / width
    down = (torch.arange(height, device=device) + 0.5) / height
    x = 2 * (x0 + (x1 - x0) * across) / pages.shape[3] - 1  # (pages, views, width), the page spans -1..1
    y = 2 * (y0 + (y1 - y0) * down) / pages.shape[2] - 1
    shape = (*x.shape[:2], height, width)
    where = torch.stack([x[:, :, None].expand(shape), y[..., None].expand(shape)], dim=-1)
    fine = functional.grid_sample(pages, where.flatten(1, 2), padding_mode="border", align_corners=False)
    views: torch.Tensor = functional.avg_pool2d(fine, 2)  # (pages, 3, views * height, width), views below each other
    return views.reshape(len(pages), 3, shape[1], height // 2, width // 2).permute(0, 2, 3, 4, 1).flatten(0, 1)


def patchify(pages: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """`(n, height, width, 3)` 0..255 to `(n * patches, 1176)` in the order of Qwen2-VL's processor."""
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
    projected: torch.Tensor = self.proj(mixed.transpose(1, 2).reshape(len(hidden_states), -1))
    return projected


def linear_patch_embedding(self: PatchEmbed, hidden_states: torch.Tensor) -> torch.Tensor:
    """The original convolves patches with kernels of their own size: a product, and faster as one."""
    weight = self.proj.weight
    embedded: torch.Tensor = functional.linear(hidden_states.to(weight.dtype), weight.flatten(1))
    return embedded


class Encoder:
    """Turns a `Batch` into model inputs on the device, with labels on the answer only.

    The grids stay on the CPU: reading them back would wait for the GPU.
    """

    def __init__(
        self,
        processor: Any,
        contract: Contract,
        device: torch.device,
        alter: Callable[[torch.Tensor], torch.Tensor] = lambda views: views,
    ) -> None:
        self.processor, self.tokenizer, self.contract, self.device = processor, processor.tokenizer, contract, device
        self.alter = alter  # what happens to the views' pixels on the device
        self.prompts: dict[tuple[str, int], list[int]] = {}
        self.photo_at = self._prompt(LABEL, 1).index(self.tokenizer.convert_tokens_to_ids("<|image_pad|>"))

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self.inputs(batch, self.text(batch))

    def text(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Token ids, labels and positions, still on the CPU: the loader's workers make them."""
        height, width = batch.grid
        prompts = [self._prompt(label, height * width) for label in batch.labels]
        answers = self.tokenizer([answer + "<|im_end|>" for answer in batch.answers]).input_ids
        length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        ids = np.full((len(prompts), length), self.tokenizer.pad_token_id)
        labels = np.full_like(ids, -100)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids[row, : len(prompt)] = prompt
            ids[row, len(prompt) : len(prompt) + len(answer)] = answer
            labels[row, len(prompt) : len(prompt) + len(answer)] = answer
        positions = mrope_positions(length, self.photo_at, height, width)
        return {
            "input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels), "position_ids": positions,
        }  # fmt: skip

    def inputs(self, batch: Batch, text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the model takes, on the device, and `labels`."""
        height, width = batch.grid
        rows = len(batch.labels)
        moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in text.items()}
        image_processor = self.processor.image_processor
        patches = patchify(self.alter(look(batch, self.device)), image_processor.image_mean, image_processor.image_std)
        per_view = patches.reshape(rows // batch.questions_per_view, -1, patches.shape[-1])
        return {
            **moved,
            "position_ids": moved["position_ids"][:, None].expand(3, rows, -1),
            "pixel_values": per_view.repeat_interleave(batch.questions_per_view, dim=0).flatten(0, 1),
            "image_grid_thw": torch.tensor([[1, 2 * height, 2 * width]]).expand(rows, 3),
        }

    def _prompt(self, label: str, cells: int) -> list[int]:
        if (label, cells) not in self.prompts:
            messages = prompt_messages(self.contract, question=architecture.pretraining_question(label))
            text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            text = text.replace("<|image_pad|>", "<|image_pad|>" * cells)
            self.prompts[label, cells] = self.tokenizer(text).input_ids
        return self.prompts[label, cells]


def answer_logits(model: Any, inputs: dict[str, torch.Tensor], photo_at: int, per_view: int) -> torch.Tensor:
    """`model(**inputs).logits` from the end of the photo on, where each `per_view` rows show one photo.

    Sees every photo once, and never waits for the GPU.
    """
    grid = inputs["image_grid_thw"][::per_view]
    patches = inputs["pixel_values"].reshape(-1, int(grid[0].prod()), inputs["pixel_values"].shape[-1])[::per_view]
    visual, language = model.model.visual, model.model.language_model
    device, cells = patches.device, patches.shape[1] // visual.spatial_merge_size**2
    one = get_vision_position_ids(grid[:1], visual.spatial_merge_size)
    features = visual(
        patches.flatten(0, 1),
        grid_thw=grid,
        position_ids=one.repeat(len(grid), 1).to(device, non_blocking=True),
        cu_seqlens=torch.arange(len(grid) + 1) * patches.shape[1],
    ).pooler_output
    photos = features.reshape(len(grid), cells, -1).repeat_interleave(per_view, dim=0)
    words = model.get_input_embeddings()(inputs["input_ids"])
    embeddings = torch.cat([words[:, :photo_at], photos.to(words.dtype), words[:, photo_at + cells :]], dim=1)
    hidden = language(
        inputs_embeds=embeddings,
        position_ids=inputs["position_ids"],
        attention_mask={"full_attention": None},  # causal; padding is on the right
        use_cache=False,
    ).last_hidden_state
    logits: torch.Tensor = model.lm_head(hidden[:, photo_at + cells :])
    return logits


def mrope_positions(length: int, start: int, height: int, width: int) -> torch.Tensor:
    """Qwen2-VL's `(3, length)` time, row and column positions for one photo that begins at `start`."""
    positions = torch.arange(length).repeat(3, 1)
    cells = torch.arange(height * width)
    image = torch.stack([torch.zeros_like(cells), cells // width, cells % width])
    end = start + height * width
    positions[:, start:end] = start + image
    positions[:, end:] = start + max(height, width) + torch.arange(length - end)
    return positions


def learning_rate(step: int, done: float, peak: float, warmup_steps: int) -> float:
    """Linear warm-up, then half a cosine down to nothing when the share `done` of the run reaches 1."""
    warmup = min(1.0, (step + 1) / warmup_steps)
    return peak * warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def pretrain(
    recipe: Recipe, out: Path, *, minutes: float, start: Path | None = None, compiled: bool = False
) -> dict[str, Any]:
    """Run the recipe, at most `minutes` long (the schedule then ends early), and write the weights."""
    began = time.monotonic()
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processor = architecture.build_processor()
    contract = Contract("qwen2-vl", architecture.MIN_PIXELS, architecture.MAX_PIXELS)
    model = _network(processor, start).to(device)
    VisionAttention.forward, PatchEmbed.forward = batched_vision_attention, linear_patch_embedding
    average = average_of(model, recipe.ema_decay)
    if compiled:
        for block in (*model.model.visual.blocks, *model.model.language_model.layers):
            block.compile(dynamic=True)
    earlier = json.loads((start / "pretraining.json").read_text()) if start else None
    log = _loop(model, average, Encoder(processor, contract, device), recipe, began, minutes * 60)
    log["continues"] = earlier
    _save(average.module, processor, contract, recipe, log, out)
    return log


def average_of(model: Any, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """A copy of the model that follows it as an exponential average."""
    follow = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=follow)


def _network(processor: Any, start: Path | None) -> Any:
    if start is not None:
        return Qwen2VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    return Qwen2VLForConditionalGeneration(architecture.build_config(processor.tokenizer))


def _loop(model: Any, average: Any, encode: Encoder, recipe: Recipe, began: float, seconds: float) -> dict[str, Any]:
    loader = build_loader(Questions(recipe, encode), recipe.workers, encode.device)
    optimizer = build_optimizer(model, recipe.learning_rate, recipe.weight_decay)
    curve, elapsed = [], 0.0
    for step, (batch, text) in enumerate(loader):
        elapsed = time.monotonic() - began
        done = max(step / recipe.steps, elapsed / seconds)
        if done >= 1:
            break
        rate = learning_rate(step, done, recipe.learning_rate, recipe.warmup_steps)
        loss = update(model, encode.inputs(batch, text), optimizer, rate, encode.photo_at, recipe.questions_per_view)
        if step % EMA_EVERY == 0:
            average.update_parameters(model)
        if step % 100 == 0:
            curve.append({"step": step, "loss": round(loss.item(), 4), "seconds": round(elapsed, 1)})
            print(curve[-1], f"rate {rate:.2e}", flush=True)
    return {
        "steps": step, "seconds": round(elapsed, 1), "questions_per_s": round(step * recipe.batch_size / elapsed, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu", "curve": curve,
    }  # fmt: skip


def build_loader(questions: IterableDataset[Any], workers: int, device: torch.device) -> DataLoader[Any]:
    """What the workers draw, batch by batch; each has a few batches ready."""
    return DataLoader(
        questions,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=device.type == "cuda",
    )


def build_optimizer(model: Any, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what is trainable."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = parameters[0].device.type == "cuda"
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, betas=(0.9, 0.98), fused=fused)


def update(
    model: Any, inputs: dict[str, torch.Tensor], optimizer: Any, rate: float, photo_at: int, per_view: int
) -> torch.Tensor:
    """One step at this rate; gives the loss over the answers' tokens, still on the device."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    device = next(model.parameters()).device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):  # most CPUs emulate bf16
        logits = answer_logits(model, inputs, photo_at, per_view)
    labels = inputs["labels"][:, -logits.shape[1] :]
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
    parser.add_argument("--compile", action="store_true", help="fuse the blocks' kernels; starts slower")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--views", type=int, default=Recipe.views_per_page, help="per page")
    parser.add_argument("--questions", type=int, default=Recipe.questions_per_view, help="per view")
    parser.add_argument("--rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--workers", type=int, default=Recipe.workers)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    given = parser.parse_args()
    recipe = Recipe(
        steps=given.steps, workers=given.workers, seed=given.seed, views_per_page=given.views,
        questions_per_view=given.questions, learning_rate=given.rate,
    )  # fmt: skip
    print(pretrain(recipe, given.out, minutes=given.minutes, start=given.start, compiled=given.compile))


if __name__ == "__main__":
    main()
