"""Tuning of the embedded base on drawn product photos: the LoRA adapter that ships with it.

    python -m nutridet_core.tiny.tune --base nutridet_core/tiny/base --out nutridet_core/tiny/tuned --minutes 7.5

Belongs here: the loop that makes the shipped adapter, on one GPU, from endless photos and with
`pretrain`'s short cuts. Does not belong here: fine-tuning on a dataset (`train`).
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from peft.tuners.lora.layer import Linear
from torch.nn import functional
from torch.utils.data import IterableDataset, get_worker_info
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchEmbed, VisionAttention

from nutridet_core.answers import LABEL, write_answer
from nutridet_core.boxes import Box
from nutridet_core.data.generated import Drawing, draw_product_photo
from nutridet_core.data.generated.pages import Window, close_up, whole_page
from nutridet_core.experiments import EXPERIMENTS
from nutridet_core.models import Source, count_parameters, device, load_model, load_processor, lora_config
from nutridet_core.profiles import TINY
from nutridet_core.prompts import resized_size
from nutridet_core.store import Manifest, read_manifest, seal, writing
from nutridet_core.tiny.pretrain import (
    CELL,
    EMA_EVERY,
    Batch,
    Encoder,
    average_of,
    batched_vision_attention,
    build_loader,
    build_optimizer,
    learning_rate,
    linear_patch_embedding,
    padded,
    update,
)

Grid = tuple[int, int]
Text = dict[str, torch.Tensor]
Stored = tuple[np.ndarray, list[Window], list[str]]  # a photo, what its views show, and their answers

_FOCUS = "focus"  # label of a made-up object to look at


@dataclass(frozen=True)
class TuningRecipe:
    """What the run does; written into the adapter's manifest."""

    steps: int = 40000
    """At most; the minutes given to `tune` usually end the run."""
    photos_per_batch: int = 32
    views_per_photo: int = 8
    """The photo, as every fourth, and close-ups of it."""
    passes: int = 3
    """Steps per batch drawn: drawing is the bottleneck, and every pass has its own light and noise."""
    pool: int = 200
    """Batches kept on the device for further passes."""
    rank: int = 64
    alpha: int = 16
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.0
    ema_decay: float = 0.99
    seed: int = 1_000_000
    """Of the photos: the data source `generated:COUNT:SEED` is used with small seeds."""
    workers: int = 14


class Views(IterableDataset[tuple[Batch, Text]]):
    """An endless stream of batches and their text; every worker draws its own share of the photos."""

    def __init__(self, recipe: TuningRecipe, encoder: Encoder) -> None:
        self.recipe, self.encoder = recipe, encoder

    def __iter__(self) -> Iterator[tuple[Batch, Text]]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        shelves: dict[Grid, list[Stored]] = defaultdict(list)
        for index in itertools.count(first, stride):
            photo = draw_product_photo(self.recipe.seed, index)
            grid = grid_of(photo)
            rng = random.Random(f"views:{self.recipe.seed}:{index}")
            shelves[grid].append(_stored(photo, self.recipe.views_per_photo, rng))
            if len(shelves[grid]) == self.recipe.photos_per_batch:
                batch = _batch(shelves.pop(grid), grid)
                yield batch, self.encoder.text(batch)


def grid_of(photo: Drawing) -> Grid:
    """Cells down and across after Qwen2-VL's resize: training sees the very shapes that prediction uses."""
    width, height = resized_size(TINY.contract, *photo.image.size)
    return height // CELL, width // CELL


def draw_views(photo: Drawing, count: int, rng: random.Random) -> Iterator[tuple[Window, tuple[Box, ...]]]:
    """`count` windows of the photo's shape, and the tables seen in each: the photo first and as every fourth.

    In no view is a table half cut off; what happens to other objects does not matter to the question.
    """
    tables = tuple(pair for pair in photo.objects if pair[0] == LABEL)
    for number in range(count):
        at_tables = bool(tables) and rng.random() < 0.5
        shown = replace(photo, objects=tables if at_tables else (*tables, (_FOCUS, _focus(photo, rng))))
        window, seen = close_up(shown, photo.image.width / photo.image.height, rng) if number % 4 else whole_page(shown)
        yield window, tuple(box for label, box in seen if label == LABEL)


