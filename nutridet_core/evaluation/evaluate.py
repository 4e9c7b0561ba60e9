"""Scoring a model on a split: predictions beside the truth, kept as parquet so that anything can be re-scored.

Belongs here: running a model over a split, writing and reading its samples. Does not belong here:
the metrics (`scores`) or which model to score (`pipeline`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nutridet_core.artifacts.store import Manifest, read_manifest, seal, write_json, writing
from nutridet_core.boxes import Box
from nutridet_core.data.dataset import load_records, open_photos
from nutridet_core.data.examples import Record, Split
from nutridet_core.evaluation.scores import COUNTING, Sample, Scores, score
from nutridet_core.profiles import Profile

if TYPE_CHECKING:
    from nutridet_core.predict import Batches

PREDICTIONS = "predictions.parquet"
SCORES = "scores.json"

_COORDINATES = pa.list_(pa.list_(pa.float64(), 4))
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("truth", _COORDINATES),
        ("predicted", _COORDINATES),
        ("confidence", pa.float64()),
        ("text", pa.string()),
        ("form", pa.string()),
        ("problems", pa.list_(pa.string())),
        ("seconds", pa.float64()),
        ("product", pa.string()),
    ]
)


def prepare_split(
    model: Any, processor: Any, profile: Profile, dataset: Path, split: Split, *, keep_bytes: int = 0
) -> Batches:
    """The photos of a split in batches that the model's device has room for; `keep_bytes` stay for the next model."""
    from nutridet_core.predict import Batches, photos_at_once

    photos = open_photos(dataset, split)
    return Batches(processor, profile.contract, photos, photos_at_once(model, profile), keep_bytes=keep_bytes)


def answer_split(
    model: Any,
    batches: Batches,
    profile: Profile,
    dataset: Path,
    split: Split,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Sample]:
    """What the model answers about every photo of a split (`prepare_split`), in the dataset's order."""
    from nutridet_core.predict import predict_batches

    records = load_records(dataset, split)
    predictions = predict_batches(model, batches, max_new_tokens=profile.max_new_tokens, progress=progress)
    return [
        sample(
            record,
            predicted=prediction.answer.boxes,
            confidence=prediction.score,
            text=prediction.answer.text,
            form=prediction.answer.form.value,
            problems=tuple(problem.value for problem in prediction.answer.problems),
            seconds=prediction.seconds,
        )
        for record, prediction in zip(records, predictions, strict=True)
    ]


def sample(record: Record, **answered: Any) -> Sample:
    """A photo's record with what was answered about it."""
    return Sample(
        id=record.id,
        width=record.width,
        height=record.height,
        truth=record.boxes,
        product=record.barcode,
        **answered,
    )


def with_products(samples: Sequence[Sample], records: Sequence[Record]) -> list[Sample]:
    """The same samples with their products as the dataset's records name them."""
    named = {record.id: record.barcode for record in records}
    return [
        replace(sample, product=named[sample.id])
        if named.get(sample.id) not in (None, sample.product or sample.id)
        else sample
        for sample in samples
    ]


def save_scores(folder: Path, subject: str, split: str, samples: Sequence[Sample], manifest: Manifest) -> Scores:
    """Write predictions, scores and manifest; the manifest given is completed and sealed."""
    result = score(subject, split, samples)
    with writing(folder) as draft:
        pq.write_table(_to_table(samples), draft / PREDICTIONS)
        write_json(draft / SCORES, result.to_dict())
        seal(draft, manifest)
    return result


def load_scores(folder: Path) -> Scores:
    """The scores that `save_scores` wrote, counted again where that was done in another way then.

    Raises:
        ArtifactError: when they are missing, or have changed since.
    """
    read_manifest(folder, kind="scores")
    scores = Scores.from_dict(json.loads((folder / SCORES).read_text(encoding="utf-8")))
    if scores.counting != COUNTING:
        return score(scores.subject, scores.split, load_samples(folder))
    return scores


def load_samples(folder: Path) -> list[Sample]:
    """The samples that `save_scores` wrote, in order.

    Raises:
        ArtifactError: when they are missing, or have changed since.
    """
    read_manifest(folder, kind="scores")
    return [_from_row(row) for row in pq.read_table(folder / PREDICTIONS).to_pylist()]


def _to_table(samples: Sequence[Sample]) -> pa.Table:
    rows = [
        {name: getattr(item, name) for name in _SCHEMA.names}
        | {"truth": [box.as_tuple() for box in item.truth], "predicted": [box.as_tuple() for box in item.predicted]}
        for item in samples
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _from_row(row: dict[str, Any]) -> Sample:
    boxes = {name: tuple(Box(*values) for values in row[name]) for name in ("truth", "predicted")}
    return Sample(**{**row, **boxes, "problems": tuple(row["problems"])})
