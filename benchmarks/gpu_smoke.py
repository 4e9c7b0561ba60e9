"""Qwen2-VL-7B's shape from adapter to FP8 on one GPU, through the product's own functions.

    python -m benchmarks.gpu_smoke [--shape 7b] [--base FOLDER] [--work FOLDER] [--out FILE]

With random weights: each experiment is trained on a few drawn photos that it is to memorise (one of them is killed and
resumed), the first adapter is merged, quantised, and the answers of adapter, merged and FP8 model are compared token by
token. With the embedded model's own weights: what FP8 in more or fewer modules does to boxes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessor

from benchmarks.seven import SHAPES, header, profile_of, write_base
from benchmarks.training import free_memory, peak_gib
from benchmarks.tuned import HELD_OUT_SEED, Labelled, answer, draw
from nutridet_core.compare import compare
from nutridet_core.data.dataset import DatasetSpec, prepare_dataset
from nutridet_core.experiments import EXPERIMENTS, Experiment
from nutridet_core.merge import merge, merge_into
from nutridet_core.models import (
    Source,
    attach_adapter,
    base_source,
    load_model,
    load_processor,
    quantize_activations,
)
from nutridet_core.pipeline.release import weight_bytes
from nutridet_core.predict import encode, generate
from nutridet_core.profiles import TINY, TINY_TUNED, Profile
from nutridet_core.quantize import ignored_modules, quantize, set_fp8_scales
from nutridet_core.scores import Sample, score
from nutridet_core.store import read_manifest, write_json
from nutridet_core.train import TrainingRun, checkpoints, train

RESULTS = Path(__file__).parent / "results"
SEED = 4242
STEPS = 20
ANSWER_TOKENS = 32
_KILLED_AT = 10
_CLOSE = 2.0
"""Rounding steps of a bf16 logit within which the two best tokens cannot be told apart."""


@dataclass(frozen=True)
class Smoke:
    """Where the run lies, and what was measured so far."""

    shape: str
    profile: Profile
    work: Path
    photos: list[Labelled]
    facts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Measures seconds and peak memory of a step; what the block puts into the dictionary is kept beside them."""
        free_memory()
        found: dict[str, Any] = {}
        began = time.perf_counter()
        yield found
        self.facts[name] = {"seconds": round(time.perf_counter() - began, 1), "peak_gib": peak_gib(), **found}
        print(f"{name}: {json.dumps(self.facts[name], default=str)[:400]}", flush=True)


@dataclass(frozen=True)
class Written:
    """A greedy answer, token by token."""

    tokens: list[int]
    margins: list[float]
    """Of each token, the distance of the two best logits, in rounding steps of bf16."""


def main() -> None:
    """Train, merge, quantise, compare; write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir()) / "nutridet-random-7b")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "nutridet-gpu-smoke")
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--drawn", type=int, default=500, help="photos for the embedded model")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_smoke.json")
    given = parser.parse_args()
    profile = profile_of(given.shape, given.base, max_epochs=5, learning_rate_scale=10.0)
    smoke = Smoke(given.shape, profile, given.work, draw(SEED, given.photos))
    with smoke.step("base"):
        write_base(given.shape, given.base)
    for experiment in EXPERIMENTS:
        train_one(smoke, experiment)
    merge_and_quantise(smoke)
    parity = compare_answers(smoke)
    modules = compare_modules(draw(HELD_OUT_SEED, given.drawn))
    write_json(given.out, result_of(smoke, parity, modules))


def train_one(smoke: Smoke, experiment: Experiment) -> None:
    """20 steps on photos that come again; the first experiment is killed in the middle and resumed."""
    prepare_dataset(DatasetSpec(f"generated:40:{SEED}"), smoke.work / "dataset")
    run = TrainingRun(experiment, smoke.profile, smoke.work / "dataset", smoke.work / experiment.name)
    with smoke.step(f"training {experiment.name}") as found:
        if experiment is EXPERIMENTS[0]:
            found["killed"] = _train_until_killed(run)
        manifest = train(run)
        facts = manifest.facts
        losses = [point["loss"] for point in facts["loss"]]
        newest = checkpoints(run.folder)[-1]
        found |= {
            "audits": {name: audit["passed"] for name, audit in facts["audits"].items()},
            "modules": facts["audits"]["module_audit"]["summary"],
            "steps": facts["steps"], "losses": losses, "resumed_from": facts["resumed_from"],
            "images_per_s": facts["images_per_s"], "training_peak_gib": facts["peak_gpu_gib"],
            "checkpoint_bytes": sum(path.stat().st_size for path in newest.iterdir()),
        }  # fmt: skip
        if not losses[-1] < losses[0]:
            raise SystemExit(f"{experiment.name}: the loss did not fall: {losses}")


class _KilledError(Exception):
    """Stands for a kill; the trainer's own clean-up does not run."""


