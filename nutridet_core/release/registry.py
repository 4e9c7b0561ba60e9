"""The model registry: a version is a release, merged and FP8 weights that passed the gate together.

Belongs here: versions, aliases, promotion and its record. Does not belong here: what a release must pass
(`evaluation.gate`), or which version an operator wants back (`pipeline.rollback`).

`challenger` is the newest version that passed; `champion` is the one in use. Weights stay where
they are, in a folder of their own that no later run overwrites; the version carries their paths and
digests, and whoever loads them compares.

Every move of `champion` is written down in tags of the versions, before the alias moves: who, when, why, and
which version was replaced. An alias that was moved by hand in MLflow leaves no such record. Whoever moves it says
which version he saw there: processes of one home take turns, and who comes second is refused. MLflow itself compares
nothing, so homes that share a server may still overtake each other.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nutridet_core.artifacts.locks import claimed
from nutridet_core.artifacts.store import digest, read_manifest
from nutridet_core.errors import ArtifactError
from nutridet_core.evaluation.compare import Comparison
from nutridet_core.settings import Settings
from nutridet_core.tracking import Tracker, open_tracker

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER, CHAMPION = "challenger", "champion"
_PROMOTED, _WITHDRAWN = "champion.promoted", "champion.withdrawn"
_REPLACED = "champion.replaced"
"""Tags of a version: what they begin with, and the version whose place it took."""
_DESCRIPTION = """Finds nutrition tables in product photos. A version is a release: merged and FP8 weights that
passed every audit together; its tags say where they lie and what their digests are.

