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

from benchmarks.agreement import Written, agreement_of, share, write_answers
from benchmarks.measures import free_memory, header, peak_gib
from benchmarks.seven import SHAPES, profile_of, write_base
from benchmarks.tuned import HELD_OUT_SEED, Labelled, answer, draw
from nutridet_core.artifacts.layout import checkpoints
from nutridet_core.artifacts.store import read_manifest, write_json
from nutridet_core.data.dataset import DatasetSpec, prepare_dataset
from nutridet_core.evaluation.compare import compare
from nutridet_core.evaluation.scores import Sample, score
from nutridet_core.experiments import EXPERIMENTS, Experiment
from nutridet_core.models import (
    Source,
    attach_adapter,
    base_source,
    load_model,
    load_processor,
    quantize_activations,
)
from nutridet_core.pipeline.release import weight_bytes
from nutridet_core.predict import encode
from nutridet_core.profiles import TINY, TINY_TUNED, Profile
from nutridet_core.release.merge import merge, merge_into
from nutridet_core.release.quantize import ignored_modules, quantize, set_fp8_scales
from nutridet_core.training.train import train
from nutridet_core.training.trainer import TrainingRun

RESULTS = Path(__file__).parent / "results"
SEED = 4242
STEPS = 20
CARD_BYTES = 24 * 10**9
_KILLED_AT = 10


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
    with small_card():
        for experiment in EXPERIMENTS:
            train_one(smoke, experiment)
    merge_and_quantise(smoke)
    parity = compare_answers(smoke)
    modules = compare_modules(draw(HELD_OUT_SEED, given.drawn))
    write_json(given.out, result_of(smoke, parity, modules))


@contextmanager
def small_card() -> Iterator[None]:
    """No more memory than the card that the profile is for: what does not fit there fails here."""
    if not torch.cuda.is_available():
        yield
        return
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, CARD_BYTES / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


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
            written[name] = _write(smoke, model, 16)
            found["images_per_s"] = len(smoke.photos) / (time.perf_counter() - began)
            logits[name] = first_logits(smoke, model)
            if name == "adapter":
                written["adapter again, batches of 8"] = _write(smoke, model, 8)
            del model
    reference = written.pop("adapter")
    agreement = {name: agreement_of(reference, answers) for name, answers in written.items()}
    agreement["fp8 against merged"] = agreement_of(written["merged"], written["fp8"])
    change = {name: _relative(logits[name], logits["adapter"]) for name in ("merged", "fp8")}
    return {"agreement": agreement, "relative_change_of_logits": change}


def _write(smoke: Smoke, model: Any, batch_size: int) -> list[Written]:
    contract = smoke.profile.contract
    processor = load_processor(base_source(smoke.profile), smoke.profile.architecture, contract)
    return write_answers(model, processor, contract, [photo.image for photo in smoke.photos], batch_size)


def _load(smoke: Smoke, source: Source) -> Any:
    return load_model(source, smoke.profile.architecture, "bf16", smoke.profile.contract)


@torch.inference_mode()
def first_logits(smoke: Smoke, model: Any) -> torch.Tensor:
    """Logits of the first token of an answer, for 16 photos."""
    processor = load_processor(base_source(smoke.profile), smoke.profile.architecture, smoke.profile.contract)
    images = [photo.image for photo in smoke.photos[:16]]
    inputs = encode(processor, smoke.profile.contract, images).to(model.device)
    return torch.as_tensor(model(**inputs, logits_to_keep=1).logits[:, -1]).float().cpu()


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


def _peaks(facts: dict[str, Any]) -> list[float]:
    """GiB of each training."""
    return [facts[f"training {experiment.name}"]["training_peak_gib"] or 0.0 for experiment in EXPERIMENTS]


def result_of(smoke: Smoke, parity: dict[str, Any], modules: dict[str, Any]) -> dict[str, Any]:
    """In the form of the result files."""
    facts, agreement = smoke.facts, parity["agreement"]
    return {
        **header(f"python -m benchmarks.gpu_smoke --shape {smoke.shape}"),
        "n": len(smoke.photos),
        "image_tokens": SHAPES[smoke.shape]["cells"],
        "metrics": {
            "qlora_r64_bs8_peak_gib": max(_peaks(facts)),
            "merge_answer_agreement": agreement["merged"]["same"],
            "merge_answer_agreement_where_margins_allow": agreement["merged"]["same_or_parted_within_rounding"],
            "fp8_size_ratio": facts["quantise"]["bytes"] / facts["merge"]["bytes"],
        },
        "parity": parity,
        "embedded_model": modules,
        "steps": facts,
        "contract": read_manifest(smoke.work / "merged", verify=False).contract,
    }


if __name__ == "__main__":
    main()
