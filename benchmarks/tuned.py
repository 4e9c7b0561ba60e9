"""The embedded model zero-shot and with its shipped adapter: held-out drawn photos, and real ones if there are any.

    python -m benchmarks.tuned [--real FOLDER]

Writes `benchmarks/results/generated_photos.json` and, with a COCO folder of labelled photos,
`real_photos.json`. Neither set is ever trained or tuned on: drawn photos have a seed of their own.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.measures import header
from nutridet_core.answers import LABEL, Form
from nutridet_core.artifacts.store import read_manifest, write_json
from nutridet_core.boxes import FULL_IMAGE, Box
from nutridet_core.data.generated import draw_product_photo
from nutridet_core.data.photos import load_photo
from nutridet_core.evaluation.compare import compare
from nutridet_core.evaluation.priors import median_box
from nutridet_core.evaluation.scores import Sample, score
from nutridet_core.profiles import TINY, TINY_TUNED
from nutridet_core.tiny.recipe import Recipe

RESULTS = Path(__file__).parent / "results"
HELD_OUT_SEED = 999
_BATCH = 64


@dataclass(frozen=True)
class Labelled:
    """A photo and where its tables are."""

    id: str
    image: Image.Image
    tables: tuple[Box, ...]


def main() -> None:
    """Draw, answer, score, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, help="COCO folder of real photos")
    parser.add_argument("--photos", type=int, default=500, help="drawn")
    parser.add_argument("--adapter", type=Path, default=TINY_TUNED)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    drawn = draw(HELD_OUT_SEED, given.photos)
    median = median_box([box for photo in draw(Recipe.seed, given.photos) for box in photo.tables])
    sets = {"generated_photos": (drawn, f"drawn, seed {HELD_OUT_SEED}")}
    if given.real:
        sets["real_photos"] = (read_real(given.real), "real, never trained or tuned on")
    made = header("python -m benchmarks.tuned --real REAL_PHOTOS")
    made["adapter"] = read_manifest(given.adapter, kind="adapter").digest
    answered = answer_all({name: photos for name, (photos, _) in sets.items()}, given.adapter)
    for name, (photos, source) in sets.items():
        result = result_of(name, photos, answered[name], median)
        write_json(given.out / f"{name}.json", {**made, "source": source, **result})


def draw(seed: int, count: int) -> list[Labelled]:
    """Drawn photos, on all cores."""
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        return list(pool.map(partial(_draw, seed), range(count), chunksize=8))


def _draw(seed: int, index: int) -> Labelled:
    drawing = draw_product_photo(seed, index)
    return Labelled(f"{seed}-{index}", drawing.image, tuple(box for label, box in drawing.objects if label == LABEL))


def read_real(folder: Path) -> list[Labelled]:
    """The photos of a COCO folder, boxes clipped to the photo."""
    from nutridet_core.data.sources.coco import read_coco

    photos = []
    for candidate in read_coco(folder):
        image = load_photo(candidate.image)
        photos.append(Labelled(candidate.id, image, tuple(_clipped(box, *image.size) for box in candidate.boxes)))
    return photos


def _clipped(xywh: Sequence[float], width: int, height: int) -> Box:
    x, y, w, h = xywh
    return Box.from_xyxy_px((max(0, x), max(0, y), min(width, x + w), min(height, y + h)), width, height)


def answer_all(sets: dict[str, list[Labelled]], adapter: Path) -> dict[str, dict[str, list[Sample]]]:
    """What base and tuned model answer, by set and subject."""
    from nutridet_core.models import attach_adapter, base_source, load_model, load_processor

    source = base_source(TINY)
    processor = load_processor(source, TINY.architecture, TINY.contract)
    model = load_model(source, TINY.architecture, TINY.scoring_precision, TINY.contract)
    base = {name: answer(model, processor, photos) for name, photos in sets.items()}
    model = attach_adapter(model, adapter, TINY.contract)
    return {name: {"base": base[name], "tuned": answer(model, processor, photos)} for name, photos in sets.items()}


def answer(model: Any, processor: Any, photos: Sequence[Labelled]) -> list[Sample]:
    """One sample per photo."""
    from nutridet_core.predict import predict

    began = time.monotonic()
    opened: list[Callable[[], Image.Image]] = [lambda photo=photo: photo.image for photo in photos]  # type: ignore[misc]
    found = predict(model, processor, TINY.contract, opened, batch_size=_BATCH, max_new_tokens=TINY.max_new_tokens)
    print(f"{len(photos)} photos answered in {time.monotonic() - began:.1f} s", flush=True)
    return [
        _sample(photo, p.answer.boxes, p.score, p.answer.text, p.answer.form.value, tuple(p.answer.problems), p.seconds)
        for photo, p in zip(photos, found, strict=True)
    ]


def _sample(photo: Labelled, boxes: tuple[Box, ...], *answered: Any) -> Sample:
    return Sample(photo.id, *photo.image.size, photo.tables, boxes, *answered)


def result_of(name: str, photos: Sequence[Labelled], answered: dict[str, list[Sample]], median: Box) -> dict[str, Any]:
    """Counts and metrics of every subject, priors included, and the paired difference."""
    for prior, box in (("prior-full", FULL_IMAGE), ("prior-median", median)):
        answered[prior] = [_sample(photo, (box,), 1.0, prior, Form.FLAT.value, (), 0.0) for photo in photos]
    scores = {subject: score(subject, name, samples) for subject, samples in answered.items()}
    for each in scores.values():
        print(each.text, flush=True)
    difference = compare("base", "tuned", answered["base"], answered["tuned"])
    print(difference.text, flush=True)
    return {
        "n": scores["tuned"].photos,
        "boxes": scores["tuned"].boxes,
        "negatives": scores["tuned"].negatives,
        "median_box": median.as_tuple(),
        "metrics": {subject: _finite(each.to_dict()["metrics"]) for subject, each in scores.items()},
        "tuned_minus_base": _finite({"mean_iou": asdict(difference.mean_iou), "f1_50": asdict(difference.f1_50)}),
    }


def _finite(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """JSON has no NaN."""
    return {
        name: {key: value if math.isfinite(value) else None for key, value in estimate.items()}
        for name, estimate in metrics.items()
    }


if __name__ == "__main__":
    main()
