"""Scores whose process was killed before it could tell MLflow: the next materialisation tells it.

What a kill leaves is planted: sealed scores on disk, and an MLflow run with none or a part of their metrics.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

from nutridet_core.artifacts.store import Manifest, read_manifest
from nutridet_core.evaluation.evaluate import load_samples, load_scores, save_scores
from nutridet_core.evaluation.scores import Scores
from nutridet_core.pipeline.baseline import PEER, score_peer
from nutridet_core.pipeline.context import Context, score_model, scores_config
from nutridet_core.pipeline.training import score_checkpoints
from tests.release_samples import EXPERIMENT, open_home

STEP = 4


@pytest.fixture
def context(release_home: Path, tmp_path: Path) -> Context:
    return open_home(Path(shutil.copytree(release_home, tmp_path / "home")))


def leave_scores(context: Context, subject: str, weights: str, run_id: str) -> Scores:
    """Sealed scores that MLflow has not heard of."""
    samples = load_samples(context.layout.scores(EXPERIMENT, "test"))
    config = scores_config(context, weights)
    manifest = Manifest(kind="scores", name=subject, config=config, mlflow_run_id=run_id)
    return save_scores(context.layout.scores(subject, "test"), subject, "test", samples, manifest)


def never_load() -> NoReturn:
    raise AssertionError("the scores are there: no model is needed")


def materialise(context: Context, run_id: str) -> Scores:
    return score_model(context, "model", "test", weights="w", load=never_load, run_id=run_id, step=STEP)


def points(context: Context, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of everything that was ever logged to a run, by metric."""
    client = context.tracker.client
    histories = {name: client.get_metric_history(run_id, name) for name in client.get_run(run_id).data.metrics}
    return {name: [(point.step, point.value) for point in history] for name, history in histories.items()}


def once(scores: Scores, step: int = STEP) -> dict[str, list[tuple[int, float]]]:
    return {name: [(step, value)] for name, value in scores.mlflow_metrics.items()}


def files(context: Context, run_id: str, path: str) -> set[str]:
    return {Path(file.path).name for file in context.tracker.client.list_artifacts(run_id, path)}


@pytest.mark.parametrize("heard", [0, 1, 7])
def test_what_mlflow_has_not_heard_is_told_once(context: Context, heard: int) -> None:
    run_id = context.open_run("model", {"weights": "w"}, stage="test")
    left = leave_scores(context, "model", "w", run_id)
    context.tracker.log_metrics(run_id, dict(list(left.mlflow_metrics.items())[:heard]), STEP)
    for _ in range(2):
        assert str(materialise(context, run_id)) == str(left)  # as text, since a NaN is not equal to itself
    found = points(context, run_id)
    assert {name: set(values) for name, values in found.items()} == {
        name: {(STEP, value)} for name, value in left.mlflow_metrics.items()
    }
    assert {"predictions.parquet", "scores.json"} <= files(context, run_id, "scores/model/test")


def test_what_mlflow_knows_is_not_told_again(context: Context) -> None:
    run_id = context.open_run("model", {"weights": "w"}, stage="test")
    left = leave_scores(context, "model", "w", run_id)
    context.tracker.log_metrics(run_id, left.mlflow_metrics, STEP)
    materialise(context, run_id)
    assert points(context, run_id) == once(left)


def test_the_same_numbers_at_another_step_are_others(context: Context) -> None:
    """Two checkpoints may score alike."""
    run_id = context.open_run("model", {"weights": "w"}, stage="test")
    left = leave_scores(context, "model", "w", run_id)
    context.tracker.log_metrics(run_id, left.mlflow_metrics, STEP + 1)
    materialise(context, run_id)
    found = points(context, run_id)
    for name, value in left.mlflow_metrics.items():
        assert set(found[name]) == {(STEP, value), (STEP + 1, value)}


def test_scores_go_to_the_run_that_made_them_while_it_is_there(context: Context) -> None:
    made_it, asking = (context.open_run(name, {}, stage="test") for name in ("made it", "asking"))
    left = leave_scores(context, "model", "w", made_it)
    materialise(context, asking)
    assert (points(context, made_it), points(context, asking)) == (once(left), {})
    context.tracker.client.delete_run(made_it)
    materialise(context, asking)
    assert points(context, asking) == once(left)


def test_scores_of_the_peer_are_told_too(context: Context) -> None:
    from nutridet_core.pipeline import baseline

    config = scores_config(context, baseline.PEER_VERSION)
    run_id = context.open_run(PEER, config, stage="baseline")
    left = leave_scores(context, PEER, baseline.PEER_VERSION, run_id)
    score_peer(context)
    assert points(context, run_id) == once(left, step=0)


def test_another_mlflow_hears_of_everything_that_is_materialised(context: Context, mlflow_database: Path) -> None:
    """The database was lost, or the server changed: the run that the adapter's manifest names is not there."""
    shutil.copy(mlflow_database, context.settings.home / "mlflow.db")
    moved = open_home(context.settings.home)
    named = read_manifest(context.layout.adapter(EXPERIMENT)).mlflow_run_id
    assert not moved.tracker.has_run(str(named))
    for _ in range(2):
        score_checkpoints(moved, [EXPERIMENT])
    runs = moved.tracker.client.search_runs([moved.tracker.experiment_id])
    (run,) = [run for run in runs if run.info.run_id != moved.dataset_run]
    folder = moved.layout.scores(f"{EXPERIMENT}/checkpoint-{STEP}", "selection")
    assert points(moved, run.info.run_id) == once(load_scores(folder))
    assert run.info.run_name == EXPERIMENT


def test_metrics_are_logged_all_or_none(context: Context) -> None:
    """A store that refuses one of them has none of them, so that the last one can vouch for all."""
    from mlflow.exceptions import MlflowException

    run_id = context.open_run("model", {}, stage="test")
    refused: dict[str, Any] = {"fine": 1.0, "no such name?": 2.0}
    with pytest.raises(MlflowException):
        context.tracker.log_metrics(run_id, refused)
    assert points(context, run_id) == {}