def _train_until_killed(run: TrainingRun) -> str:
    def kill(metrics: dict[str, float], step: int) -> None:
        if step >= _KILLED_AT:
            raise _KilledError

    try:
        train(run, on_metrics=kill)
    except _KilledError:
        free_memory()
        return f"at step {_KILLED_AT}, with {len(checkpoints(run.folder))} checkpoints"
    return "never"


def merge_and_quantise(smoke: Smoke) -> None:
    """The first experiment's last checkpoint into bf16, then FP8."""
    adapter = checkpoints(smoke.work / EXPERIMENTS[0].name)[-1]
    with smoke.step("merge") as found:
        merge(smoke.profile, adapter, smoke.work / "merged", name="merged")
        found["bytes"] = weight_bytes(smoke.work / "merged")
    with smoke.step("quantise") as found:
        quantize(smoke.profile, smoke.work / "merged", smoke.work / "fp8", name="fp8")
        found["bytes"] = weight_bytes(smoke.work / "fp8")


def compare_answers(smoke: Smoke) -> dict[str, Any]:
    """Adapter, merged and FP8 model on the same photos; the adapter twice, in batches of another size."""
    adapter = checkpoints(smoke.work / EXPERIMENTS[0].name)[-1]
    loads: dict[str, Callable[[], Any]] = {
        "adapter": lambda: attach_adapter(_load(smoke, base_source(smoke.profile)), adapter, smoke.profile.contract),
        "merged": lambda: _load(smoke, Source(str(smoke.work / "merged"))),
        "fp8": lambda: _load(smoke, Source(str(smoke.work / "fp8"))),
    }
    written: dict[str, list[Written]] = {}
    logits: dict[str, torch.Tensor] = {}
    for name, load in loads.items():
        with smoke.step(f"answers {name}") as found:
            model = load()
            began = time.perf_counter()
            written[name] = write_answers(smoke, model, batch_size=16)
            found["images_per_s"] = len(smoke.photos) / (time.perf_counter() - began)
            logits[name] = first_logits(smoke, model)
            if name == "adapter":
                written["adapter again, batches of 8"] = write_answers(smoke, model, batch_size=8)
            del model
    reference = written.pop("adapter")
    agreement = {name: agreement_of(reference, answers) for name, answers in written.items()}
    agreement["fp8 against merged"] = agreement_of(written["merged"], written["fp8"])
    change = {name: _relative(logits[name], logits["adapter"]) for name in ("merged", "fp8")}
    return {"agreement": agreement, "relative_change_of_logits": change}


def _load(smoke: Smoke, source: Source) -> Any:
    return load_model(source, smoke.profile.architecture, "bf16", smoke.profile.contract)


class _Margins(LogitsProcessor):
    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        best = scores.float().topk(2, dim=-1).values
        rounding = torch.exp2(best[:, 0].abs().clamp(min=1e-3).log2().floor() - 7)  # bf16 keeps 8 bits of a number
        self.steps.append((best[:, 0] - best[:, 1]) / rounding)
        return scores


def write_answers(smoke: Smoke, model: Any, *, batch_size: int) -> list[Written]:
    """A greedy answer per photo."""
    processor = load_processor(base_source(smoke.profile), smoke.profile.architecture, smoke.profile.contract)
    pad, written = processor.tokenizer.pad_token_id, []
    for at in range(0, len(smoke.photos), batch_size):
        images = [photo.image for photo in smoke.photos[at : at + batch_size]]
        watch = _Margins()
        inputs = encode(processor, smoke.profile.contract, images)
        tokens, _ = generate(model, processor, inputs, ANSWER_TOKENS, [watch])
        margins = torch.stack(watch.steps, dim=1).tolist()
        for row, distances in zip(tokens.tolist(), margins, strict=True):
            kept = [token for token in row if token != pad]
            written.append(Written(kept, distances[: len(kept)]))
    return written


@torch.inference_mode()
def first_logits(smoke: Smoke, model: Any) -> torch.Tensor:
    """Logits of the first token of an answer, for 16 photos."""
    processor = load_processor(base_source(smoke.profile), smoke.profile.architecture, smoke.profile.contract)
    images = [photo.image for photo in smoke.photos[:16]]
    inputs = encode(processor, smoke.profile.contract, images).to(model.device)
    return torch.as_tensor(model(**inputs, logits_to_keep=1).logits[:, -1]).float().cpu()


