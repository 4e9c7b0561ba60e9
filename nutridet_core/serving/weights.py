"""Which model to serve, and where its weights lie.

Belongs here: what MODEL on the command line means. Does not belong here: loading for one engine or another
(`launch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nutridet_core.artifacts.store import MANIFEST, digest, is_complete, read_manifest
from nutridet_core.errors import ArtifactError, SettingsError
from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.release import current_release, model_registry
from nutridet_core.prompts import Contract
from nutridet_core.release.registry import CHAMPION, Registry
from nutridet_core.serving.holder import Identity

Precision = Literal["merged", "fp8"]
_PRECISIONS: dict[str, Precision] = {"merged": "merged", "fp8": "fp8"}
_SCHEME = "models:/"


@dataclass(frozen=True)
class Weights:
    """A model that can be loaded."""

    identity: Identity
    folder: Path | None
    """None: the base of the profile, with the adapter that ships for it if one does."""
    untuned: bool = False
    """The base without that adapter."""

    def verify(self, contract: Contract) -> None:
        """Hash every file, and compare contract and registration.

        Raises:
            ArtifactError, ContractError: when they do not hold. A folder without a manifest has nothing to hold to.
        """
        if self.folder is None or not (self.folder / MANIFEST).is_file():
            return
        manifest = read_manifest(self.folder)
        contract.require(manifest, self.folder)
        if manifest.digest != self.identity.digest:
            raise ArtifactError(
                "is not what was registered",
                where=self.folder,
                remedy="Restore it, or give the alias to another version in MLflow.",
            )


@dataclass(frozen=True)
class Alias:
    """A registry alias, whose holder may change."""

    registry: Registry
    alias: str
    precision: Precision

    def find(self) -> Weights:
        """The weights of the version that carries the alias now. Asks the registry only; `Weights.verify` hashes.

        Raises:
            ArtifactError: when no version does.
        """
        holder = self.registry.holder(self.alias)
        if holder is None:
            raise ArtifactError(
                f"no version carries the alias {self.alias!r}",
                where=f"{_SCHEME}{self.registry.model}",
                remedy="Register a release (nutridet register), or name a folder.",
            )
        version, release = holder
        merged, fp8 = (release.merged, release.merged_digest), (release.fp8, release.fp8_digest)
        folder, expected = fp8 if self.precision == "fp8" else merged
        return Weights(Identity(self.registry.model, version, expected), folder)


def find_alias(context: Context, model: str | None, precision: Precision) -> Alias | None:
    """The alias that MODEL names; without MODEL the champion's, if there is one; None when it is about a folder.

    Raises:
        SettingsError: when MODEL begins like an alias and is none of this profile.
    """
    registry = model_registry(context)
    if model is None:
        if context.settings.tracking_uri is None and not (context.settings.home / "mlflow.db").is_file():
            return None  # else MLflow would make a database, which takes seconds, to say that it is empty
        return Alias(registry, CHAMPION, precision) if registry.holder(CHAMPION) else None
    if not model.startswith(_SCHEME):
        return None
    name, _, alias = model.removeprefix(_SCHEME).partition("@")
    if name != registry.model or not alias:
        raise SettingsError(
            f"{model!r} is no alias of the profile {context.profile.name!r}",
            field="MODEL",
            remedy=f"Use {_SCHEME}{registry.model}@{CHAMPION}, or set NUTRIDET_PROFILE.",
        )
    return Alias(registry, alias, precision)


def find_weights(context: Context, model: str | None, precision: Precision = "merged") -> Weights:
    """The folder named; else the current release; else the base. What `nutridet predict` would use.

    Raises:
        SettingsError: when FP8 weights are asked for, and there is no release that has them.
    """
    if model is None and is_complete(context.layout.current_release):
        return _of_current_release(context, precision)
    if precision == "fp8":
        raise SettingsError(
            "is for a release; a folder and the base are served as they are", field="weights",
            remedy="Leave it out, or make a release that has FP8 weights: `nutridet quantize`.",
        )  # fmt: skip
    return _base(context) if model is None else _in_folder(Path(model))


def find_beside(context: Context, text: str) -> tuple[str, Weights]:
    """(name, weights) of a model to compare with: `base`, `merged` or `fp8` of the release, or `NAME=FOLDER`.

    Raises:
        SettingsError: when it is none of these.
        ArtifactError: when there is no release or no such folder.
    """
    name, _, folder = text.partition("=")
    if name and folder:
        return name, _in_folder(Path(folder))
    if name == "base":
        return name, _base(context, untuned=True)
    if name in _PRECISIONS:
        return name, _of_release(context, _PRECISIONS[name])
    raise SettingsError(f"no model {text!r}", field="beside", remedy="Use base, merged, fp8 or NAME=FOLDER.")


def _base(context: Context, *, untuned: bool = False) -> Weights:
    profile = context.profile
    return Weights(Identity(f"{profile.name}-base", None, profile.base_identity), None, untuned)


def _of_release(context: Context, precision: Precision) -> Weights:
    """Of the champion; before there is one, of the current release."""
    if alias := find_alias(context, None, precision):
        return alias.find()
    return _of_current_release(context, precision)


def _of_current_release(context: Context, precision: Precision) -> Weights:
    release, layout = current_release(context)["release"], context.layout
    return _in_folder(layout.fp8(release) if precision == "fp8" else layout.merged(release))


def _in_folder(folder: Path) -> Weights:
    """Known by its manifest; a foreign folder by the names and sizes of its files."""
    if not folder.is_dir():
        raise ArtifactError("no such folder", where=folder, field="MODEL", remedy="Correct the path.")
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder, verify=False)
        return Weights(Identity(manifest.name, None, manifest.digest), folder)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    return Weights(Identity(folder.name, None, digest(files)), folder)
