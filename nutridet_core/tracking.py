"""MLflow: one run per subject, reopened by every step that has something to say about it.

Belongs here: runs, metrics, artefacts. Does not belong here: registered models (`registry`).

A run is found again by a key (a hash of what is run), so that materialising twice does not make two
runs; its id also lies in the manifests. Run ids, not MLflow's "active run", are passed everywhere:
the active run is process-wide and ends with the process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "nutridet.key"
_PARAM_LENGTH = 500


@dataclass(frozen=True)
class Tracker:
    """One MLflow experiment.

    Args:
        uri: tracking and registry server, or a SQLite file.
        experiment: name of the MLflow experiment.
        artifacts: folder for artefacts when there is no server to decide it.
    """

    uri: str
    experiment: str
    artifacts: Path

    @property
    def client(self) -> MlflowClient:
        """The client; MLflow resolves `models:/` through the process-wide address, so that is set every time."""
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        return self._client

    @cached_property
    def _client(self) -> MlflowClient:
        import mlflow

        return mlflow.MlflowClient(self.uri, self.uri)

    @cached_property
    def experiment_id(self) -> str:
        """The experiment's id; made on first use."""
        found = self.client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        location = None if self.uri.startswith("http") else self.artifacts.as_uri()
        return str(self.client.create_experiment(self.experiment, artifact_location=location))

    def open_run(self, name: str, key: str, *, tags: Mapping[str, str] | None = None) -> str:
        """Id of the run with this key; made on first use."""
        found = self.client.search_runs(
            [self.experiment_id], filter_string=f"tags.`{KEY}` = '{key}'", order_by=["start_time DESC"], max_results=1
        )
        if found:
            return str(found[0].info.run_id)
        run = self.client.create_run(self.experiment_id, run_name=name, tags={**(tags or {}), KEY: key})
        return str(run.info.run_id)

    def has_run(self, run_id: str) -> bool:
        """Whether the run is there and nobody deleted it."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return bool(run.info.lifecycle_stage == "active")

    @contextmanager
    def step(self, run_id: str) -> Iterator[str]:
        """The run shows as running while the block does, then as finished, or failed when it raised."""
        self.client.update_run(run_id, status="RUNNING")
        try:
            yield run_id
        except BaseException:
            self.client.set_terminated(run_id, status="FAILED")
            raise
        self.client.set_terminated(run_id, status="FINISHED")

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """All or none, and finite values only: MLflow's SQL stores replace NaN by 0."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(run_id, [Metric(name, value, now, step) for name, value in _finite(metrics).items()])

    def has_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> bool:
        """Whether these were logged. They are written in their order, so the last one vouches for all."""
        name, value = list(_finite(metrics).items())[-1]
        history = self.client.get_metric_history(run_id, name)
        return any((point.step, point.value) == (step, value) for point in history)

    def log_params(self, run_id: str, params: Mapping[str, Any], prefix: str = "") -> None:
        """Nested mappings become dotted names."""
        for name, value in params.items():
            if isinstance(value, Mapping):
                self.log_params(run_id, value, f"{prefix}{name}.")
            else:
                self.client.log_param(run_id, f"{prefix}{name}", str(value)[:_PARAM_LENGTH])

    def log_dataset(self, run_id: str, name: str, fingerprint: str, source: str) -> None:
        """The dataset as an MLflow input, with its fingerprint as digest."""
        from mlflow.entities import Dataset, DatasetInput

        dataset = Dataset(name=name, digest=fingerprint[:36], source_type="nutridet", source=source)
        self.client.log_inputs(run_id, [DatasetInput(dataset)])

    def log_folder(self, run_id: str, folder: Path, path: str) -> None:
        """All files of a folder, as artefacts under `path`."""
        self.client.log_artifacts(run_id, str(folder), path)


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value) for name, value in metrics.items() if isinstance(value, int | float) and math.isfinite(value)
    }
