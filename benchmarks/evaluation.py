"""Speed of scoring checkpoints: one photo at a time with a reload for each, as published, against this project's way.

    python -m benchmarks.evaluation [--shape 7b] [--base FOLDER] [--out FILE]
    python -m benchmarks.evaluation --trained .nutridet/artifacts/tiny/adapters [--out FILE]

Base and adapters have random weights of the real shape; with `--trained` they are the embedded model and the
checkpoints of a run, whose answers mean something: then the slow way is measured whole as well. Ours always is, through
what the pipeline uses; otherwise the slow way answers some photos of one checkpoint, after ours, so that files are in
memory, and its total is counted from that.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from peft import get_peft_model
from PIL import Image

from benchmarks.agreement import agreement_of, share, write_answers
from benchmarks.measures import free_memory, header, peak_gib, rate
from benchmarks.seven import SHAPES, profile_of, write_base
from benchmarks.training import SEED
from benchmarks.tuned import draw
from nutridet_core.artifacts.store import Manifest, seal, write_json
from nutridet_core.experiments import EXPERIMENTS
from nutridet_core.features import FeatureStore, cache_features
from nutridet_core.models import attach_adapter, base_source, load_model, load_processor, lora_config
from nutridet_core.predict import Batches, Prediction, photos_at_once, predict, predict_batches
from nutridet_core.profiles import TINY, Profile
from nutridet_core.release.merge import TemporaryMerge

RESULTS = Path(__file__).parent / "results"
ANSWER_TOKENS = 32
_KEEP_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Bench:
    """What both ways share."""

    profile: Profile
    photos: Sequence[Callable[[], Image.Image]]
    checkpoints: Sequence[Path]
    answer_tokens: int
    """At most; random weights never end an answer by themselves."""


def main() -> None:
    """Measure both ways, compare answers, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir()) / "nutridet-random-7b")
    parser.add_argument("--trained", type=Path, help="adapters of a run of the profile tiny, instead of random ones")
    parser.add_argument("--checkpoints", type=int, default=7)
    parser.add_argument("--photos", type=int, default=123)
    parser.add_argument("--alone", type=int, default=16, help="photos that are answered one at a time")
    parser.add_argument("--out", type=Path, help="default: evaluation.json or evaluation_tiny.json among the results")
    given = parser.parse_args()
    drawn = draw(SEED + 1, given.photos)
    photos = [lambda photo=photo: photo.image for photo in drawn]
    if given.trained:
        bench = Bench(TINY, photos, sorted(given.trained.glob("*/checkpoint-*")), TINY.max_new_tokens)
        result = compare(bench, len(photos), bench.checkpoints)
        command = "make demo && python -m benchmarks.evaluation --trained .nutridet/artifacts/tiny/adapters"
    else:
        profile = profile_of(given.shape, write_base(given.shape, given.base))
        with tempfile.TemporaryDirectory() as folder:
            adapters = write_adapters(profile, Path(folder), given.checkpoints)
            bench = Bench(profile, photos, adapters, ANSWER_TOKENS)
            result = compare(bench, given.alone, bench.checkpoints[:1])
            result["agreement"] = agreement(bench, given.alone)
        command = f"python -m benchmarks.evaluation --shape {given.shape}"
    out = given.out or RESULTS / f"evaluation{'_tiny' if given.trained else ''}.json"
    write_json(out, {**header(command), **result})


def compare(bench: Bench, count: int, checkpoints: Sequence[Path]) -> dict[str, Any]:
    """Ours for all of it, the slow way for so many photos of these checkpoints; whether the answers are the same."""
    fast, answers = all_at_once(bench)
    slow, alone = one_by_one(bench, count, checkpoints)
    pairs = [pair for mine, theirs in zip(alone, answers, strict=False) for pair in zip(mine, theirs, strict=False)]
    same = share(sum(mine == theirs for mine, theirs in pairs), len(pairs))
    return result_of(bench, slow, fast) | {"same_answers": same}


def write_adapters(profile: Profile, folder: Path, count: int) -> list[Path]:
    """Random adapters of rank 64 on the language model, sealed as checkpoints are."""
    model = load_model(base_source(profile), profile.architecture, "bf16", profile.contract)
    adapted = get_peft_model(model, lora_config(EXPERIMENTS[0], profile))
    paths = [folder / f"checkpoint-{number}" for number in range(1, count + 1)]
    for path in paths:
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter, std=0.01)
        adapted.save_pretrained(path)
        seal(path, Manifest(kind="checkpoint", name=path.name, contract=profile.contract.hash))
    return paths


