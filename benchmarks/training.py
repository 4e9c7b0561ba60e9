"""Training speed: the published recipe, and what is gained step by step, on one GPU with the same photos and tokens.

    python -m benchmarks.training [--shape 7b] [--base FOLDER] [--out FILE]

Every row trains the same random-weight model on the same drawn photos, one optimiser step after another; the last row
is the product's own `train`, with data loading, logging and checkpoints. The ceiling is measured in the same run: an
adapter's step passes a photo forward and its gradient back through the language model, so it cannot take less than two
forward passes of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from trl.trainer.utils import add_fused_lm_head

from benchmarks.measures import free_memory, header, peak_gib, rate, ratio
from benchmarks.seven import SHAPES, profile_of, write_base
from benchmarks.tuned import Labelled, draw
from nutridet_core.artifacts.store import write_json
from nutridet_core.data.dataset import DatasetSpec, prepare_dataset
from nutridet_core.experiments import EXPERIMENTS
from nutridet_core.families import lora_pattern
from nutridet_core.features import FeatureStore, cache_features
from nutridet_core.models import base_source, compile_layers, language_layers, load_model, load_processor
from nutridet_core.profiles import Profile
from nutridet_core.prompts import prompt_text
from nutridet_core.training.train import train
from nutridet_core.training.trainer import Collator, TrainingRun, completion

RESULTS = Path(__file__).parent / "results"
SEED = 4242
_WARM_UP = 3


@dataclass(frozen=True)
class Recipe:
    """One way to take a training step."""

    name: str
    precision: Literal["nf4", "bf16"] = "nf4"
    rank: int = 64
    targets: Literal["q_v", "all"] = "all"
    batch: int = 8
    checkpointed: float = 1.0
    """Share of the language model's layers that forget their activations."""
    answer_only: bool = True
    """Loss and head on the answer's tokens; otherwise on nearly the whole chat, as the published mask had it."""
    cached: bool = True
    """Vision features are computed once."""
    compiled: bool = False
    paged: bool = False
    """8-bit AdamW in paged memory, instead of PyTorch's fused one."""


PUBLISHED = Recipe("published recipe, its LoRA on q and v", rank=8, targets="q_v", batch=1, answer_only=False,
                   cached=False, paged=True)  # fmt: skip
BASELINE = replace(PUBLISHED, name="published recipe, LoRA on all layers", rank=64, targets="all")
_BATCHED = replace(BASELINE, name="batch of 8", batch=8)
_ANSWER = replace(_BATCHED, name="+ loss and head on the answer only", answer_only=True)
_CACHED = replace(_ANSWER, name="+ cached vision features", cached=True)
_FUSED = replace(_CACHED, name="+ fused AdamW", paged=False)
NF4 = replace(_FUSED, name="+ compiled layers", compiled=True)
_NF4_KEPT = replace(NF4, name="+ half of the layers keep activations", checkpointed=0.5)
_BF16 = replace(_FUSED, name="weights in bf16 instead of NF4", precision="bf16")
_BF16_COMPILED = replace(_BF16, name="bf16 + compiled layers", compiled=True)
_BF16_HALF = replace(_BF16_COMPILED, name="bf16 + half keep activations", checkpointed=0.5)
_BF16_KEPT = replace(_BF16_COMPILED, name="bf16 + all keep activations", checkpointed=0.0)
_BF16_SMALL = replace(_BF16_KEPT, name="bf16 + all keep activations, batch of 4", batch=4)
RECIPES = (PUBLISHED, BASELINE, _BATCHED, _ANSWER, _CACHED, _FUSED, NF4, _NF4_KEPT,
           _BF16, _BF16_COMPILED, _BF16_HALF, _BF16_KEPT, _BF16_SMALL)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    shape: str
    base: Path
    photos: list[Labelled]
    steps: int

    @property
    def profile(self) -> Profile:
        """7B, on these weights."""
        return profile_of(self.shape, self.base)


