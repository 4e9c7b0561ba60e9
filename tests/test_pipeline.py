"""The pipeline's verbs, run once on drawn photos with the embedded model, and what binds their artefacts together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch
from datasets import Dataset
from peft.tuners.lora import LoraLayer
from PIL import Image
from typer.testing import CliRunner

from nutridet_assets.assets.monitoring import champion_reevaluation
from nutridet_assets.resources import Worker
from nutridet_core import cli
from nutridet_core import experiments as experiments_module
from nutridet_core import profiles as profiles_module
from nutridet_core.artifacts.layout import checkpoints
from nutridet_core.artifacts.store import MANIFEST, Manifest, read_manifest, write_json
from nutridet_core.data.dataset import load_records
from nutridet_core.data.examples import Split
from nutridet_core.errors import ArtifactError, AuditError, ContractError
from nutridet_core.evaluation import gate
from nutridet_core.evaluation.drift import TITLES
from nutridet_core.evaluation.evaluate import answer_split, load_samples, load_scores, save_scores
from nutridet_core.evaluation.scores import Sample, score
from nutridet_core.experiments import EXPERIMENTS
from nutridet_core.models import Source, attach_adapter, base_source, load_model, load_processor
from nutridet_core.pipeline import context as context_module
from nutridet_core.pipeline.baseline import score_baseline, score_peer
from nutridet_core.pipeline.comparison import build_leaderboard
from nutridet_core.pipeline.context import Context, scores_config
from nutridet_core.pipeline.dataset import prepare_dataset, report_dataset
from nutridet_core.pipeline.history import past_reevaluations, trends
from nutridet_core.pipeline.monitoring import reevaluate_champion
from nutridet_core.pipeline.publication import build_triton_repository, write_card
from nutridet_core.pipeline.release import (
    current_release,
    merge_best,
    model_registry,
    quantize_merged,
    read_release,
    register_release,
    score_release,
)
from nutridet_core.pipeline.training import (
    choose_checkpoint,
    chosen_checkpoint,
    read_choice,
    score_checkpoints,
    score_experiments,
    train_experiments,
)
from nutridet_core.predict import encode
from nutridet_core.profiles import Profile
from nutridet_core.prompts import Contract
from nutridet_core.release.registry import CHALLENGER, CHAMPION
from nutridet_core.settings import Settings
from nutridet_core.tracking import KEY
from tests.conftest import PROFILE
from tests.release_samples import audit, change, flip_bit
from tests.webhook import SECRET, receiving, status

NAMES = ("exp1a", "exp2")
PHOTOS = "generated:20:6"  # 14 for training, 2 for selection, 4 for the test
VERBS: tuple[Callable[[Context], Any], ...] = (
    prepare_dataset,
    report_dataset,
    score_baseline,
    score_peer,
    lambda context: train_experiments(context, NAMES),
    lambda context: score_checkpoints(context, NAMES),
    lambda context: [choose_checkpoint(context, name) for name in NAMES],
    lambda context: score_experiments(context, NAMES),
    lambda context: build_leaderboard(context, NAMES),
    lambda context: merge_best(context, NAMES),
    quantize_merged,
    score_release,
    lambda context: write_card(context, NAMES),
    build_triton_repository,
)
"""Everything before the gate."""


@pytest.fixture(scope="module", autouse=True)
def short_experiments() -> Iterator[None]:
    """Two epochs of exp1a and one of exp2, four photos a step."""
    exp1a, exp1b, exp2 = EXPERIMENTS
    short = (replace(exp1a, epochs=2), exp1b, replace(exp2, epochs=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments_module, "EXPERIMENTS", short)
        patch.setattr(profiles_module, "PROFILES", (PROFILE,))
        yield


@pytest.fixture(scope="module")
def finished(short_experiments: None, mlflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A home in which every verb before the gate has run once. Tests that change something copy it."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(mlflow_database, folder / "mlflow.db")
    context = open_home(folder)
    for verb in VERBS:
        verb(context)
    return context


@pytest.fixture
def copy(finished: Context, tmp_path: Path) -> Context:
    """A copy of that home, to change."""
    shutil.copytree(finished.settings.home, tmp_path / "home")
    return open_home(tmp_path / "home")


@pytest.fixture
def registered(copy: Context) -> Context:
    """A copy whose release is registered: it passed the gate by itself."""
    register_release(copy)
    return copy


def open_home(home: Path) -> Context:
    return Context(Settings(home=home, source=PHOTOS), log=lambda line: None)


def sealed_folders(context: Context) -> dict[str, Manifest]:
    """Every artefact below the home with its verified manifest, by its path there."""
    root = context.layout.root
    return {path.parent.relative_to(root).as_posix(): read_manifest(path.parent) for path in root.rglob(MANIFEST)}


def state(context: Context) -> tuple[dict[str, int], list[tuple[str, int, int]]]:
    """When each file was written; and each MLflow run with how many metrics and parameters it has.

    Without the machine's load, which is logged every ten seconds, so more of it on a slow machine.
    """
    files = {str(path): path.stat().st_mtime_ns for path in context.layout.root.rglob("*") if path.is_file()}
    runs = [(run.info.run_id, len(_measured(run)), len(run.data.params)) for run in all_runs(context)]
    return files, sorted(runs)


def _measured(run: Any) -> list[str]:
    return [name for name in run.data.metrics if not name.startswith("system/")]


def all_runs(context: Context) -> list[Any]:
    return list(context.tracker.client.search_runs([context.tracker.experiment_id]))


# --- artefacts ---------------------------------------------------------------------------------


def test_every_artefact_is_sealed_and_whole(finished: Context) -> None:
    found = sealed_folders(finished)
    release = current_release(finished)["release"]
    expected = {
        "dataset": "dataset",
        "dataset_report": "dataset_report",
        "scores/baseline/selection": "scores",
        "scores/baseline/test": "scores",
        "scores/peer/test": "scores",
        **{f"adapters/{name}": "adapter" for name in NAMES},
        **{f"choices/{name}": "choice" for name in NAMES},
        **{f"scores/{name}/test": "scores" for name in NAMES},
        "leaderboard": "leaderboard",
        "release": "release",
        f"releases/{release}/merged": "model",
        f"releases/{release}/fp8": "model",
        f"scores/release-{release}/merged/test": "scores",
        f"scores/release-{release}/fp8/test": "scores",
        "release_report": "release_report",
        "model_card": "model_card",
        "triton": "triton_repository",
    }
    of_checkpoints = {name: found.pop(name) for name in list(found) if "checkpoint-" in name}
    assert {name: manifest.kind for name, manifest in found.items()} == expected
    kinds = [manifest.kind for manifest in of_checkpoints.values()]
    assert (kinds.count("checkpoint"), kinds.count("scores")) == (3, 3), "two epochs of exp1a, one of exp2"


def test_every_artefact_says_what_it_was_made_from(finished: Context) -> None:
    for name, manifest in sealed_folders(finished).items():
        made_of_photos = manifest.kind not in ("release", "triton_repository")
        assert manifest.data_fingerprint == (finished.fingerprint if made_of_photos else None) or name == "model_card"
        if not name.startswith("dataset"):
            assert manifest.contract == finished.profile.contract.hash, name
        assert manifest.config or manifest.kind == "checkpoint", name
        assert manifest.versions["transformers"], name
        assert manifest.created, name


def test_nothing_half_written_lies_about(finished: Context) -> None:
    locks = {".exp1a.lock", ".exp2.lock", ".release.lock"}  # which may stay; those of drafts may not
    assert {path.name for path in finished.layout.root.rglob(".*")} <= locks


def test_scores_are_kept_so_that_they_can_be_counted_again(finished: Context) -> None:
    for name, manifest in sealed_folders(finished).items():
        if manifest.kind == "scores":
            folder = finished.layout.root / name
            kept, samples = load_scores(folder), load_samples(folder)
            again = score(kept.subject, kept.split, samples)
            assert str(again) == str(kept), name  # as text, since a NaN is not equal to itself
            records = load_records(finished.layout.dataset, kept.split)  # type: ignore[arg-type]
            assert [(each.id, each.truth) for each in samples] == [(record.id, record.boxes) for record in records]


def test_the_best_checkpoint_is_the_best_on_selection(finished: Context) -> None:
    choice = read_choice(finished, "exp1a")
    folders = checkpoints(finished.layout.adapter("exp1a"))
    scored = {
        path.name: load_scores(finished.layout.scores(f"exp1a/{path.name}", "selection")).metrics["mean_iou"].value
        for path in folders
    }
    assert [point["checkpoint"] for point in choice["curve"]] == list(scored)
    assert scored[choice["chosen"]] == max(scored.values())
    test_scores = read_manifest(finished.layout.scores("exp1a", "test"))
    assert test_scores.config == scores_config(finished, read_manifest(chosen_checkpoint(finished, "exp1a")).digest)


def test_the_leaderboard_has_n_and_intervals(finished: Context) -> None:
    text = read_manifest(finished.layout.leaderboard).facts["text"]
    for subject in ("prior-full", "prior-median", "peer", "baseline", *NAMES):
        (line,) = [line for line in text.splitlines() if f" {subject} " in line]
        photos = len(load_records(finished.layout.dataset, "test"))
        assert f"  {photos} / " in line, "n"
        assert line.count("[") >= 2, "an interval beside each number"
    page = (finished.layout.leaderboard / "report.html").read_text(encoding="utf-8")
    assert all(subject in page for subject in ("peer", "baseline", *NAMES))


def test_the_release_is_the_winner(finished: Context) -> None:
    current = current_release(finished)
    board = read_manifest(finished.layout.leaderboard)
    checkpoint = read_manifest(chosen_checkpoint(finished, current["experiment"]))
    assert board.facts["winner"] == current["experiment"]
    assert checkpoint.digest.startswith(current["release"])
    same = gate.audit_same_release(finished.layout, current["release"], current["experiment"])
    assert same.passed, same.summary


@pytest.mark.parametrize("weights", ["merged", "fp8"])
def test_released_weights_load_again_and_answer(finished: Context, weights: str) -> None:
    current, profile = current_release(finished), finished.profile
    folder: Path = getattr(finished.layout, weights)(current["release"])
    source = Source(str(folder))
    processor = load_processor(source, profile.architecture, profile.contract)
    model = load_model(source, profile.architecture, "bf16", profile.contract)
    adapted = attach_adapter(
        load_model(base_source(profile), profile.architecture, "float32", profile.contract),
        chosen_checkpoint(finished, current["experiment"]),
        profile.contract,
    )
    photo = encode(processor, profile.contract, [Image.new("RGB", (300, 200), "white")])
    with torch.inference_mode():
        ours, theirs = (network(**photo).logits[0, -1].float() for network in (model, adapted))
    assert float((ours - theirs).abs().max()) < (0.2 if weights == "merged" else 1.0)
    scores = load_scores(finished.layout.scores(f"release-{current['release']}/{weights}", "test"))
    assert scores.photos == len(load_records(finished.layout.dataset, "test"))


def test_fp8_weights_are_smaller(finished: Context) -> None:
    sizes = read_manifest(finished.layout.release_report).facts["bytes"]
    assert sizes["fp8"] < 0.8 * sizes["merged"]


def test_triton_is_pointed_to_weights_that_are_there(copy: Context) -> None:
    """After a home was moved, the folder of before is no use to a server."""
    build_triton_repository(copy)
    engine = json.loads((copy.layout.triton / "nutridet" / "1" / "model.json").read_text(encoding="utf-8"))
    assert engine["model"] == str(copy.layout.fp8(current_release(copy)["release"]))


# --- idempotence and MLflow --------------------------------------------------------------------


def test_a_second_call_of_each_verb_makes_nothing(finished: Context) -> None:
    before = state(finished)
    for number, verb in enumerate(VERBS):
        verb(finished)
        assert state(finished) == before, f"verb {number}"


def test_another_process_makes_nothing_either(finished: Context) -> None:
    before = state(finished)
    again = open_home(finished.settings.home)
    for verb in VERBS:
        verb(again)
    assert state(again) == before


def test_the_command_line_finds_everything_done(finished: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(finished)
    monkeypatch.setenv("NUTRIDET_HOME", str(finished.settings.home))
    monkeypatch.setenv("NUTRIDET_SOURCE", PHOTOS)
    said = {}
    for line in ("data", "train", "checkpoints", "evaluate", "compare", "merge", "quantize"):
        names = [] if line in ("data", "quantize") else list(NAMES)
        result = CliRunner().invoke(cli.app, [line, *names])
        assert result.exit_code == 0, result.output
        said[line] = result.stdout
    assert state(finished) == before
    assert "exp1a: " in said["train"]
    assert "n = " in said["checkpoints"]
    assert said["evaluate"].count(" on test: n = ") == 4, "baseline, peer and two experiments"
    assert "prior-median" in said["compare"]
    assert said["merge"].startswith(current_release(finished)["release"])
    assert "merge_parity: " in said["quantize"]


def test_a_leaderboard_without_the_peer(copy: Context) -> None:
    """OCR is an extra: without it there is a leaderboard all the same, and the peer is not on it."""
    shutil.rmtree(copy.layout.scores("peer", "test"))
    text = build_leaderboard(copy, NAMES).facts["text"]
    assert " peer " not in text
    assert all(f" {name} " in text for name in ("baseline", *NAMES))


def test_mlflow_knows_every_run_that_a_manifest_names(finished: Context) -> None:
    runs = {run.info.run_id: run for run in all_runs(finished)}
    named = {name: manifest.mlflow_run_id for name, manifest in sealed_folders(finished).items()}
    assert {run_id for run_id in named.values() if run_id} | {finished.dataset_run} == set(runs)
    for name, manifest in sealed_folders(finished).items():
        if manifest.kind in ("adapter", "scores", "choice", "leaderboard", "release_report"):
            assert manifest.mlflow_run_id in runs, name


def test_each_run_has_its_parameters_metrics_and_data(finished: Context) -> None:
    runs = {run.info.run_name: run for run in all_runs(finished)}
    release = current_release(finished)["release"]
    dataset = f"dataset {finished.fingerprint[:7]}"
    assert set(runs) == {dataset, "baseline", "peer", *NAMES, "leaderboard", f"release {release}"}
    for name, run in runs.items():
        assert run.data.tags.get("mlflow.parentRunId") == (None if name == dataset else finished.dataset_run)
        assert run.info.status == "FINISHED", name
        assert run.data.tags[KEY]
        assert run.data.params, name
        (entry,) = run.inputs.dataset_inputs
        assert finished.fingerprint.startswith(entry.dataset.digest), name
        assert entry.dataset.source == PHOTOS
        assert {"test.mean_iou", "test.mean_iou_low", "test.photos"} <= run.data.metrics.keys(), name
    for name in (dataset, "leaderboard"):
        assert runs[name].data.metrics["gain.mean_iou_low"] <= runs[name].data.metrics["gain.mean_iou"]
        assert "| exp1a |" in runs[name].data.tags["mlflow.note.content"]


def test_checkpoints_are_models_with_scores_of_both_splits(finished: Context) -> None:
    client = finished.tracker.client
    models = {model.name: model for model in client.search_logged_models([finished.tracker.experiment_id])}
    folders = [path for name in NAMES for path in checkpoints(finished.layout.adapter(name))]
    assert set(models) == {f"{folder.parent.name}-{folder.name}" for folder in folders}
    for folder in folders:
        model = models[f"{folder.parent.name}-{folder.name}"]
        splits = {metric.key.split(".")[0] for metric in model.metrics}
        chosen = chosen_checkpoint(finished, folder.parent.name) == folder
        assert splits == ({"selection", "test"} if chosen else {"selection"})


def test_a_training_run_has_its_curve(finished: Context) -> None:
    (run,) = [run for run in all_runs(finished) if run.info.run_name == "exp1a"]
    history = finished.tracker.client.get_metric_history(run.info.run_id, "selection.mean_iou")
    steps = [int(path.name.split("-")[1]) for path in checkpoints(finished.layout.adapter("exp1a"))]
    assert sorted(point.step for point in history) == steps
    assert "train/loss" in run.data.metrics
    assert run.data.params["experiment.rank"] == "64"
    assert finished.tracker.client.list_artifacts(run.info.run_id, "scores/exp1a/test")


# --- registration and re-evaluation ------------------------------------------------------------

UNMOVED = "mean IoU +0.000 [+0.000, +0.000]"
"""In pairs, equal answers differ by exactly nothing; two samples of photos never do."""


def test_a_release_that_did_not_beat_the_baseline_is_refused(copy: Context) -> None:
    """Two epochs teach what the thing is called, so the real audits pass; the planted one does not."""
    current, leaderboard = current_release(copy), copy.layout.leaderboard
    audits = gate.release_audits(copy.layout, current["release"], current["experiment"])
    assert [each.name for each in audits if not each.passed] == []
    facts = read_manifest(leaderboard).facts
    change(leaderboard, facts={**facts, "audits": {"beats_baseline": audit("beats_baseline", passed=False)}})
    with pytest.raises(AuditError, match="beats_baseline: ") as caught:
        register_release(copy)
    assert set(caught.value.evidence) == {"beats_baseline"}
    assert model_registry(copy).holder(CHALLENGER) is None


def test_a_release_becomes_champion_once(registered: Context) -> None:
    registry, current = model_registry(registered), current_release(registered)
    assert registry.holder(CHALLENGER) == registry.holder(CHAMPION) == ("1", read_release(registered, current))
    before = state(registered)
    assert register_release(registered)["verdict"] == "is champion already"
    assert state(registered) == before


def test_a_re_evaluation_is_a_new_folder_compared_in_pairs(registered: Context) -> None:
    first, second = reevaluate_champion(registered), reevaluate_champion(registered)
    folders = sorted(registered.layout.reevaluations.iterdir())
    assert len(folders) == len(past_reevaluations(registered.layout)) == 2
    photos = len(load_records(registered.layout.dataset, "test"))
    for folder, manifest in zip(folders, (first, second), strict=True):
        assert str(read_manifest(folder, kind="scores")) == str(manifest)  # as text: a NaN is not equal to itself
        found = manifest.facts["audits"]["not_regressed"]
        assert found["passed"]
        assert UNMOVED in found["summary"]
        assert f"n = {photos}" in found["summary"]
        assert len(load_samples(folder)) == photos
        drift = manifest.facts["audits"]["inputs_like_training"]
        assert drift["passed"]
        assert set(drift["evidence"]) == set(TITLES)
    assert first.mlflow_run_id == second.mlflow_run_id
    history = registered.tracker.client.get_metric_history(str(first.mlflow_run_id), "test.mean_iou")
    assert len(history) == 2
    logged = registered.tracker.client.get_run(str(first.mlflow_run_id)).data.metrics
    assert (logged["change.mean_iou"], logged["change.mean_iou_high"]) == (0.0, 0.0)
    assert {f"drift.{name}" for name in TITLES} <= logged.keys()


def test_a_re_evaluation_leaves_pictures_and_files_that_mlflow_has_too(registered: Context) -> None:
    reevaluate_champion(registered)
    second = reevaluate_champion(registered)
    folder = registered.layout.monitoring
    assert set(read_manifest(folder, kind="history").files) == {"trend.png", "drift.png", "history.json"}
    listed = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    assert [entry["version"] for entry in listed] == ["1", "1"]
    (line,) = trends(past_reevaluations(registered.layout))
    assert len(line.points) == 2
    assert line.label.endswith(f"n = {len(load_records(registered.layout.dataset, 'test'))}")
    client, run_id = registered.tracker.client, str(second.mlflow_run_id)
    assert {"monitoring/trend.png", "monitoring/drift.png"} <= {
        f.path for f in client.list_artifacts(run_id, "monitoring")
    }
    kept = client.list_artifacts(run_id, "reevaluations")
    assert len(kept) == 2
    assert f"{kept[0].path}/predictions.parquet" in {file.path for file in client.list_artifacts(run_id, kept[0].path)}


def test_photos_are_held_against_those_of_training_and_not_against_todays(registered: Context) -> None:
    """A new revision of the dataset has training photos like its test photos: they must not hide the drift."""
    release = current_release(registered)["release"]
    folder = registered.layout.training_inputs(release)
    kept = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    values = kept["values"] | {"light": [10 + n for n in range(200)]}  # what no photo of today has
    write_json(folder / "inputs.json", {"photos": 200, "values": values})
    change(folder)
    found = reevaluate_champion(registered).facts["audits"]["inputs_like_training"]
    assert not found["passed"]
    assert "light" in found["summary"]
    shutil.rmtree(folder)
    found = reevaluate_champion(registered).facts["audits"]["inputs_like_training"]
    assert not found["passed"]
    assert found["summary"].startswith("not known")


def test_a_re_evaluation_that_was_killed_before_mlflow_heard_of_it_is_told_by_the_next(registered: Context) -> None:
    reevaluate_champion(registered)
    (folder,) = registered.layout.reevaluations.iterdir()
    killed = Path(shutil.copytree(folder, folder.with_name("20200102T030405.000000Z")))
    last = reevaluate_champion(registered)
    history = registered.tracker.client.get_metric_history(str(last.mlflow_run_id), "test.mean_iou")
    steps = sorted(point.step for point in history)
    assert len(steps) == 3
    assert steps[0] == int(datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp())
    assert load_scores(killed).metrics["mean_iou"].value == history[0].value


def test_a_damaged_re_evaluation_is_left_out_and_named(registered: Context) -> None:
    """It cannot be measured again, so it must not stop those that come."""
    reevaluate_champion(registered)
    (damaged,) = registered.layout.reevaluations.iterdir()
    flip_bit(damaged / "predictions.parquet")
    lines: list[str] = []
    reevaluate_champion(replace(registered, log=lines.append))
    newest = next(folder for folder in registered.layout.reevaluations.iterdir() if folder != damaged)
    assert [each.folder for each in past_reevaluations(registered.layout)] == [newest]
    (told,) = (line for line in lines if line.startswith("left out of the history"))
    assert str(damaged) in told


def test_a_re_evaluation_on_other_photos_is_compared_as_two_samples(registered: Context) -> None:
    change(registered.layout.dataset, data_fingerprint="0" * 64)
    found = reevaluate_champion(registered).facts["audits"]["not_regressed"]
    assert found["passed"]
    assert UNMOVED not in found["summary"]
    assert "mean IoU +0.000 [-" in found["summary"]


def test_a_regression_fails_the_check_in_dagster_and_is_told_to_the_webhook(
    registered: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a real worker; its address is nowhere to be found afterwards, and a receiver that is gone fails nothing."""
    (registered.settings.home / "dagster").mkdir()
    instance = dg.DagsterInstance.local_temp(str(registered.settings.home / "dagster"))
    for name, value in (("HOME", registered.settings.home), ("SOURCE", PHOTOS)):
        monkeypatch.setenv(f"NUTRIDET_{name}", str(value))
    _plant_perfect_registration(registered)
    with receiving(status(200)) as receiver:
        monkeypatch.setenv("NUTRIDET_ALERT_WEBHOOK", receiver.url)
        results = [_reevaluate_in_dagster(instance)]
    results.append(_reevaluate_in_dagster(instance))
    (message,) = receiver.messages
    assert message["event"] == "champion_regressed"
    assert message["details"]["change"]["high"] < 0
    assert message["links"]["dagster_run"].endswith(results[0].run_id)
    for result in results:
        assert result.success
        checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
        assert not checks["not_regressed"].passed
        assert checks["inputs_like_training"].passed
        (made,) = result.asset_materializations_for_node("champion_reevaluation")
        assert {
            "trend picture",
            "drift picture",
            "history",
            "photos against training",
            "change.mean_iou",
        } <= made.metadata.keys()
    lines = [event.user_message for result in results for event in instance.all_logs(result.run_id)]
    assert [line for line in lines if "alert champion_regressed" in line] == [
        "alert champion_regressed to 127.0.0.1: accepted",
        "alert champion_regressed to 127.0.0.1: not reached (ConnectionRefusedError)",
    ]
    assert not [
        path for path in registered.settings.home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]