def agreement_of(reference: Sequence[Written], other: Sequence[Written]) -> dict[str, Any]:
    """How many answers are the same, and how close the two best tokens were where the others part."""
    parted = [
        (mine, _first_difference(mine.tokens, theirs.tokens)) for mine, theirs in zip(reference, other, strict=True)
    ]
    margins = [mine.margins[at] if at < len(mine.margins) else float("inf") for mine, at in parted if at is not None]
    decided = [at is None for mine, at in parted if min(mine.margins) > _CLOSE]
    return {
        "n": len(parted),
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


def _relative(one: torch.Tensor, reference: torch.Tensor) -> float:
    return float((one - reference).norm() / reference.norm())


_VISION = ignored_modules(TINY.architecture, tied=False)
KEPT = {
    "vision tower and head kept": (*_VISION, "lm_head"),
    "vision attention and head kept": (r"re:.*\.attn\.(qkv|proj)", r"re:.*\.merger\..*", "lm_head"),
    "merger and head kept": (r"re:.*\.merger\..*", "lm_head"),
    "vision tower kept": _VISION,
    "nothing kept": (),
}
"""Modules that stay in bf16, by name of the variant."""


def compare_modules(photos: list[Labelled]) -> dict[str, Any]:
    """The embedded model with its shipped adapter, merged, and in FP8 with more or fewer modules kept out."""
    processor = load_processor(base_source(TINY), TINY.architecture, TINY.contract)
    merged, adapter = (answer(model, processor, photos) for model in (_tuned(), _with_adapter()))
    found: dict[str, Any] = {
        "n": len(photos),
        "bf16": {"mean_iou": score("bf16", "drawn", merged).to_dict()["metrics"]["mean_iou"]},
        "adapter against merged": share(_same(adapter, merged), len(photos)),
    }
    for name, kept in KEPT.items():
        model = _tuned()
        set_fp8_scales(model, kept)
        quantize_activations(model)
        comparison = compare("bf16", name, merged, answer(model, processor, photos))
        found[name] = {"mean_iou_minus_bf16": asdict(comparison.mean_iou), "same_answers": comparison.same_answers,
                       "size_ratio_at_7b": size_ratio(kept)}  # fmt: skip
        print(name, found[name], flush=True)
    return found


def _same(one: Sequence[Sample], other: Sequence[Sample]) -> int:
    return sum(mine.text == theirs.text for mine, theirs in zip(one, other, strict=True))


def _tuned() -> Any:
    return merge_into(_with_adapter())


def _with_adapter() -> Any:
    model = load_model(base_source(TINY), TINY.architecture, "bf16", TINY.contract)
    return attach_adapter(model, TINY_TUNED, TINY.contract)


def size_ratio(kept: Sequence[str]) -> float:
    """Bytes of the 7B model with FP8 everywhere but in `kept`, over those in bf16."""
    from compressed_tensors.utils import match_named_modules
    from transformers import Qwen2VLForConditionalGeneration

    from benchmarks.seven import config_of

    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(config_of("7b"))
    rounded = sum(module.weight.numel() for _, module in match_named_modules(model, ["Linear"], list(kept)))
    everything = sum(parameter.numel() for parameter in model.parameters())
    return (2 * everything - rounded) / (2 * everything)


def result_of(smoke: Smoke, parity: dict[str, Any], modules: dict[str, Any]) -> dict[str, Any]:
    """In the form of the result files."""
    facts, agreement = smoke.facts, parity["agreement"]
    return {
        **header(f"python -m benchmarks.gpu_smoke --shape {smoke.shape}"),
        "n": len(smoke.photos),
        "image_tokens": SHAPES[smoke.shape]["cells"],
        "metrics": {
            "qlora_r64_bs8_peak_gib": facts["training exp1a"]["training_peak_gib"],
            "merge_answer_agreement": agreement["merged"]["same"],
            "merge_answer_agreement_where_clear": agreement["merged"]["same_where_every_margin_is_clear"],
            "fp8_size_ratio": facts["quantise"]["bytes"] / facts["merge"]["bytes"],
        },
        "parity": parity,
        "embedded_model": modules,
        "steps": facts,
        "contract": read_manifest(smoke.work / "merged", verify=False).contract,
    }


if __name__ == "__main__":
    main()
