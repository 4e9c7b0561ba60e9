"""Baselines: the untrained model, and what a user would pick instead of it."""

from __future__ import annotations

import time

from nutridet_core.artifacts.store import digest
from nutridet_core.data.dataset import load_records, open_photos
from nutridet_core.data.examples import Split
from nutridet_core.evaluation.evaluate import sample
from nutridet_core.evaluation.peer import find_table, form_of, line_reader
from nutridet_core.evaluation.scores import Sample, Scores
from nutridet_core.pipeline.context import Context, keep_scores, kept_scores, progress, score_model, scores_config
from nutridet_core.profiles import Profile

BASELINE = "baseline"
PEER = "peer"
PEER_VERSION = "ocr-nutrient-words/2"


def score_baseline(context: Context) -> dict[Split, Scores]:
    """The base model without any adapter, on selection and test."""
    from functools import cache

    from nutridet_core.models import base_source, load_model, load_processor

    profile = context.profile
    source, family, contract = base_source(profile), profile.architecture, profile.contract
    weights = baseline_weights(profile)

    @cache
    def load() -> tuple[object, object]:
        context.log(f"loading {profile.base_model} in {profile.scoring_precision}")
        return load_model(source, family, profile.scoring_precision, contract), load_processor(source, family, contract)

    run_id = context.open_run(BASELINE, scores_config(context, weights), stage="baseline")
    splits: tuple[Split, ...] = ("selection", "test")
    with context.tracker.step(run_id):
        return {
            split: score_model(context, BASELINE, split, weights=weights, load=load, run_id=run_id) for split in splits
        }


def baseline_weights(profile: Profile) -> str:
    """What stands for the base model's weights in its scores."""
    return digest([profile.base_identity, profile.scoring_precision])


def score_peer(context: Context) -> Scores:
    """OCR with nutrient words, on the same test photos."""
    config = scores_config(context, PEER_VERSION)
    run_id = context.open_run(PEER, config, stage="baseline")
    kept = kept_scores(context, PEER, "test", config=config, run_id=run_id)
    if kept:
        return kept
    with context.tracker.step(run_id):
        samples = _read_photos(context)
        return keep_scores(context, PEER, "test", samples, config=config, facts={}, run_id=run_id)


def _read_photos(context: Context) -> list[Sample]:
    records, photos = load_records(context.layout.dataset, "test"), open_photos(context.layout.dataset, "test")
    read, report = line_reader(), progress(context, f"{PEER} on test")
    samples = []
    for done, (record, open_photo) in enumerate(zip(records, photos, strict=True), start=1):
        began = time.perf_counter()
        lines = read(open_photo())
        box = find_table(lines, record.width, record.height)
        samples.append(
            sample(
                record,
                predicted=(box,) if box else (),
                confidence=1.0,
                text=" / ".join(line.text for line in lines),
                form=form_of(box).value,
                problems=(),
                seconds=time.perf_counter() - began,
            )
        )
        report(done, len(records))
    return samples
