"""MLflow: runs are found again, only true numbers are logged, and a failed step shows as failed."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from nutridet_core.artifacts.store import git_commit
from nutridet_core.tracking import KEY, Tracker


@pytest.fixture
def tracker(home: Path) -> Tracker:
    return Tracker(f"sqlite:///{home / 'mlflow.db'}", "nutridet/test", (home / "mlartifacts").as_uri())


def test_a_run_is_found_again_by_its_key(tracker: Tracker) -> None:
    first = tracker.open_run("exp1a", "key-a", tags={"nutridet.stage": "training"})
    assert tracker.open_run("exp1a", "key-a") == first
    assert tracker.open_run("exp1a", "key-b") != first
    run = tracker.client.get_run(first)
    assert run.info.run_name == "exp1a"
    assert run.data.tags[KEY] == "key-a"
    assert run.data.tags["nutridet.stage"] == "training"
    assert run.data.tags["mlflow.source.git.commit"] == (git_commit() or "not a checkout")


def test_another_process_finds_the_run_and_the_experiment(tracker: Tracker) -> None:
    first = tracker.open_run("exp1a", "key")
    other = Tracker(tracker.uri, tracker.experiment, tracker.artifacts)
    assert (other.experiment_id, other.open_run("exp1a", "key")) == (tracker.experiment_id, first)


def test_profiles_do_not_share_runs(tracker: Tracker) -> None:
    other = Tracker(tracker.uri, "nutridet/other", tracker.artifacts)
    assert other.open_run("exp1a", "key") != tracker.open_run("exp1a", "key")


def test_only_finite_numbers_are_logged(tracker: Tracker) -> None:
    run = tracker.open_run("exp1a", "key")
    words = {"word": "high", "nothing": None}
    tracker.log_metrics(run, {"iou": 0.5, "nan": float("nan"), "inf": float("inf"), **words})  # type: ignore[dict-item]
    assert tracker.client.get_run(run).data.metrics == {"iou": 0.5}


def test_metrics_keep_their_steps(tracker: Tracker) -> None:
    run = tracker.open_run("exp1a", "key")
    for step, value in ((4, 0.1), (8, 0.2)):
        tracker.log_metrics(run, {"iou": value}, step)
    history = tracker.client.get_metric_history(run, "iou")
    assert [(point.step, point.value) for point in history] == [(4, 0.1), (8, 0.2)]


def test_nested_parameters_become_dotted_and_long_ones_are_cut(tracker: Tracker) -> None:
    run = tracker.open_run("exp1a", "key")
    params = {"experiment": {"rank": 64, "towers": ["language"], "deep": {"er": None}}, "long": "x" * 9000}
    for _ in range(2):  # a verb that runs again logs the same parameters again
        tracker.log_params(run, params)
    logged = tracker.client.get_run(run).data.params
    assert logged.pop("long") == "x" * 500
    assert logged == {"experiment.rank": "64", "experiment.towers": "['language']", "experiment.deep.er": "None"}


def test_the_dataset_is_an_input_once(tracker: Tracker) -> None:
    run = tracker.open_run("exp1a", "key")
    for _ in range(2):
        tracker.log_dataset(run, "nutrition_dataset", "f" * 64, "generated:40")
    (entry,) = tracker.client.get_run(run).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest, entry.dataset.source) == (
        "nutrition_dataset",
        "f" * 36,
        "generated:40",
    )


def test_a_step_shows_how_it_ended(tracker: Tracker) -> None:
    run = tracker.open_run("exp1a", "key")

    def status() -> str:
        return str(tracker.client.get_run(run).info.status)

    with tracker.step(run):
        assert status() == "RUNNING"
    assert status() == "FINISHED"
    with pytest.raises(ValueError, match="planted"), tracker.step(run):
        raise ValueError("planted")
    assert status() == "FAILED"
    with pytest.raises(KeyboardInterrupt), tracker.step(run):
        raise KeyboardInterrupt
    assert status() == "FAILED"
    with tracker.step(run):
        pass
    assert status() == "FINISHED"


def test_a_folder_becomes_artefacts(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "page.html").write_text("<p>", encoding="utf-8")
    run = tracker.open_run("leaderboard", "key")
    tracker.log_folder(run, tmp_path / "report", "leaderboard")
    assert [file.path for file in tracker.client.list_artifacts(run, "leaderboard")] == ["leaderboard/page.html"]
    under_the_home = Path(tracker.artifacts.removeprefix("file://"))
    assert list(under_the_home.rglob("page.html"))


def test_two_trackers_in_one_process_do_not_meet(tracker: Tracker, tmp_path: Path) -> None:
    """MLflow resolves `models:/` through an address of the whole process."""
    shutil.copy(tracker.uri.removeprefix("sqlite:///"), tmp_path / "other.db")
    other = Tracker(f"sqlite:///{tmp_path / 'other.db'}", tracker.experiment, tracker.artifacts)
    for each in (tracker, other, tracker):
        run = each.open_run("exp1a", "key")
        logged = each.client.create_logged_model(each.experiment_id, name="release", source_run_id=run)
        if not each.client.search_registered_models():
            each.client.create_registered_model("m")
        each.client.create_model_version("m", f"models:/{logged.model_id}", run_id=run)
    assert [len(each.client.search_model_versions("name = 'm'")) for each in (tracker, other)] == [2, 1]


def test_runs_of_one_dataset_are_shown_under_its_run(tracker: Tracker) -> None:
    parent = tracker.open_group("dataset 8175501", "fingerprint", tags={"nutridet.stage": "dataset"})
    assert tracker.open_group("dataset 8175501", "fingerprint", tags={}) == parent
    child = tracker.open_run("exp1a", "key", parent=parent)
    assert tracker.client.get_run(parent).info.status == "FINISHED"
    assert tracker.client.get_run(child).data.tags["mlflow.parentRunId"] == parent


def test_a_logged_model_has_its_metrics_and_is_found_again(tracker: Tracker) -> None:
    run, other = (tracker.open_run(name, name) for name in ("exp1a", "exp1b"))
    made = [
        tracker.logged_model(
            "exp1a-checkpoint-4", "digest", run, kind="adapter", params={"step": 4}, tags={"a": "b"}, step=4
        )
        for _ in range(2)
    ]
    assert made[0] == made[1]
    assert tracker.logged_model("exp1b-checkpoint-4", "digest", other, kind="adapter", params={}, tags={}) != made[0]
    tracker.log_metrics(run, {"test.mean_iou": 0.5, "nan": float("nan")}, 4, model_id=made[0])
    model = tracker.client.get_logged_model(made[0])
    assert [(point.key, point.value, point.step) for point in model.metrics] == [("test.mean_iou", 0.5, 4)]
    assert (model.name, model.params["step"], model.status) == ("exp1a-checkpoint-4", "4", "READY")
    assert tracker.client.get_run(run).data.metrics == {"test.mean_iou": 0.5}
    assert [(output.model_id, output.step) for output in tracker.client.get_run(run).outputs.model_outputs] == [
        (made[0], 4)
    ]


def test_the_machine_is_watched_while_a_step_runs(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    run = tracker.open_run("exp1a", "key")

    def samples() -> int:
        return len(tracker.client.get_metric_history(run, "system/cpu_utilization_percentage"))

    with tracker.step(run):
        while not samples():
            time.sleep(0.1)
    before = samples()
    assert tracker.client.get_run(run).data.metrics["system/system_memory_usage_megabytes"] > 0
    with tracker.step(run):  # reopened: it goes on where it was
        while samples() == before:
            time.sleep(0.1)
    steps = [point.step for point in tracker.client.get_metric_history(run, "system/cpu_utilization_percentage")]
    assert sorted(set(steps)) == list(range(len(steps)))