def _focus(photo: Drawing, rng: random.Random) -> Box:
    """Another object, often one that resembles a table, or any part of the photo."""
    others = [box for label, box in photo.objects if label != LABEL]
    if others and rng.random() < 0.5:
        return rng.choice(others)
    across, down = rng.uniform(0.25, 0.9), rng.uniform(0.25, 0.9)
    x, y = rng.uniform(0, 1 - across), rng.uniform(0, 1 - down)
    return Box(x, y, x + across, y + down)


def _stored(photo: Drawing, count: int, rng: random.Random) -> Stored:
    views = list(draw_views(photo, count, rng))
    extent = TINY.contract.extent((0, 0))  # Qwen2-VL's grid is the same for every size
    return np.asarray(photo.image), [window for window, _ in views], [write_answer(boxes, extent) for _, boxes in views]


def _batch(photos: list[Stored], grid: Grid) -> Batch:
    answers = tuple(answer for _, _, written in photos for answer in written)
    windows = torch.tensor([windows for _, windows, _ in photos])
    return Batch(padded([pixels for pixels, _, _ in photos]), windows, grid, (LABEL,) * len(answers), answers)


def relight(views: torch.Tensor) -> torch.Tensor:
    """Other contrast, exposure, tint, sharpness and noise for every view, `(n, height, width, 3)` 0..255."""

    def draw(low: float, high: float, channels: int = 1) -> torch.Tensor:
        return torch.empty(len(views), 1, 1, channels, device=views.device).uniform_(low, high)

    middle = views.mean(dim=(1, 2, 3), keepdim=True)
    views = (middle + (views - middle) * draw(0.55, 1.25)) * draw(0.7, 1.25) * draw(0.9, 1.1, channels=3)
    views = torch.where(draw(0, 1) < 0.1, views.mean(dim=3, keepdim=True), views)
    smooth = functional.avg_pool2d(views.permute(0, 3, 1, 2), 3, stride=1, padding=1, count_include_pad=False)
    views = torch.lerp(views, smooth.permute(0, 2, 3, 1), draw(-0.5, 0.9))  # below 0 it sharpens
    return (views + torch.randn_like(views) * draw(0, 8)).clamp(0, 255)


def summed_forward(self: Linear, x: torch.Tensor) -> torch.Tensor:
    """A LoRA layer without dropout as one product: the weights are added up, and not what they make of the photos."""
    (name,) = self.active_adapters
    base, lower, upper = self.get_base_layer(), self.lora_A[name].weight, self.lora_B[name].weight
    return functional.linear(x, torch.addmm(base.weight, upper, lower, alpha=self.scaling[name]), base.bias)


def tune(recipe: TuningRecipe, base: Path, out: Path, *, minutes: float) -> Manifest:
    """Run the recipe for at most `minutes` (the schedule then ends early), and seal the adapter in `out`."""
    began = time.monotonic()
    torch.manual_seed(recipe.seed)
    source = Source(str(base))
    processor = load_processor(source, TINY.architecture, TINY.contract)
    model = get_peft_model(load_model(source, TINY.architecture, "float32", TINY.contract), _lora(recipe)).train()
    VisionAttention.forward, PatchEmbed.forward = batched_vision_attention, linear_patch_embedding
    Linear.forward = summed_forward
    average = average_of(model, recipe.ema_decay)
    encoder = Encoder(processor, TINY.contract, device(), alter=relight)
    facts = _loop(model, average, encoder, recipe, began, minutes * 60)
    facts["parameters"] = count_parameters(model)
    return _save(average.module, base, recipe, facts, out)


