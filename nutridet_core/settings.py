"""Settings: the few things that differ between machines, read from `NUTRIDET_*` variables.

Belongs here: where things lie and which profile runs. Does not belong here: hyper-parameters
(`experiments`, `profiles`). Nothing is read at import; `Settings()` reads the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from nutridet_core.artifacts.hub import require_commit
from nutridet_core.errors import SettingsError
from nutridet_core.experiments import Experiment, load_experiments
from nutridet_core.profiles import Profile, get_profile

LOOPBACK = "127.0.0.1"
_NEAR = 0.92  # one letter in a name of ten; NUTRIDET_LAUNCHER_PID, which is none of these, has 0.89
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """One installation of nutridet; every field is also a `NUTRIDET_` environment variable."""

    model_config = SettingsConfigDict(env_prefix="NUTRIDET_", env_ignore_empty=True, frozen=True, extra="ignore")

    home: Path = Path(".nutridet")
    """Everything this project writes: artefacts, MLflow and Dagster databases."""
    profile: str = "tiny"
    revision: str | None = None
    """Commit of the base model on the hub, instead of the profile's."""
    source: str | None = None
    """Photo source instead of the profile's: `generated:400`, `coco:/path`, `hub@REVISION` ..."""
    test_source: str | None = None
    """A source of its own for the test split; `source` then feeds training and selection only."""
    experiments: Path | None = None
    """TOML file with further experiments."""
    max_epochs: Annotated[int | None, Field(ge=1)] = None
    """Cuts every experiment short, instead of the profile's limit."""
    tracking_uri: str | None = Field(None, repr=False)
    """MLflow server, or the database of the one that `up` starts; the default is a SQLite file under `home`."""
    artifact_uri: str | None = None
    """Where MLflow keeps files, `s3://BUCKET/PATH` for one; the default is a folder under `home`."""
    dagster_storage: str | None = Field(None, repr=False)
    """`postgresql+psycopg2://...` for runs and events; the default is SQLite files under `home`."""
    dagster_port: Port = 3000
    mlflow_port: Port = 5000
    """Where `up` lets the two pages listen, on loopback."""
    launcher: Literal["local", "accelerate", "ray", "k8s", "slurm"] = "local"
    """Where workers run: here, here with one per GPU for a training, or on a cluster."""
    worker_gpus: Annotated[int, Field(ge=0)] = 1
    """How many GPUs a worker asks of a cluster."""
    k8s_pod: Path | None = None
    """Template of a worker's pod, a YAML file."""
    processes: Annotated[int | None, Field(ge=1)] = None
    """How many train together, instead of one per visible GPU."""
    sharded: bool = False
    """They divide the weights among them, for models that do not fit into one GPU."""
    collection: str | None = None
    """Photos to be answered by the asset `detections`: a folder, a parquet file or `s3://BUCKET/PREFIX`."""
    collection_column: str = "image"
    """Of parquet files in it."""
    detection_engine: Literal["transformers", "vllm", "openai"] = "transformers"
    """What answers them: in each replica, a vLLM that each replica starts, or a server that runs already."""
    detection_url: str | None = None
    """Of that server."""
    detection_local: bool = False
    """Answer them in the worker itself, without Ray."""
    reevaluation_cron: str = "0 6 * * 1"
    """When `champion` is scored again: Mondays at 6."""
    alert_webhook: SecretStr | None = None
    """Address that gets a JSON message when `champion` has become worse."""

    def __init__(self, **values: Any) -> None:
        _refuse_misspelt(type(self).model_fields)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _unusable(error) from None  # pydantic's text quotes the value, which may be a secret

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        try:
            return home.expanduser().resolve()
        except (OSError, RuntimeError) as error:
            raise SettingsError(f"is no path ({error})", field="NUTRIDET_HOME", remedy="Name a folder.") from error

    @field_validator("tracking_uri")
    @classmethod
    def _without_password(cls, uri: str | None) -> str | None:
        """Links show the address of a server to everybody, and MLflow's errors quote it."""
        if uri is not None and re.match("https?://[^/]*@", uri):
            raise SettingsError(
                "holds a user or password", field="NUTRIDET_TRACKING_URI",
                remedy="Give them in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
            )  # fmt: skip
        return uri

    @field_validator("reevaluation_cron")
    @classmethod
    def _five_fields(cls, cron: str) -> str:
        if not re.fullmatch(r"@[a-z]+|[\d*/,\-]+ [\d*/,\-]+ [\d*/,\-L]+ [\dA-Za-z*/,\-]+ [\dA-Za-z*/,\-#]+", cron):
            raise SettingsError(
                "is no time in cron's form", field="NUTRIDET_REEVALUATION_CRON",
                remedy="Give minute, hour, day, month and day of the week, e.g. '0 6 * * 1' for Mondays at 6.",
            )  # fmt: skip
        return cron

    @field_validator("alert_webhook")
    @classmethod
    def _web_address(cls, webhook: SecretStr | None) -> SecretStr | None:
        if webhook is not None and not webhook.get_secret_value().startswith(("https://", "http://")):
            raise SettingsError("is no http(s) address", field="NUTRIDET_ALERT_WEBHOOK", remedy="Correct or unset it.")
        return webhook

    @property
    def active_profile(self) -> Profile:
        """The profile named by `profile`, at the commit named by `revision` if there is one.

        Raises:
            SettingsError: when there is no such profile, or its base model cannot be at that commit.
        """
        profile = get_profile(self.profile)
        if self.max_epochs:
            profile = replace(profile, max_epochs=self.max_epochs)
        return profile if self.revision is None else _at(profile, self.revision)

    @property
    def all_experiments(self) -> dict[str, Experiment]:
        """Built-in experiments and the user's."""
        return load_experiments(self.experiments)

    @property
    def artifacts(self) -> Path:
        """Where artefacts of the active profile lie; profiles never share a folder."""
        return self.home / "artifacts" / self.active_profile.name

    @property
    def mlflow_uri(self) -> str:
        """The tracking and registry URI in force."""
        return self.tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> str:
        """The URI below which MLflow keeps files."""
        return self.artifact_uri or (self.home / "mlartifacts").as_uri()

    @property
    def mlflow_page(self) -> str:
        """Where people look at MLflow: the tracking server, or the one that `up` starts."""
        if not self.mlflow_uri.startswith("http"):
            return f"http://{LOOPBACK}:{self.mlflow_port}"
        return self.mlflow_uri.rstrip("/")


def _refuse_misspelt(fields: Collection[str]) -> None:
    """A variable that is nearly a setting's would leave that setting at its default, in silence."""
    settings = [f"NUTRIDET_{field.upper()}" for field in fields]
    for name in os.environ:
        if (
            name.startswith("NUTRIDET_")
            and name not in settings
            and (near := get_close_matches(name, settings, 1, _NEAR))
        ):
            raise SettingsError("is no setting", field=name, remedy=f"Write {near[0]}, or unset it.")


def _unusable(error: ValidationError) -> SettingsError:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    name = "_".join(str(part) for part in first["loc"]).upper()
    return SettingsError(f"cannot be used: {first['msg']}", field=f"NUTRIDET_{name}", remedy="Correct or unset it.")


def _at(profile: Profile, revision: str) -> Profile:
    if Path(profile.base_model).is_dir():
        raise SettingsError(
            f"is set, and the base model of {profile.name!r} is a folder", field="NUTRIDET_REVISION", remedy="Unset it."
        )
    return replace(profile, revision=require_commit(revision, where=profile.base_model, field="NUTRIDET_REVISION"))
