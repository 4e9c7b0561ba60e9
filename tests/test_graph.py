"""The graph in Dagster, with real workers: checks block, failures say why, artefacts become metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from datasets import Dataset

from nutridet_assets.assets import dataset, training
from nutridet_assets.resources import Worker
from nutridet_core.artifacts.layout import Layout
from nutridet_core.artifacts.store import read_manifest, seal


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """An empty home with a small source."""
    monkeypatch.setenv("NUTRIDET_HOME", str(tmp_path))
    monkeypatch.setenv("NUTRIDET_SOURCE", "generated:24")
    return Layout(tmp_path / "artifacts" / "tiny")


def _materialize(*assets: dg.AssetsDefinition, **options: Any) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        assets,
        resources={"worker": Worker()},
        instance=dg.DagsterInstance.ephemeral(),
        raise_on_error=False,
        selection=list(assets),
        **options,
    )


def test_photos_become_a_dataset_with_metadata_and_checks(home: Layout) -> None:
    result = _materialize(dataset.nutrition_dataset, dataset.dataset_report)
    assert result.success
    assert {check.check_name for check in result.get_asset_check_evaluations() if check.passed} == {
        "boxes_valid",
        "splits_disjoint",
    }
    (made,) = result.asset_materializations_for_node("nutrition_dataset")
    assert made.metadata["photos"].value == 24
    assert made.tags is not None
    assert made.tags["dagster/data_version"] == read_manifest(home.dataset).data_fingerprint
    (report,) = result.asset_materializations_for_node("dataset_report")
    assert str(report.metadata["samples picture"].value).startswith("![samples](data:image/jpeg;base64,")


def test_a_barcode_in_two_splits_blocks_what_lies_downstream(home: Layout) -> None:
    assert _materialize(dataset.nutrition_dataset).success
    _plant_a_shared_barcode(home.dataset)
    result = _materialize(dataset.nutrition_dataset, dataset.dataset_report)
    assert not result.success
    (check,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "splits_disjoint"]
    assert not check.passed
    assert "barcode planted in train" in str(check.description)
    assert not result.asset_materializations_for_node("dataset_report")


@pytest.mark.parametrize(("epochs", "words"), [(0, "greater than or equal to 1"), (10_001, "less than or equal to")])
def test_a_launch_outside_its_bounds_is_refused(home: Layout, epochs: int, words: str) -> None:
    config = dg.RunConfig(ops={"adapter": {"config": {"max_epochs": epochs}}})
    result = _materialize(training.adapter, partition_key="exp1a", run_config=config)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert words in str(failure.step_failure_data.error)


def test_a_worker_that_cannot_work_says_what_is_missing(home: Layout) -> None:
    result = _materialize(training.adapter, partition_key="exp1a")
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    error = failure.step_failure_data.error
    assert error is not None
    assert f"{home.dataset}: no manifest, so there is no artefact here" in error.message


def _plant_a_shared_barcode(folder: Path) -> None:
    manifest = read_manifest(folder)
    for split in ("train", "test"):
        rows = Dataset.load_from_disk(str(folder / split)).to_list()
        rows[0]["barcode"] = "planted"
        features = Dataset.load_from_disk(str(folder / split)).features
        changed = folder.parent / f"changed-{split}"
        Dataset.from_list(rows, features=features).save_to_disk(str(changed))
        for path in (folder / split).iterdir():
            path.unlink()
        for path in changed.iterdir():
            path.rename(folder / split / path.name)
    seal(folder, manifest)