def _lora(recipe: TuningRecipe) -> Any:
    """The patterns of exp2: both towers."""
    (both,) = (experiment for experiment in EXPERIMENTS if experiment.name == "exp2")
    return lora_config(replace(both, rank=recipe.rank, alpha=recipe.alpha, dropout=0.0), TINY)


def _loop(
    model: Any, average: Any, encoder: Encoder, recipe: TuningRecipe, began: float, seconds: float
) -> dict[str, Any]:
    steps = _steps(recipe, encoder)
    network = model.get_base_model()
    optimizer = build_optimizer(network, recipe.learning_rate, recipe.weight_decay)
    curve, elapsed = [], 0.0
    for step, (batch, text) in enumerate(steps):
        elapsed = time.monotonic() - began
        done = max(step / recipe.steps, elapsed / seconds)
        if done >= 1:
            break
        rate = learning_rate(step, done, recipe.learning_rate, recipe.warmup_steps)
        loss = update(network, encoder.inputs(batch, text), optimizer, rate, encoder.photo_at, 1)
        if step % EMA_EVERY == 0:
            average.update_parameters(model)
        if step % 100 == 0:
            curve.append({"step": step, "loss": round(loss.item(), 4), "seconds": round(elapsed, 1)})
            print(curve[-1], f"rate {rate:.2e}", flush=True)
    return _facts(recipe, step, elapsed, curve)


def _steps(recipe: TuningRecipe, encoder: Encoder) -> Iterator[tuple[Batch, Text]]:
    """Every new batch, followed by batches from the pool until the next."""
    rng = random.Random(recipe.seed)
    pool: deque[tuple[Batch, Text]] = deque(maxlen=recipe.pool)
    for batch, text in build_loader(Views(recipe, encoder), recipe.workers, encoder.device):
        pool.append(_moved(batch, text, encoder.device))
        yield pool[-1]
        for _ in range(recipe.passes - 1):
            yield rng.choice(pool)


def _moved(batch: Batch, text: Text, to: torch.device) -> tuple[Batch, Text]:
    pages, windows = batch.pages.to(to, non_blocking=True), batch.windows.to(to, non_blocking=True)
    there = {name: tensor.to(to, non_blocking=True) for name, tensor in text.items()}
    return replace(batch, pages=pages, windows=windows), there


def _facts(recipe: TuningRecipe, steps: int, seconds: float, curve: list[dict[str, Any]]) -> dict[str, Any]:
    on_gpu = torch.cuda.is_available()
    views = recipe.photos_per_batch * recipe.views_per_photo
    return {
        "steps": steps,
        "photos": -(-steps // recipe.passes) * recipe.photos_per_batch,
        "minutes": round(seconds / 60, 2),
        "views_per_s": round(steps * views / seconds, 1),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "peak_gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
        "curve": curve,
    }


def _save(model: Any, base: Path, recipe: TuningRecipe, facts: dict[str, Any], out: Path) -> Manifest:
    origin = read_manifest(base, kind="model", verify=False)
    for config in model.peft_config.values():
        config.base_model_name_or_path = origin.name  # not where it lay on the machine that tuned
    with writing(out) as folder:
        model.to(torch.bfloat16).save_pretrained(folder, save_embedding_layers=False)  # True asks the hub
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        config = asdict(recipe) | {"base": origin.digest}
        return seal(
            folder,
            Manifest(kind="adapter", name="tiny-tuned", contract=TINY.contract.hash, config=config, facts=facts),
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="wall-clock budget")
    parser.add_argument("--passes", type=int, default=TuningRecipe.passes, help="steps per batch drawn")
    parser.add_argument("--rate", type=float, default=TuningRecipe.learning_rate)
    parser.add_argument("--workers", type=int, default=TuningRecipe.workers)
    given = parser.parse_args()
    recipe = TuningRecipe(passes=given.passes, learning_rate=given.rate, workers=given.workers)
    print(tune(recipe, given.base, given.out, minutes=given.minutes).facts)


if __name__ == "__main__":
    main()