def _plant_perfect_registration(context: Context) -> None:
    """As if the champion had found every table exactly when it was registered."""
    folder = context.layout.reference_scores(current_release(context)["release"])
    perfect = [replace(sample, predicted=sample.truth) for sample in load_samples(folder)]
    save_scores(folder, "planted", "test", perfect, read_manifest(folder))


def _reevaluate_in_dagster(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [champion_reevaluation], resources={"worker": Worker()}, instance=instance, raise_on_error=False
    )


def test_a_champion_whose_weights_changed_is_not_evaluated(registered: Context) -> None:
    release = current_release(registered)["release"]
    flip_bit(registered.layout.merged(release) / "model.safetensors")
    with pytest.raises(ArtifactError, match="has changed"):
        reevaluate_champion(registered)
    assert not registered.layout.reevaluations.exists()


def test_without_a_champion_there_is_nothing_to_evaluate(finished: Context) -> None:
    with pytest.raises(ArtifactError, match="no champion"):
        reevaluate_champion(finished)


# --- planted bugs ------------------------------------------------------------------------------


class OtherQuestion(Profile):
    """A profile that asks something else than its adapters were trained on."""

    @property
    def contract(self) -> Contract:
        return replace(super().contract, question="Where is the nutrition table?")


@pytest.mark.parametrize("bound_by", ["base", "adapter"])
def test_another_question_at_evaluation_stops_the_verb(
    copy: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound_by: str
) -> None:
    """Trained under one contract, scored under another: refused, also where the base has no manifest to say so."""
    fields = {**vars(copy.profile)}
    if bound_by == "adapter":
        bare = Path(shutil.copytree(copy.profile.base_model, tmp_path / "bare"))
        (bare / MANIFEST).unlink()
        fields["base_model"] = str(bare)
    monkeypatch.setattr(profiles_module, "PROFILES", (OtherQuestion(**fields),))
    context = open_home(copy.settings.home)
    assert context.profile.contract != copy.profile.contract
    before = state(context)
    with pytest.raises(ContractError, match="checkpoint-" if bound_by == "adapter" else "base"):
        score_checkpoints(context, ["exp1a"])
    assert state(context) == before


