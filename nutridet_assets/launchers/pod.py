"""The pod of a worker: the user's template, `NUTRIDET_K8S_POD`, with what only this step knows.

Belongs here: what a manifest must say, as data. Does not belong here: talking to a cluster (`kubernetes`).

Image, volume claim, secrets, node and security context are Kubernetes' own words and stand in the template, where an
administrator looks for them; there are no settings that repeat them.
"""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from nutridet_core.errors import SettingsError

GPU = "nvidia.com/gpu"
_TRACKING = "NUTRIDET_TRACKING_URI"
_PASSWORD = re.compile("://[^/]*:[^/]*@")

Manifest = dict[str, Any]


def read_template(path: Path | None) -> Manifest:
    """The user's pod.

    Raises:
        SettingsError: when it is not one.
    """
    if path is None:
        raise SettingsError("is not set", field="NUTRIDET_K8S_POD", remedy="Name a pod template, see docs/clusters.md.")
    try:
        pod = yaml.safe_load(path.read_text(encoding="utf-8"))
        if pod["kind"] == "Pod" and pod["spec"]["containers"][0]["image"]:
            return pod  # type: ignore[no-any-return]
    except (OSError, yaml.YAMLError, LookupError, TypeError) as error:
        raise _unusable(path, f"is no pod template ({type(error).__name__}: {error})") from error
    raise _unusable(path, "is no Pod whose first container has an image")


def worker_pod(
    template: Manifest, arguments: Sequence[str], variables: Mapping[str, str], gpus: int, owner: Manifest | None = None
) -> Manifest:
    """The pod of one worker.

    Args:
        arguments: of the image's Python interpreter.
        variables: for its environment; a tracking server's password is left out, a manifest can be read by many.
        owner: the pod of this run, with which Kubernetes removes this one too.

    Raises:
        SettingsError: when the worker would not have the home or the tracking server that this process has.
    """
    pod = copy.deepcopy(template)
    container = pod["spec"]["containers"][0]
    _require_home(container, variables["NUTRIDET_HOME"])
    public = _without_password(container, variables)
    kept = [entry for entry in container.get("env", []) if entry["name"] not in public]
    container["env"] = [*kept, *({"name": name, "value": value} for name, value in public.items())]
    container["command"] = ["python", *arguments]
    _ask_for_gpus(container, gpus)
    pod["spec"]["restartPolicy"] = "Never"  # a rerun continues from what is sealed; a restart would hide the failure
    _name(pod, arguments, variables, owner)
    return pod


def _require_home(container: Manifest, home: str) -> None:
    mounted = [PurePosixPath(mount["mountPath"]) for mount in container.get("volumeMounts", [])]
    if not any(PurePosixPath(home).is_relative_to(path) for path in mounted):
        raise SettingsError(
            f"mounts nothing at {home}, so that artefacts would end with the pod",
            where="pod template", field="volumeMounts", remedy="Mount there what this process has at NUTRIDET_HOME.",
        )  # fmt: skip


def _without_password(container: Manifest, variables: Mapping[str, str]) -> dict[str, str]:
    if not _PASSWORD.search(variables.get(_TRACKING, "")):
        return dict(variables)
    names = {entry["name"] for entry in container.get("env", [])}
    if _TRACKING not in names and not container.get("envFrom"):
        raise SettingsError(
            f"gives the worker no secret with {_TRACKING}, which holds a password and is not written into manifests",
            where="pod template", field="envFrom", remedy="Add a secretRef, see docs/clusters.md.",
        )  # fmt: skip
    return {name: value for name, value in variables.items() if name != _TRACKING}


def _ask_for_gpus(container: Manifest, gpus: int) -> None:
    limits = container.setdefault("resources", {}).setdefault("limits", {})
    limits.pop(GPU, None)
    if gpus:
        limits[GPU] = str(gpus)


def _name(pod: Manifest, arguments: Sequence[str], variables: Mapping[str, str], owner: Manifest | None) -> None:
    verb = re.sub("[^a-z0-9]+", "-", " ".join(arguments[2:3]).lower()).strip("-")[:40] or "worker"
    metadata = pod.setdefault("metadata", {})
    metadata["name"] = f"nutridet-{verb}-{secrets.token_hex(4)}"
    run = {"nutridet/run": variables["NUTRIDET_RUN_ID"]} if "NUTRIDET_RUN_ID" in variables else {}
    metadata["labels"] = {"app.kubernetes.io/name": "nutridet", **metadata.get("labels", {}), **run}
    if owner is not None:
        metadata["ownerReferences"] = [owner]


def _unusable(path: Path, problem: str) -> SettingsError:
    return SettingsError(
        problem, where=path, field="NUTRIDET_K8S_POD", remedy="Begin with deploy/kubernetes/worker-pod.yaml."
    )