def main() -> None:
    """Measure every row, the ceiling and the product; write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir()) / "nutridet-random-7b")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULTS / "training.json")
    given = parser.parse_args()
    bench = Bench(given.shape, write_base(given.shape, given.base), square_photos(given.shape, 8), given.steps)
    forward = measure_forward(bench)
    rows = list(measure_all(bench))
    write_json(given.out, result_of(bench, rows, forward))  # a GPU may be taken away before the last part
    write_json(given.out, result_of(bench, rows, forward) | {"product": measure_product(bench)})


def square_photos(shape: str, count: int) -> list[Labelled]:
    """Drawn photos, scaled to squares so that all have the shape's number of image tokens."""
    side = round(SHAPES[shape]["cells"] ** 0.5) * 28
    return [replace(photo, image=photo.image.resize((side, side), Image.Resampling.LANCZOS)) for photo in
            draw(SEED, count)]  # fmt: skip


def measure_all(bench: Bench) -> Iterator[dict[str, Any]]:
    """A row per recipe, the weights loaded once for each precision."""
    processor = load_processor(base_source(bench.profile), bench.profile.architecture, bench.profile.contract)
    for precision in ("nf4", "bf16"):
        began = time.perf_counter()
        model = load_model(base_source(bench.profile), bench.profile.architecture, precision, bench.profile.contract)
        print(f"{precision}: loaded in {time.perf_counter() - began:.1f} s", flush=True)
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
        for recipe in RECIPES:
            if recipe.precision == precision:
                row = measure(bench, recipe, model, processor)
                print(_line(row), flush=True)
                yield row
        del model
        free_memory()


def measure(bench: Bench, recipe: Recipe, base: Any, processor: Any) -> dict[str, Any]:
    """Seconds of each step and peak memory; an out-of-memory error is a row as well."""
    free_memory()
    model = _dress(bench, recipe, base)
    try:
        times = _step_times(bench, recipe, model, processor)
        return asdict(recipe) | {"times": times, "peak_gib": peak_gib()}
    except torch.OutOfMemoryError as error:
        return asdict(recipe) | {"failed": str(error).split(". ")[0]}
    finally:
        _undress(model)


def _step_times(bench: Bench, recipe: Recipe, model: Any, processor: Any) -> list[float]:
    batches, optimiser = _batches(bench, recipe, processor), _optimiser(recipe, model)
    times: list[float] = []
    while len(times) < _WARM_UP + bench.steps:
        for batch in batches:
            began = _now()
            _step(model, batch, optimiser, recipe)
            times.append(_now() - began)
    return times[_WARM_UP:]


def _dress(bench: Bench, recipe: Recipe, base: Any) -> Any:
    """The base with the recipe's adapter and switches."""
    family = bench.profile.architecture
    everything = lora_pattern(family, frozenset({"language"}))
    pattern = everything if recipe.targets == "all" else r"model\.language_model\.layers\.\d+\.self_attn\.[qv]_proj"
    model = get_peft_model(base, LoraConfig(r=recipe.rank, lora_alpha=16, lora_dropout=0.05, target_modules=pattern))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(base.dtype)
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    layers = language_layers(model)
    for number, layer in enumerate(layers):
        layer.gradient_checkpointing = number < recipe.checkpointed * len(layers)
    if recipe.cached:
        cache_features(model, family, FeatureStore())
    if recipe.compiled:
        compile_layers(model)
    return model.train()


def _undress(model: Any) -> None:
    """Leave the base as it was loaded."""
    base = model.unload()
    vars(base.model.visual).pop("forward", None)
    for layer in language_layers(base):
        layer._compiled_call_impl = None


def _batches(bench: Bench, recipe: Recipe, processor: Any) -> list[Any]:
    contract = bench.profile.contract
    prompt = prompt_text(contract, processor)
    collate = Collator(processor, mask_prompt=recipe.answer_only)
    rows = [
        {"image": photo.image, "prompt": prompt,
         "completion": completion(contract, [box.as_tuple() for box in photo.tables], *photo.image.size)}
        for photo in bench.photos
    ]  # fmt: skip
    return [collate(rows[at : at + recipe.batch]) for at in range(0, len(rows), recipe.batch)]


def _optimiser(recipe: Recipe, model: Any) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.paged and torch.cuda.is_available():
        from bitsandbytes.optim import PagedAdamW8bit

        return PagedAdamW8bit(trained, lr=1e-4)
    return torch.optim.AdamW(trained, lr=1e-4, fused=True)


def _step(model: Any, batch: Any, optimiser: torch.optim.Optimizer, recipe: Recipe) -> None:
    inputs = {name: value.to(model.device, non_blocking=True) for name, value in batch.items()}
    loss = model(**inputs, fused_lm_head=True).loss if recipe.answer_only else model(**inputs, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 0.3)
    optimiser.step()
    optimiser.zero_grad()