def test_an_adapter_of_another_dataset_is_not_scored(copy: Context) -> None:
    """What was a training photo then may be a test photo now."""
    change(copy.layout.dataset, data_fingerprint="0" * 64)
    for verb in (score_checkpoints, score_experiments):
        with pytest.raises(ArtifactError, match=r"data_fingerprint.*was trained on dataset"):
            verb(copy, ["exp1a"])


def test_checkpoints_answer_merged_and_the_chosen_one_beside_its_base(
    copy: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the adapter does anything is audited before: PEFT takes a merged one out for that."""
    merged: dict[str, set[bool]] = {}

    def answer(model: Any, batches: Any, profile: Profile, dataset: Path, split: Split, **rest: Any) -> list[Sample]:
        merged[split] = {layer.merged for layer in model.modules() if isinstance(layer, LoraLayer)}
        return answer_split(model, batches, profile, dataset, split, **rest)

    monkeypatch.setattr(context_module, "answer_split", answer)
    shutil.rmtree(copy.layout.scores("exp1a", ""))
    score_checkpoints(copy, ["exp1a"])
    score_experiments(copy, ["exp1a"])
    assert merged == {"selection": {True}, "test": {False}}


def test_a_barcode_that_was_corrected_reaches_scores_that_are_kept(copy: Context) -> None:
    """Here it changes no split, so the photos are the same and nothing is answered again."""
    before = load_scores(copy.layout.scores("baseline", "test"))
    correct_barcodes(copy.layout.dataset, "test")
    after = score_baseline(copy)["test"]
    assert (before.products, after.products) == (before.photos, 1)
    assert after.metrics["mean_iou"].value == before.metrics["mean_iou"].value
    assert load_scores(copy.layout.scores("baseline", "test")).text == after.text


def correct_barcodes(dataset: Path, split: str) -> None:
    """All photos of a split are of one product."""
    rows = Dataset.load_from_disk(str(dataset / split))
    renamed = rows.remove_columns("barcode").add_column("barcode", ["4000000000000"] * len(rows))
    renamed.save_to_disk(str(dataset.with_name("renamed")))
    shutil.rmtree(dataset / split)
    dataset.with_name("renamed").rename(dataset / split)
    change(dataset)


@pytest.mark.parametrize("changed", ["photos", "weights"])
def test_scores_of_before_stand_on_no_leaderboard_of_today(copy: Context, changed: str) -> None:
    folder = copy.layout.scores("exp1a", "test")
    config = read_manifest(folder).config
    if changed == "photos":
        change(copy.layout.scores("baseline", "test"), config={**config, "data_fingerprint": "0" * 64})
    else:
        change(folder, config={**config, "weights": "0" * 64})
    with pytest.raises(ArtifactError, match=r"of other weights, photos or another contract.*nutridet evaluate"):
        build_leaderboard(copy, NAMES)


def test_verbs_without_their_inputs_say_what_is_missing(home: Path) -> None:
    context = open_home(home)
    for verb in VERBS[2:]:
        with pytest.raises(ArtifactError):
            verb(context)
    assert sealed_folders(context) == {}
