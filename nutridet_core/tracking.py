"""MLflow: one run per subject, reopened by every step that has something to say about it.

Belongs here: runs, metrics, artefacts. Does not belong here: registered models (`release.registry`).

A run is found again by a key (a hash of what is run), so that materialising twice does not make two
runs; its id also lies in the manifests. Run ids, not MLflow's "active run", are passed everywhere:
the active run is process-wide and ends with the process.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nutridet_core.artifacts.store import git_commit
from nutridet_core.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "nutridet.key"
NO_CODE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false"}
"""Environment under which MLflow loads no model that is a pickle or brings code; by default it does."""
_PARAM_LENGTH = 500
_PARENT, _DESCRIPTION = "mlflow.parentRunId", "mlflow.note.content"
_SECONDS_BETWEEN_SAMPLES = 10


@dataclass(frozen=True)
class Tracker:
    """One MLflow experiment.

    Args:
        uri: tracking and registry server, or a SQLite file.
        experiment: name of the MLflow experiment.
        artifacts: URI of the folder for artefacts when there is no server to decide it.
    """

    uri: str
    experiment: str
    artifacts: str

    @property
    def client(self) -> MlflowClient:
        """The client; MLflow resolves `models:/` through the process-wide address, so that is set every time."""
        import mlflow

        os.environ.update(NO_CODE)
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
        location = None if self.uri.startswith("http") else self.artifacts
        return str(self.client.create_experiment(self.experiment, artifact_location=location))

    def open_run(self, name: str, key: str, *, tags: Mapping[str, str] | None = None, parent: str | None = None) -> str:
        """Id of the run with this key; made on first use.

        Args:
            parent: id of the run that it is shown under.
        """
        found = self.client.search_runs(
            [self.experiment_id], filter_string=f"tags.`{KEY}` = '{key}'", order_by=["start_time DESC"], max_results=1
        )
        if found:
            return str(found[0].info.run_id)
        under = {_PARENT: parent} if parent else {}
        made_by = {"mlflow.source.name": "nutridet", "mlflow.source.git.commit": git_commit() or "not a checkout"}
        known = {**made_by, **(tags or {}), **under, KEY: key}
        run = self.client.create_run(self.experiment_id, run_name=name, tags=known)
        return str(run.info.run_id)

    def open_group(self, name: str, key: str, *, tags: Mapping[str, str]) -> str:
        """Id of the run under which others are shown; nothing runs in it, so it is finished when it is made."""
        run_id = self.open_run(name, key, tags=tags)
        self.settle(run_id)
        return run_id

    def settle(self, run_id: str) -> None:
        """Show a run as finished that says it runs, though what it made is there: its process was killed just then."""
        if self.client.get_run(run_id).info.status == "RUNNING":
            self.client.set_terminated(run_id)

    def describe(self, run_id: str, markdown: str) -> None:
        """The text at the top of a run's page."""
        self.client.set_tag(run_id, _DESCRIPTION, markdown)

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
        """The run shows as running while the block does, then as finished, or failed when it raised.

        Meanwhile the machine's load is logged as `system/...`, next to what the block logs.
        """
        self.client.update_run(run_id, status="RUNNING")
        try:
            with _watching_machine(run_id, self.uri):
                yield run_id
        except BaseException:
            self.client.set_terminated(run_id, status="FAILED")
            raise
        self.client.set_terminated(run_id, status="FINISHED")

    def log_metrics(
        self, run_id: str, metrics: Mapping[str, float], step: int = 0, *, model_id: str | None = None
    ) -> None:
        """All or none, and finite values only: MLflow's SQL stores replace NaN by 0.

        Args:
            model_id: of the logged model that they were measured on.
        """
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        points = [Metric(name, value, now, step, model_id) for name, value in _finite(metrics).items()]
        self.client.log_batch(run_id, points)

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

    def log_dataset(
        self, run_id: str, name: str, fingerprint: str, source: str, splits: Mapping[str, int] | None = None
    ) -> None:
        """The dataset as an MLflow input, with its fingerprint as digest and the photos of each split."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        profile = json.dumps({"num_rows": sum((splits or {}).values()), **(splits or {})})
        dataset = Dataset(name, fingerprint[:36], source_type="nutridet", source=source, profile=profile)
        context = InputTag("mlflow.data.context", ", ".join(splits or {}))
        self.client.log_inputs(run_id, [DatasetInput(dataset, [context] if splits else [])])

    def logged_model(
        self,
        name: str,
        key: str,
        run_id: str,
        *,
        kind: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any] | None = None,
        step: int = 0,
    ) -> str:
        """Id of the logged model with this key, which MLflow ranks by its metrics; made on first use.

        Args:
            key: digest of what it is.
            run_id: the run that made it, at that training step.
        """
        from mlflow.entities import LoggedModelOutput

        found = self.client.search_logged_models(
            [self.experiment_id], filter_string=f"tags.`{KEY}` = '{key}' AND source_run_id = '{run_id}'", max_results=1
        )
        if found:
            return str(found[0].model_id)
        model = self.client.create_logged_model(
            self.experiment_id,
            name=name,
            source_run_id=run_id,
            tags={**tags, KEY: key},
            params={param: str(value)[:_PARAM_LENGTH] for param, value in (params or {}).items()},
            model_type=kind,
        )
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
        self.client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)

    def log_file(self, run_id: str, file: Path, path: str) -> None:
        """One file, as an artefact under `path`."""
        self.client.log_artifact(run_id, str(file), path)

    def log_folder(self, run_id: str, folder: Path, path: str) -> None:
        """All files of a folder, as artefacts under `path`."""
        self.client.log_artifacts(run_id, str(folder), path)


def open_tracker(settings: Settings, experiment: str | None = None) -> Tracker:
    """MLflow as the settings say, one experiment per profile unless another is named."""
    settings.home.mkdir(parents=True, exist_ok=True)
    name = experiment or f"nutridet/{settings.active_profile.name}"
    return Tracker(settings.mlflow_uri, name, settings.mlflow_artifacts)


@contextmanager
def _watching_machine(run_id: str, uri: str) -> Iterator[None]:
    """Processor, memory, disk, network and GPU, sampled by a thread of MLflow's; no GPU metrics without its library."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # a line per start and stop
    monitor = SystemMetricsMonitor(run_id, _SECONDS_BETWEEN_SAMPLES, resume_logging=True, tracking_uri=uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value) for name, value in metrics.items() if isinstance(value, int | float) and math.isfinite(value)
    }