@torch.inference_mode()
def measure_forward(bench: Bench) -> dict[str, list[float]]:
    """Seconds of the two towers' forward passes over a batch of 8, in bf16, without an adapter."""
    profile = bench.profile
    model = load_model(base_source(profile), profile.architecture, "bf16", profile.contract)
    processor = load_processor(base_source(profile), profile.architecture, profile.contract)
    (batch,) = _batches(bench, NF4, processor)
    inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
    embedded = model.get_input_embeddings()(inputs["input_ids"])
    seen = {"pixel_values": inputs["pixel_values"].to(model.dtype), "grid_thw": inputs["image_grid_thw"]}
    passes: dict[str, Callable[[], Any]] = {
        "vision tower": lambda: model.model.visual(seen["pixel_values"], grid_thw=seen["grid_thw"]),
        "language model": lambda: model.model.language_model(inputs_embeds=embedded, use_cache=False),
    }
    return {name: _timed(run, bench.steps) for name, run in passes.items()}


def _timed(run: Callable[[], Any], steps: int) -> list[float]:
    times = []
    for _ in range(_WARM_UP + steps):
        began = time.perf_counter()
        run()
        times.append(_now() - began)
    return times[_WARM_UP:]


def measure_product(bench: Bench) -> dict[str, Any]:
    """`train` itself, on bf16 weights: seconds of a step between its log lines, after the first epoch."""
    free_memory()
    folder = Path(tempfile.mkdtemp(prefix="nutridet-training-"))
    prepare_dataset(DatasetSpec(f"generated:120:{SEED}"), folder / "dataset")
    profile = replace(bench.profile, training_precision="bf16", compile_layers=True, max_epochs=3)
    seen: list[tuple[int, float]] = []
    run = TrainingRun(EXPERIMENTS[0], profile, folder / "dataset", folder / "adapter")
    manifest = train(run, on_metrics=lambda metrics, step: seen.append((step, _now())))
    first = manifest.facts["steps"] // profile.max_epochs
    kept = [point for point in seen if point[0] > first]
    pairs = list(pairwise(kept))
    seconds = [(after - before) / (end - begin) for (begin, before), (end, after) in pairs if end > begin]
    speed = rate(seconds, profile.train_batch_size)
    return {"images_per_s": speed, "peak_gib": peak_gib(), "facts": manifest.facts}


def result_of(bench: Bench, rows: list[dict[str, Any]], forward: dict[str, list[float]]) -> dict[str, Any]:
    """Rates with intervals, and ratios to the published recipe and to the ceiling."""
    rates = {row["name"]: rate(row["times"], row["batch"]) for row in rows if "times" in row}
    passes = {name: rate(times, len(bench.photos)) for name, times in forward.items()}
    ceiling = passes["language model"]["value"] / 2
    best = max(rates, key=lambda name: rates[name]["value"])
    table = [
        row | {"images_per_s": rates[row["name"]], "share_of_ceiling": rates[row["name"]]["value"] / ceiling,
               "ratio_to_published": ratio(rates[row["name"]], rates[PUBLISHED.name])}
        if "times" in row else row for row in rows
    ]  # fmt: skip
    return {
        **header(f"python -m benchmarks.training --shape {bench.shape}"),
        "n": bench.steps,
        "image_tokens": SHAPES[bench.shape]["cells"],
        "metrics": {
            "ratio_to_seed_recipe": ratio(rates[best], rates[BASELINE.name]),
            "ratio_to_seed_recipe_as_published": ratio(rates[best], rates[PUBLISHED.name]),
            "ratio_to_seed_recipe_nf4": ratio(rates[NF4.name], rates[BASELINE.name]),
            "images_per_s": rates[best],
            "share_of_ceiling": rates[best]["value"] / ceiling,
            "ceiling_images_per_s": ceiling,
            "peak_gib": next(row["peak_gib"] for row in rows if row["name"] == best),
        },
        "best": best,
        "forward_images_per_s": passes,
        "rows": table,
    }


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _line(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"{row['name']}: {row['failed']}"
    found = rate(row["times"], row["batch"])
    return (
        f"{row['name']}: {found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}] images/s, {row['peak_gib']} GiB"
    )


if __name__ == "__main__":
    main()
