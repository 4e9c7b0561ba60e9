"""Speed of scoring checkpoints: one photo at a time with a reload for each, as published, against this project's way.

    python -m benchmarks.evaluation CHECKPOINT... [--shape 7b] [--base FOLDER] [--out FILE]

The checkpoints are adapters of the random-weight model, for example those that `benchmarks.gpu_smoke` leaves. The slow
way is measured on some photos of one checkpoint, and its total counted from that; ours is measured whole.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.seven import SHAPES, header, profile_of
from benchmarks.training import SEED, free_memory, peak_gib, rate
from benchmarks.tuned import draw
from nutridet_core.features import FeatureStore, cache_features
from nutridet_core.models import attach_adapter, base_source, load_model, load_processor
from nutridet_core.predict import Prediction, predict
from nutridet_core.profiles import Profile
from nutridet_core.store import write_json

RESULTS = Path(__file__).parent / "results"
ANSWER_TOKENS = 32


@dataclass(frozen=True)
class Bench:
    """What both ways share."""

    profile: Profile
    photos: Sequence[Callable[[], Image.Image]]
    checkpoints: Sequence[Path]


def main() -> None:
    """Measure both ways, compare their answers, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir()) / "nutridet-random-7b")
    parser.add_argument("--photos", type=int, default=123)
    parser.add_argument("--alone", type=int, default=16, help="photos that are answered one at a time")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS / "evaluation.json")
    given = parser.parse_args()
    drawn = draw(SEED + 1, given.photos)
    photos = [lambda photo=photo: photo.image for photo in drawn]
    bench = Bench(profile_of(given.shape, given.base, score_batch_size=given.batch), photos, given.checkpoints)
    slow = one_by_one(bench, given.alone)
    fast = all_at_once(bench)
    write_json(given.out, result_of(given.shape, bench, slow, fast))


def one_by_one(bench: Bench, count: int) -> dict[str, Any]:
    """Load the base, put the first checkpoint on, and answer `count` photos one at a time."""
    free_memory()
    began = time.perf_counter()
    model, processor = _load(bench)
    model = attach_adapter(model, bench.checkpoints[0], bench.profile.contract)
    loaded = time.perf_counter() - began
    _answer(bench, model, processor, bench.photos[:2], 1)
    times, predictions = [], []
    for photo in bench.photos[:count]:
        began = time.perf_counter()
        predictions += _answer(bench, model, processor, [photo], 1)
        times.append(time.perf_counter() - began)
    print(f"one by one: {loaded:.1f} s to load, {len(times) / sum(times):.2f} photos/s", flush=True)
    return {"load_seconds": loaded, "times": times, "predictions": predictions, "peak_gib": peak_gib()}


def all_at_once(bench: Bench) -> dict[str, Any]:
    """Every checkpoint on all photos: one load, adapters swapped, vision features kept, batches prepared ahead."""
    free_memory()
    began = time.perf_counter()
    model, processor = _load(bench)
    loaded, features = time.perf_counter() - began, FeatureStore()
    times, predictions = [], []
    for checkpoint in bench.checkpoints:
        began = time.perf_counter()
        model = attach_adapter(model, checkpoint, bench.profile.contract)
        cache_features(model.requires_grad_(False), bench.profile.architecture, features)
        predictions.append(_answer(bench, model, processor, bench.photos, bench.profile.score_batch_size))
        times.append(time.perf_counter() - began)
        print(f"{checkpoint.name}: {len(bench.photos) / times[-1]:.1f} photos/s", flush=True)
    return {"load_seconds": loaded, "times": times, "predictions": predictions, "peak_gib": peak_gib(),
            "features": {"computed": features.computed, "reused": features.reused}}  # fmt: skip


def _load(bench: Bench) -> tuple[Any, Any]:
    source, family, contract = base_source(bench.profile), bench.profile.architecture, bench.profile.contract
    return load_model(source, family, "bf16", contract), load_processor(source, family, contract)


def _answer(bench: Bench, model: Any, processor: Any, photos: Any, batch_size: int) -> list[Prediction]:
    return predict(
        model, processor, bench.profile.contract, photos, batch_size=batch_size, max_new_tokens=ANSWER_TOKENS
    )


def result_of(shape: str, bench: Bench, slow: dict[str, Any], fast: dict[str, Any]) -> dict[str, Any]:
    """Totals of both ways, their ratio, and the share of equal answers."""
    alone = slow.pop("predictions")
    together = fast.pop("predictions")
    same = [one.answer.text == other.answer.text for one, other in zip(alone, together[0], strict=False)]
    photo_seconds = sum(slow["times"]) / len(slow["times"])
    total_slow = len(bench.checkpoints) * (slow["load_seconds"] + len(bench.photos) * photo_seconds)
    total_fast = fast["load_seconds"] + sum(fast["times"])
    return {
        **header(f"python -m benchmarks.evaluation CHECKPOINTS --shape {shape}"),
        "n": len(bench.photos),
        "checkpoints": len(bench.checkpoints),
        "answer_tokens": ANSWER_TOKENS,
        "metrics": {
            "ratio_to_one_by_one": total_slow / total_fast,
            "one_by_one_seconds": total_slow,
            "seconds": total_fast,
            "same_answers": {"value": sum(same) / len(same), "n": len(same)},
            "photos_per_s": rate(fast["times"], len(bench.photos)),
            "photos_per_s_one_by_one": rate(slow["times"], 1),
        },
        "one_by_one": slow,
        "all_at_once": fast,
    }


if __name__ == "__main__":
    main()
