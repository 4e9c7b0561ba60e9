"""Pretraining of the embedded model on drawn photos and pages: "detect the X" for every kind of object.

    torchrun --nproc-per-node gpu -m nutridet_core.tiny.pretrain --out nutridet_core/tiny/base --minutes 18

Belongs here: the loop that makes the base weights, on one or several GPUs; it goes on from its own state.
Does not belong here: fine-tuning (`training.train`). What it looks at is in `views`, what it learns from in `network`.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset
from transformers import Qwen2VLForConditionalGeneration

from nutridet_core.artifacts.store import Manifest, seal, writing
from nutridet_core.models import count_parameters
from nutridet_core.profiles import TINY
from nutridet_core.tiny import architecture
from nutridet_core.tiny.encoder import Encoder, Text
from nutridet_core.tiny.network import Trainee, take_short_ways
from nutridet_core.tiny.recipe import Recipe
from nutridet_core.tiny.views import Batch, Stacks
from nutridet_core.training.ranks import Ranks

EMA_EVERY = 5
_CLOCK_EVERY = 20  # steps between two looks at the clock, which all ranks share
_LOG_EVERY = 100
_SAVE_EVERY_S = 120.0
_SHARD = "12MB"
STATE = "pretraining.pt"


@dataclass
class Progress:
    """How far a run is; goes on from here after an interruption."""

    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


class Run:
    """One pretraining run on this rank: network, average, optimiser, and how far they are."""

    def __init__(
        self,
        recipe: Recipe,
        ranks: Ranks,
        state: Path | None = None,
        *,
        start: Path | None = None,
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.ranks, self.state = recipe, ranks, state
        self.processor = architecture.build_processor(TINY.contract)
        self.encoder = Encoder(self.processor, TINY.contract)
        network = _network(self.processor, start)
        self.trainee = Trainee(network, self.encoder.photo_at).to(ranks.device)
        self.average = _average_of(network, recipe.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self.trainee.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98),
            fused=ranks.device.type == "cuda",
        )  # fmt: skip
        self.progress, self.waited = Progress(), 0.0
        self._resume()
        if compiled:
            for block in (*network.model.visual.blocks, *network.model.language_model.layers):
                block.compile(dynamic=True)
        torch.manual_seed(recipe.seed + 1 + ranks.rank + self.progress.step)  # light and noise differ between ranks
        self.wrapped = DistributedDataParallel(self.trainee) if ranks.world > 1 else self.trainee

    def until(self, seconds: float) -> None:
        """Train until the run has taken this long in all, or all its steps; the rate reaches 0 just then."""
        began, earlier = time.monotonic(), self.progress.seconds
        saved, done = began, self.progress.seconds / seconds
        for batch, text in self._batches():
            if self.progress.step >= self.recipe.steps:
                break
            if self.progress.step % _CLOCK_EVERY == 0:
                self.progress.seconds = self.ranks.agree(earlier + time.monotonic() - began)
                done = max(self.progress.step / self.recipe.steps, self.progress.seconds / seconds)
                if done >= 1:
                    break
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    saved = time.monotonic()
                    self.keep_state()
            losses = self._update(batch, text, done)
            self.progress.step += 1
            if self.progress.step % EMA_EVERY == 0:
                self.average.update_parameters(self.trainee.model)
            if self.progress.step % _LOG_EVERY == 0:
                self._log(losses)

    def _batches(self) -> Iterator[tuple[Batch, Text]]:
        """Batches in random order out of a buffer on the device."""
        recipe, ranks = self.recipe, self.ranks
        first = self.progress.step * recipe.sheets_per_batch * ranks.world  # beyond any sheet drawn before
        stacks = DataLoader(
            _Worded(Stacks(recipe, first, ranks.rank, ranks.world), self.encoder),
            batch_size=None,
            num_workers=recipe.workers,
            prefetch_factor=2 if recipe.workers else None,
        )
        rng, buffer, stream = random.Random(f"{recipe.seed}:{ranks.rank}:{self.progress.step}"), [], iter(stacks)
        while True:
            asked = time.monotonic()
            buffer += _moved(next(stream), ranks.device)
            self.waited += time.monotonic() - asked
            while len(buffer) > recipe.buffered:
                yield buffer.pop(rng.randrange(len(buffer)))

    def _update(self, batch: Batch, text: Text, done: float) -> tuple[torch.Tensor, torch.Tensor]:
        """One step; gives the two losses, still on the device."""
        rate = learning_rate(self.progress.step, done, self.recipe.learning_rate, self.recipe.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, device = self.encoder.inputs(batch, text), self.ranks.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):  # most CPUs emulate it
            answers, dense = self.wrapped(inputs)
        (answers + self.recipe.dense_weight * dense).backward()
        torch.nn.utils.clip_grad_norm_(self.trainee.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return answers.detach(), dense.detach()

    def _log(self, losses: tuple[torch.Tensor, torch.Tensor]) -> None:
        answers, dense = (round(loss.item(), 4) for loss in losses)
        point = {"step": self.progress.step, "answers": answers, "dense": dense, "s": round(self.progress.seconds, 1),
                 "waited_s": round(self.waited, 1)}  # fmt: skip
        self.progress.curve.append(point)
        if self.ranks.rank == 0:
            print(point, flush=True)

    def keep_state(self) -> None:
        """Everything that going on needs, replaced in one step."""
        if self.state is None or self.ranks.rank:
            return
        self.state.parent.mkdir(parents=True, exist_ok=True)
        draft = self.state.with_suffix(".new")
        parts = {name: getattr(self, name).state_dict() for name in ("trainee", "average", "optimizer")}
        torch.save({**parts, "progress": asdict(self.progress), "recipe": asdict(self.recipe)}, draft)
        draft.replace(self.state)

    def _resume(self) -> None:
        if self.state is None or not self.state.is_file():
            return
        kept = torch.load(self.state, map_location=self.ranks.device, weights_only=True)
        for name in ("trainee", "average", "optimizer"):
            getattr(self, name).load_state_dict(kept[name])
        self.progress = Progress(**kept["progress"])

    def save(self, out: Path) -> Manifest:
        """Seal the averaged weights as a model in `out`."""
        network: Any = self.average.module
        network.generation_config = architecture.build_generation_config(self.processor.tokenizer)
        with writing(out) as folder:
            network.to(torch.bfloat16).save_pretrained(folder, max_shard_size=_SHARD)
            self.processor.save_pretrained(folder)
            manifest = Manifest(
                kind="model",
                name="tiny-base",
                contract=TINY.contract.hash,
                config=asdict(self.recipe),
                facts=self.facts(),
            )
            return seal(folder, manifest)

    def facts(self) -> dict[str, Any]:
        """What was done, and how fast."""
        recipe, progress, cuda = self.recipe, self.progress, self.ranks.device.type == "cuda"
        views = progress.step * recipe.sheets_per_batch * recipe.views_per_sheet * self.ranks.world
        return {
            "steps": progress.step,
            "sheets": -(-progress.step // recipe.passes) * recipe.sheets_per_batch * self.ranks.world,
            "views": views,
            "questions": views * recipe.questions_per_view,
            "minutes": round(progress.seconds / 60, 2),
            "views_per_s": round(views / max(progress.seconds, 1e-9), 1),
            "gpus": self.ranks.world if cuda else 0,
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "peak_gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
            "parameters": count_parameters(self.trainee.model),
            "curve": progress.curve,
        }


class _Worded(IterableDataset[list[tuple[Batch, Text]]]):
    """Stacks with the tokens of their questions, which the drawing processes make too."""

    def __init__(self, stacks: Stacks, encoder: Encoder) -> None:
        self.stacks, self.encoder = stacks, encoder

    def __iter__(self) -> Iterator[list[tuple[Batch, Text]]]:
        return ([(batch, self.encoder.text(batch)) for batch in stack] for stack in self.stacks)


def _moved(stack: list[tuple[Batch, Text]], device: torch.device) -> list[tuple[Batch, Text]]:
    """A stack on the device; its sheets travel once."""
    sheets = stack[0][0].sheets.to(device)
    return [
        (
            replace(batch, sheets=sheets, windows=batch.windows.to(device), objects=batch.objects.to(device)),
            {name: tensor.to(device) for name, tensor in text.items()},
        )
        for batch, text in stack
    ]


def _average_of(model: Any, decay: float) -> torch.optim.swa_utils.AveragedModel:
    follow = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=follow)


def learning_rate(step: int, done: float, peak: float, warmup_steps: int) -> float:
    """Linear warm-up, then half a cosine down to nothing when the share `done` of the run reaches 1."""
    warmup = min(1.0, (step + 1) / warmup_steps)
    return peak * warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _network(processor: Any, start: Path | None) -> Any:
    if start is not None:
        return Qwen2VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    return Qwen2VLForConditionalGeneration(architecture.build_config(processor.tokenizer))


def pretrain(
    recipe: Recipe, out: Path, *, minutes: float, start: Path | None = None, compiled: bool = False
) -> Manifest | None:
    """Run the recipe for `minutes` in all and seal the weights in `out`.

    Goes on from the state beside `out` if there is one, otherwise begins with the weights in `start` or none.
    Gives the manifest on rank 0.
    """
    take_short_ways()
    ranks = Ranks.join()
    run = Run(recipe, ranks, out.with_name(f"{out.name}.{STATE}"), start=start, compiled=compiled)
    run.until(minutes * 60)
    run.keep_state()
    manifest = run.save(out) if ranks.rank == 0 else None
    if ranks.world > 1:
        distributed.destroy_process_group()
    return manifest


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="folder of weights to begin with")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="of the sheets: another one after --start")
    parser.add_argument("--minutes", type=float, default=18.0, help="wall-clock budget, earlier parts included")
    parser.add_argument("--mlflow", action="store_true", help="log to the MLflow of NUTRIDET_HOME, too")
    parser.add_argument("--compile", action="store_true", help="fuse the blocks' kernels; starts slower")
    parser.add_argument("--rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--passes", type=int, default=Recipe.passes)
    parser.add_argument("--workers", type=int, default=Recipe.workers)
    given = parser.parse_args()
    recipe = replace(Recipe(), learning_rate=given.rate, passes=given.passes, workers=given.workers, seed=given.seed)
    manifest = pretrain(recipe, given.out, minutes=given.minutes, start=given.start, compiled=given.compile)
    if manifest is not None:
        print({name: value for name, value in manifest.facts.items() if name != "curve"})
        if given.mlflow:
            from nutridet_core.tiny.history import log_history  # the GPU may be where no MLflow is

            log_history(manifest)


if __name__ == "__main__":
    main()
