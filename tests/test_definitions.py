"""Definitions: the graph that Dagster loads, and that loading it stays cheap."""

from __future__ import annotations

import subprocess
import sys

import dagster as dg
import pytest

from nutridet_assets.definitions import defs
from nutridet_assets.resources import GPU
from nutridet_assets.worker import VERBS
from nutridet_core import gate
from nutridet_core.experiments import EXPERIMENTS
from nutridet_core.settings import Settings

ASSETS = {
    "nutrition_dataset", "dataset_report", "baseline_scores", "peer_scores", "adapter", "checkpoint_scores",
    "best_checkpoint", "experiment_scores", "leaderboard", "merged_model", "fp8_model", "release_scores",
    "registered_model", "model_card", "triton_repository", "champion_reevaluation",
}  # fmt: skip
HEAVY = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "mlflow", "pyarrow", "matplotlib")


def _specs() -> list[dg.AssetSpec]:
    return list(defs.resolve_all_asset_specs())


def test_the_graph_is_the_one_that_is_documented() -> None:
    assert {spec.key.to_user_string() for spec in _specs()} == ASSETS


def test_every_asset_says_what_it_is_whose_and_of_which_stage() -> None:
    for spec in _specs():
        assert spec.description and spec.owners and spec.kinds and spec.group_name != "default", spec.key


def test_work_in_a_worker_takes_the_slot_of_the_pool() -> None:
    """Two trainings on one GPU run out of memory."""
    assets = {asset.key.to_user_string(): asset for asset in defs.resolve_asset_graph().assets_defs}
    outside = {name for name, asset in assets.items() if asset.op.pool != GPU}
    assert outside == {"best_checkpoint"}
    assert {name for name, asset in assets.items() if "worker" not in asset.required_resource_keys} == outside


def test_partitions_of_a_run_share_one_worker() -> None:
    partitioned = [asset for asset in defs.resolve_asset_graph().assets_defs if asset.partitions_def is not None]
    assert {asset.key.to_user_string() for asset in partitioned} == {
        "adapter", "checkpoint_scores", "best_checkpoint", "experiment_scores",
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


@pytest.mark.parametrize("name", ["pipeline", "train_experiment", "release", "reevaluate"])
def test_jobs_resolve(name: str) -> None:
    assert defs.resolve_job_def(name).name == name


def test_reevaluation_is_scheduled_as_the_settings_say() -> None:
    schedule = defs.resolve_schedule_def("reevaluation")
    assert schedule.cron_schedule == Settings().reevaluation_cron
    assert schedule.job_name == "reevaluate"


def test_every_verb_of_the_worker_exists() -> None:
    from importlib import import_module

    for verb, module in VERBS.items():
        assert callable(getattr(import_module(f"nutridet_core.pipeline.{module}"), verb))
