"""Definitions: the graph that Dagster loads, and that loading it stays cheap."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import dagster as dg
import pytest
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy

from nutridet_assets.assets.training import Training
from nutridet_assets.checks import results
from nutridet_assets.definitions import defs
from nutridet_assets.resources import GPU, Worker
from nutridet_assets.schedules import overdue
from nutridet_assets.worker import VERBS
from nutridet_core.evaluation import gate
from nutridet_core.evaluation.audits import Audit
from nutridet_core.experiments import EXPERIMENTS
from nutridet_core.settings import Settings

ASSETS = {
    "nutrition_dataset", "dataset_report", "baseline_scores", "peer_scores", "adapter", "checkpoint_scores",
    "best_checkpoint", "experiment_scores", "leaderboard", "merged_model", "fp8_model", "release_scores",
    "registered_model", "model_card", "triton_repository", "champion_reevaluation", "collection_listing", "detections",
}  # fmt: skip
HEAVY = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "mlflow", "pyarrow", "matplotlib")


def _specs() -> list[dg.AssetSpec]:
    return list(defs.resolve_all_asset_specs())


def test_the_graph_is_the_one_that_is_documented() -> None:
    assert {spec.key.to_user_string() for spec in _specs()} == ASSETS


def test_every_asset_says_what_it_is_whose_and_of_which_stage() -> None:
    for spec in _specs():
        assert spec.description and spec.owners and spec.kinds and spec.group_name != "default", spec.key
        assert spec.code_version, spec.key


def test_what_a_launch_may_change_has_help() -> None:
    """The launchpad shows it beside the field."""
    fields = [Training.model_fields["max_epochs"], Worker.model_fields["command"], Worker.model_fields["grace_seconds"]]
    assert all(field.description for field in fields)


def test_work_in_a_worker_takes_the_slot_of_the_pool() -> None:
    """Two trainings on one GPU run out of memory."""
    assets = {asset.key.to_user_string(): asset for asset in defs.resolve_asset_graph().assets_defs}
    outside = {name for name, asset in assets.items() if asset.op.pool != GPU}
    assert outside == {"best_checkpoint"}
    assert {name for name, asset in assets.items() if "worker" not in asset.required_resource_keys} == outside


def test_partitions_of_a_run_share_one_worker() -> None:
    partitioned = [asset for asset in defs.resolve_asset_graph().assets_defs if asset.partitions_def is not None]
    assert {asset.key.to_user_string() for asset in partitioned} == {
        "adapter", "checkpoint_scores", "best_checkpoint", "experiment_scores", "detections",
    }  # fmt: skip
    assert {asset.backfill_policy for asset in partitioned} == {dg.BackfillPolicy.single_run()}


def test_loading_imports_nothing_heavy() -> None:
    code = f"import sys, nutridet_assets.definitions; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_blocking_audit_of_the_gate_is_a_blocking_check() -> None:
    checks = {spec.key: spec for assets in defs.resolve_asset_graph().assets_defs for spec in assets.check_specs}
    for asset, names in gate.REQUIRED.items():
        for name in names:
            spec = checks[dg.AssetCheckKey(dg.AssetKey(asset), name)]
            assert spec.blocking is (asset != "champion_reevaluation"), spec.key
            assert spec.description


def test_partitions_follow_the_experiments() -> None:
    adapter = next(spec for spec in _specs() if spec.key.to_user_string() == "adapter")
    assert adapter.partitions_def is not None
    assert adapter.partitions_def.get_partition_keys() == [experiment.name for experiment in EXPERIMENTS]


@pytest.mark.parametrize(
    "name",
    ["pipeline", "train_experiment", "release", "reevaluate", "reevaluate_on_new_photos", "list_collection", "detect"],
)
def test_jobs_resolve(name: str) -> None:
    assert defs.resolve_job_def(name).name == name


def test_the_demo_reads_no_collection() -> None:
    """Millions of photos are nothing that a newcomer's first run should begin."""
    steps = {step.name for step in defs.resolve_job_def("pipeline").nodes}
    assert steps == ASSETS - {"collection_listing", "detections"}


def test_reevaluation_is_scheduled_as_the_settings_say() -> None:
    schedule = defs.resolve_schedule_def("reevaluation")
    assert schedule.cron_schedule == Settings().reevaluation_cron
    assert schedule.job_name == "reevaluate"


def test_every_verb_of_the_worker_exists() -> None:
    from importlib import import_module

    for verb, module in VERBS.items():
        assert callable(getattr(import_module(f"nutridet_core.{module}"), verb))


def test_nothing_runs_by_itself_until_someone_turns_it_on() -> None:
    assert {schedule.default_status for schedule in defs.schedules or ()} == {dg.DefaultScheduleStatus.STOPPED}  # type: ignore[union-attr]
    assert {sensor.default_status for sensor in defs.sensors or ()} == {dg.DefaultSensorStatus.STOPPED}


def test_a_re_evaluation_that_does_not_come_is_overdue_as_the_schedule_says() -> None:
    spec = next(spec for spec in _specs() if spec.key.to_user_string() == "champion_reevaluation")
    assert spec.freshness_policy == overdue(Settings().reevaluation_cron)


@pytest.mark.parametrize(
    ("cron", "longest"),
    [
        ("0 6 * * 1", timedelta(days=7)),
        ("0 6 * * 1-5", timedelta(days=3)),
        ("*/30 * * * *", timedelta(minutes=30)),
        ("0 6 1 * *", timedelta(days=31)),
    ],
)
def test_overdue_is_later_than_the_longest_gap_between_two_ticks(cron: str, longest: timedelta) -> None:
    """So a re-evaluation that comes on time is never called late, and a missed one is by the next tick but one."""
    policy = overdue(cron)
    assert isinstance(policy, TimeWindowFreshnessPolicy)
    assert policy.warn_window is not None
    assert longest < policy.warn_window.to_timedelta() < longest + timedelta(days=1)
    assert policy.warn_window.to_timedelta() + longest == policy.fail_window.to_timedelta()


def test_who_is_told_hangs_on_the_asset_whatever_job_materialises_it() -> None:
    assets = {asset.key.to_user_string(): asset for asset in defs.resolve_asset_graph().assets_defs}
    hooks = {hook.name for hook in assets["champion_reevaluation"].hook_defs}
    assert hooks == {"alert_on_regression", "alert_on_failure"}


def test_a_drift_of_the_photos_warns_and_a_regression_is_an_error() -> None:
    failed = {"champion": [Audit(name, False, "planted") for name in gate.REQUIRED["champion_reevaluation"]]}
    severities = {result.check_name: result.severity for result in results("champion_reevaluation", failed)}
    assert severities == {
        "not_regressed": dg.AssetCheckSeverity.ERROR,
        "inputs_like_training": dg.AssetCheckSeverity.WARN,
    }