- `champion` is served (`nutridet serve models:/{model}@champion`) and scored again on schedule
- `challenger` is the newest version
- `nutridet rollback` gives `champion` back to the version before
"""
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
                    remedy="Restore it, or give the alias to another version: `nutridet rollback --to VERSION`.",
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
        home: NUTRIDET_HOME; whoever moves the champion's alias takes turns there.
    """

    tracker: Tracker
    model: str
    home: Path

    def register(self, release: Release, run_id: str, metrics: dict[str, float], description: str) -> str:
        """The version of this release, made now if it is not there, with the alias `challenger`."""
        version = self._find(release) or self._create(release, run_id, metrics, description)
        self.tracker.client.set_registered_model_alias(self.model, CHALLENGER, version.version)
        return str(version.version)

    def promote(self, version: str, why: str, *, over: str | None) -> None:
        """Make a version the champion in place of the version `over`.

        Raises:
            ArtifactError: when `over` is not the champion any more.
        """
        with self._while_champion(over):
            if over not in (None, version):
                self._tag(version, _REPLACED, str(over))
            self._give_champion(version, why)

    def withdraw(self, version: str, target: str, why: str) -> None:
        """Give the champion's alias to `target`; `version` is not promoted again by itself.

        What `target` once replaced stays written down: the next step back goes further back.

        Raises:
            ArtifactError: when `version` is not the champion any more.
        """
        with self._while_champion(version):
            self._write_down(version, _WITHDRAWN, why)
            self._give_champion(target, why)

    def withdrawn(self, version: str) -> str | None:
        """Who withdrew a version, when and why; None when nobody did, or it was given the alias again since."""
        tags = self._tags(version)
        if f"{_WITHDRAWN}.why" not in tags:
            return None
        who, when, why = (tags[f"{_WITHDRAWN}.{part}"] for part in ("by", "at", "why"))
        return f"withdrawn by {who} at {when}: {why}"

    def replaced_by(self, version: str) -> str | None:
        """The version whose place this one took when it was promoted; None where that was not written down."""
        return self._tags(version).get(_REPLACED)

    def release_of(self, version: str) -> Release:
        """The release that a version stands for.

        Raises:
            ArtifactError: naming the versions there are.
        """
        found = {str(found.version): found for found in self._versions()}
        if version not in found:
            known = ", ".join(sorted(found, key=int)) or "none"
            raise ArtifactError(f"no version {version}", where=self.model, remedy=f"There are: {known}.")
        return Release.from_tags(found[version].tags)

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

    def champion(self) -> tuple[str, Release]:
        """(version, release) of the champion.

        Raises:
            ArtifactError: when there is none.
        """
        holder = self.holder(CHAMPION)
        if holder is None:
            remedy = "Register a release: `nutridet register`, or materialise registered_model."
            raise ArtifactError("no champion", where=self.model, remedy=remedy)
        return holder

    def verify_champion(self, version: str, champion: Release) -> None:
        """Hash every file of the champion.

        Raises:
            ArtifactError: when its weights are lost or changed. Nothing can be compared with them then, so only a
                person can let another release take their place.
        """
        back = self.replaced_by(version)
        command = f"`nutridet rollback` gives it to version {back}" if back else "`nutridet rollback --to VERSION`"
        remedy = f"Restore {champion.name}, or give the alias {CHAMPION!r} to another version: {command}."
        self.verify(f"the champion, version {version}", champion, remedy=remedy)

    def verify(self, called: str, release: Release, *, remedy: str) -> None:
        """Hash every file of a version.

        Raises:
            ArtifactError: with `remedy`, when its weights are lost or changed.
        """
        try:
            release.verify()
        except ArtifactError as error:
            raise ArtifactError(
                f"weights of {called} of {self.model}: {error.problem}",
                where=error.where,
                field=error.field,
                remedy=remedy,
            ) from error

    @contextmanager
    def _while_champion(self, seen: str | None) -> Iterator[None]:
        """Nobody else of this home moves the alias meanwhile, and it still is where the caller saw it."""
        self.home.mkdir(parents=True, exist_ok=True)
        with claimed(self.home / CHAMPION, wait=True):
            holder = self.holder(CHAMPION)
            found = None if holder is None else holder[0]
            if found != seen:
                problem = "the champion is gone" if found is None else f"version {found} has become champion meanwhile"
                raise ArtifactError(problem, where=self.model, remedy="Look again.")
            yield

    def _give_champion(self, version: str, why: str) -> None:
        client, tags = self.tracker.client, self._tags(version)
        for tag in (tag for tag in tags if tag.startswith(_WITHDRAWN)):
            client.delete_model_version_tag(self.model, version, tag)
        self._write_down(version, _PROMOTED, why)
        client.set_registered_model_alias(self.model, CHAMPION, version)

    def _write_down(self, version: str, what: str, why: str) -> None:
        """Why last: a record without it was cut off, and counts as none."""
        for part, value in (("by", _who()), ("at", datetime.now(UTC).isoformat(timespec="seconds")), ("why", why)):
            self._tag(version, f"{what}.{part}", value)

    def _tag(self, version: str, name: str, value: str) -> None:
        self.tracker.client.set_model_version_tag(self.model, version, name, value)

    def _tags(self, version: str) -> dict[str, str]:
        return dict(self.tracker.client.get_model_version(self.model, version).tags)

    def _versions(self) -> list[ModelVersion]:
        return list(self.tracker.client.search_model_versions(f"name = '{self.model}'"))

    def _find(self, release: Release) -> ModelVersion | None:
        for version in self._versions():
            if release.tags.items() <= version.tags.items():
                return version
        return None

    def _create(self, release: Release, run_id: str, metrics: dict[str, float], description: str) -> ModelVersion:
        client = self.tracker.client
        if not client.search_registered_models(f"name = '{self.model}'"):
            client.create_registered_model(self.model, description=_DESCRIPTION.format(model=self.model))
        model_id = self.tracker.logged_model(
            release.name, digest(release.tags), run_id, kind="release", tags=release.tags
        )
        self.tracker.log_metrics(run_id, metrics, model_id=model_id)
        return client.create_model_version(
            self.model,
            f"models:/{model_id}",
            run_id=run_id,
            tags=release.tags,
            description=description,
            model_id=model_id,  # a server refuses such a source without it
        )


def open_registry(settings: Settings) -> Registry:
    """The registered model of the active profile."""
    return Registry(open_tracker(settings), model_name(settings), settings.home)


def model_name(settings: Settings) -> str:
    """Of the registered model of the active profile."""
    return f"nutridet-{settings.active_profile.name}"


def may_replace(comparison: Comparison) -> bool:
    """Whether a challenger may become champion: its mean IoU is not below the champion's on the same photos."""
    return comparison.mean_iou.value >= 0


def _who() -> str:
    """The user that this process runs as; its number where the system has no name for it, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
