"""Baselines: the untrained model, and what a user would pick instead of it."""

import dagster as dg

from nutridet_assets import metadata
from nutridet_assets.assets.declare import asset
from nutridet_assets.resources import Results, Worker, artifacts


@asset("baseline", deps=["nutrition_dataset"], kinds={"pytorch", "huggingface"})
def baseline_scores(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """The base model without any adapter, zero-shot, on selection and test."""
    yield from worker.run(context, "score_baseline")
    selection, test = (artifacts().scores("baseline", split) for split in ("selection", "test"))
    yield dg.MaterializeResult(
        metadata={"selection": metadata.read_scores(selection).headline, **metadata.scored(test)},
        data_version=metadata.version(selection, test),
    )


@asset("baseline", deps=["nutrition_dataset"], kinds={"onnx", "python"})
def peer_scores(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """What a user would pick instead: OCR with nutrient words, on the same test photos."""
    yield from worker.run(context, "score_peer")
    folder = artifacts().scores("peer", "test")
    yield dg.MaterializeResult(metadata=metadata.scored(folder), data_version=metadata.version(folder))
