"""The model registry: a version is a release, merged and FP8 weights that passed the gate together.

Belongs here: versions, aliases, promotion. Does not belong here: what a release must pass (`gate`).

`challenger` is the newest version that passed; `champion` is the one in use. Weights stay where
they are, in a folder of their own that no later run overwrites; the version carries their paths and
digests, and whoever loads them compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nutridet_core.compare import Comparison
from nutridet_core.errors import ArtifactError
from nutridet_core.store import read_manifest
from nutridet_core.tracking import Tracker

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER, CHAMPION = "challenger", "champion"
_NO_SUCH_ALIAS = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's words for a model that is not there, and for a model without the alias."""


@dataclass(frozen=True)
class Release:
    """What a registered version stands for."""

    name: str
    experiment: str
    checkpoint: str
    merged: Path
    fp8: Path
    merged_digest: str
    fp8_digest: str

    def verify(self) -> None:
        """Hash every file of both models.

        Raises:
            ArtifactError: when a model is missing, changed, or not the one that was registered.
        """
        for folder, expected in ((self.merged, self.merged_digest), (self.fp8, self.fp8_digest)):
            if read_manifest(folder, kind="model").digest != expected:
                raise ArtifactError(
                    "is not what was registered",
                    where=folder,
                    remedy="Restore it, or give the alias to another version in MLflow.",
                )

    @property
    def tags(self) -> dict[str, str]:
        """For the registry."""
        return {f"nutridet.{name}": str(value) for name, value in vars(self).items()}

    @classmethod
    def from_tags(cls, tags: dict[str, str]) -> Release:
        """From the registry."""
        values = {name.removeprefix("nutridet."): value for name, value in tags.items() if name.startswith("nutridet.")}
        return cls(**{**values, "merged": Path(values["merged"]), "fp8": Path(values["fp8"])})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Registry:
    """One registered model in MLflow.

    Args:
        tracker: where MLflow is.
        model: its name there; one per profile, since a champion of one profile is none of another.
    """

    tracker: Tracker
    model: str

    def register(self, release: Release, run_id: str, metrics: dict[str, float], description: str) -> str:
        """The version of this release, made now if it is not there, with the alias `challenger`."""
        version = self._find(release) or self._create(release, run_id, metrics, description)
        self.tracker.client.set_registered_model_alias(self.model, CHALLENGER, version.version)
        return str(version.version)

    def promote(self, version: str) -> None:
        """Make a version the champion."""
        self.tracker.client.set_registered_model_alias(self.model, CHAMPION, version)

    def holder(self, alias: str) -> tuple[str, Release] | None:
        """(version, release) that carries an alias; None only when the registry says that nobody does."""
        from mlflow.exceptions import MlflowException

        try:
            version = self.tracker.client.get_model_version_by_alias(self.model, alias)
        except MlflowException as error:
            if error.error_code not in _NO_SUCH_ALIAS:
                raise
            return None
        return str(version.version), Release.from_tags(version.tags)

    def verify_champion(self, version: str, champion: Release) -> None:
        """Hash every file of the champion.

        Raises:
            ArtifactError: when its weights are lost or changed. Nothing can be compared with them then, so only a
                person can let another release take their place.
        """
        try:
            champion.verify()
        except ArtifactError as error:
            raise ArtifactError(
                f"weights of the champion, version {version} of {self.model}: {error.problem}",
                where=error.where,
                field=error.field,
                remedy=f"Restore {champion.name}, or take the alias {CHAMPION!r} from version {version} in MLflow: "
                "the next release to be registered then becomes champion without a comparison.",
            ) from error

    def _find(self, release: Release) -> ModelVersion | None:
        for version in self.tracker.client.search_model_versions(f"name = '{self.model}'"):
            if release.tags.items() <= version.tags.items():
                return version
        return None

    def _create(self, release: Release, run_id: str, metrics: dict[str, float], description: str) -> ModelVersion:
        client = self.tracker.client
        if not client.search_registered_models(f"name = '{self.model}'"):
            client.create_registered_model(self.model, description="Nutrition table detector: merged and FP8 weights.")
        logged = client.create_logged_model(
            self.tracker.experiment_id, name=release.name, source_run_id=run_id, tags=release.tags, model_type="release"
        )
        for name, value in metrics.items():
            client.log_metric(run_id, name, value, model_id=logged.model_id)
        client.finalize_logged_model(logged.model_id, "READY")
        return client.create_model_version(
            self.model, f"models:/{logged.model_id}", run_id=run_id, tags=release.tags, description=description
        )


def may_replace(comparison: Comparison) -> bool:
    """Whether a challenger may become champion: its mean IoU is not below the champion's on the same photos."""
    return comparison.mean_iou.value >= 0