def one_by_one(bench: Bench, count: int, checkpoints: Sequence[Path]) -> tuple[dict[str, Any], list[list[str]]]:
    """For each of these checkpoints: load the base, put it on, and answer `count` photos one at a time.

    Returns:
        What it took, and the answers by checkpoint.
    """
    loads, times, answers = [], [], []
    for checkpoint in checkpoints:
        free_memory()
        began = time.perf_counter()
        model, processor = _load(bench)
        model = attach_adapter(model, checkpoint, bench.profile.contract)
        loads.append(time.perf_counter() - began)
        _answer(bench, model, processor, bench.photos[:2])
        answers.append([])
        for photo in bench.photos[:count]:
            began = time.perf_counter()
            answers[-1] += _answer(bench, model, processor, [photo])
            times.append(time.perf_counter() - began)
        print(f"one by one: {loads[-1]:.1f} s to load, {len(times) / sum(times):.2f} photos/s", flush=True)
    return {"load_seconds": fmean(loads), "times": times, "peak_gib": peak_gib()}, answers


def all_at_once(bench: Bench) -> tuple[dict[str, Any], list[list[str]]]:
    """Every checkpoint on all photos: one load, adapters swapped and merged for as long as they are scored, vision
    features kept, batches prepared ahead.

    Returns:
        What it took, and the answers by checkpoint.
    """
    free_memory()
    began = time.perf_counter()
    model, processor = _load(bench)
    loaded, features, merge = time.perf_counter() - began, FeatureStore(), TemporaryMerge()
    times, wearing, answers, contract = [], [], [], bench.profile.contract
    together = photos_at_once(model, bench.profile)
    batches = Batches(processor, contract, bench.photos, together, keep_bytes=_KEEP_BYTES)
    for checkpoint in bench.checkpoints:
        began = time.perf_counter()
        merge.take_out(model)
        model = attach_adapter(model, checkpoint, contract)
        merged = merge.put_in(model)
        cache_features(model.requires_grad_(False), bench.profile.architecture, features)
        wearing.append(time.perf_counter() - began)
        answers.append(_texts(predict_batches(model, batches, max_new_tokens=bench.answer_tokens)))
        times.append(time.perf_counter() - began)
        rate_now = len(bench.photos) / times[-1]
        print(f"{checkpoint.name}: {wearing[-1]:.1f} s to put on, {rate_now:.1f} photos/s in all", flush=True)
    return {"load_seconds": loaded, "times": times, "of_these_to_put_on": wearing, "photos_at_once": together,
            "merged": merged, "peak_gib": peak_gib(),
            "features": {"computed": features.computed, "reused": features.reused}}, answers  # fmt: skip


def agreement(bench: Bench, count: int) -> dict[str, Any]:
    """Answers of one checkpoint beside its base one at a time, and merged in batches, and where they part."""
    model, processor = _load(bench)
    model = attach_adapter(model, bench.checkpoints[0], bench.profile.contract)
    images = [open_photo() for open_photo in bench.photos[:count]]
    alone = write_answers(model, processor, bench.profile.contract, images, 1)
    TemporaryMerge().put_in(model)
    return agreement_of(alone, write_answers(model, processor, bench.profile.contract, images, count))


def _load(bench: Bench) -> tuple[Any, Any]:
    source, family, contract = base_source(bench.profile), bench.profile.architecture, bench.profile.contract
    precision = bench.profile.scoring_precision
    return load_model(source, family, precision, contract), load_processor(source, family, contract)


def _answer(bench: Bench, model: Any, processor: Any, photos: Any) -> list[str]:
    contract, longest = bench.profile.contract, bench.answer_tokens
    return _texts(predict(model, processor, contract, photos, batch_size=1, max_new_tokens=longest))


def _texts(predictions: Sequence[Prediction]) -> list[str]:
    return [prediction.answer.text for prediction in predictions]


def result_of(bench: Bench, slow: dict[str, Any], fast: dict[str, Any]) -> dict[str, Any]:
    """Totals of both ways, and their ratio."""
    photo_seconds = sum(slow["times"]) / len(slow["times"])
    total_slow = len(bench.checkpoints) * (slow["load_seconds"] + len(bench.photos) * photo_seconds)
    total_fast = fast["load_seconds"] + sum(fast["times"])
    return {
        "n": len(bench.photos),
        "checkpoints": len(bench.checkpoints),
        "answer_tokens": bench.answer_tokens,
        "metrics": {
            "ratio_to_one_by_one": total_slow / total_fast,
            "one_by_one_seconds": total_slow,
            "seconds": total_fast,
            "photos_per_s": rate(fast["times"], len(bench.photos)),
            "photos_per_s_one_by_one": rate(slow["times"], 1),
        },
        "one_by_one": slow,
        "all_at_once": fast,
    }


if __name__ == "__main__":
    main()
