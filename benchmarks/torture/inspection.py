"""What a home holds: whether it is whole, and what was computed, without what differs from run to run.

Belongs here: reading artefacts, registry and runs. Does not belong here: whether that is good (`campaign`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nutridet_core.artifacts.store import MANIFEST, Manifest, digest, read_manifest
from nutridet_core.errors import NutridetError
from nutridet_core.evaluation.evaluate import load_samples
from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.release import model_registry
from nutridet_core.release.registry import Registry, Release

_DRAFT = re.compile(r"^\..*\.[0-9a-f]{32}(\.old)?(\.lock)?$")
"""Names that `store` gives to what is being written."""


def inspect(context: Context) -> dict[str, Any]:
    """`content` by artefact, and lists of what is `broken`, `stale`, `running`, `claimed` without proof."""
    root = context.layout.root
    folders = sorted(path.parent for path in root.rglob(MANIFEST) if not _is_draft(path.relative_to(root)))
    content: dict[str, str] = {}
    broken, named = [], set()
    for folder in folders:
        try:
            manifest = read_manifest(folder)
        except NutridetError as error:
            broken.append(str(error))
            continue
        named.add(manifest.mlflow_run_id)
        content[_place(folder.relative_to(root))] = digest(_essence(folder, manifest))
    registry, faults = _registry(model_registry(context))
    return {
        "content": content | {"registry": digest(registry)},
        "broken": broken + faults,
        "stale": [str(path.relative_to(root)) for path in root.rglob(".*") if _DRAFT.match(path.name)],
        **_runs(context, named),
    }


def _is_draft(path: Path) -> bool:
    return any(_DRAFT.match(part) for part in path.parts)


def _place(folder: Path) -> str:
    """Re-evaluations are named by time, so they go by what they are."""
    return "reevaluations/*" if folder.parent.name == "reevaluations" else folder.as_posix()


def _essence(folder: Path, manifest: Manifest) -> list[Any]:
    """What must be the same when the artefact is made again: no seconds, no dates."""
    same: list[Any] = [manifest.kind, manifest.name, manifest.contract, manifest.data_fingerprint]
    weights = {name: value for name, value in manifest.files.items() if name.endswith(".safetensors")}
    match manifest.kind:
        case "scores":
            found = load_samples(folder)
            same += [[s.id, s.text, s.form, [box.as_tuple() for box in s.predicted]] for s in found]
        case "choice":
            same += [manifest.facts["chosen"]]
        case "leaderboard":
            same += [manifest.facts["winner"]]
        case "adapter" | "release" | "triton_repository" | "checkpoint":
            same += [manifest.config]
    return [*same, weights]


def _registry(registry: Registry) -> tuple[dict[str, Any], list[str]]:
    """Versions and aliases, by the names of their releases; and what is wrong with the files they stand for."""
    client, faults = registry.tracker.client, []
    found = client.search_model_versions(f"name = '{registry.model}'")
    releases = {str(version.version): Release.from_tags(version.tags) for version in found}
    for version, release in releases.items():
        try:
            release.verify()
        except NutridetError as error:
            faults.append(f"registered version {version}: {error}")
    holders = {alias: registry.holder(alias) for alias in ("challenger", "champion")}
    aliases = {alias: holder[1].name for alias, holder in holders.items() if holder}
    return {"versions": sorted(release.name for release in releases.values()), "aliases": aliases}, faults


def _runs(context: Context, named: set[str | None]) -> dict[str, list[str]]:
    """Runs that say they run, and finished ones that no artefact names. Groups finish when they are made."""
    client, tracker = context.tracker.client, context.tracker
    found = client.get_experiment_by_name(tracker.experiment)
    runs = client.search_runs([found.experiment_id]) if found else []
    made = [run for run in runs if run.data.tags.get("nutridet.stage") not in ("dataset", None)]
    return {
        "running": [run.info.run_name for run in made if run.info.status == "RUNNING"],
        "claimed": [run.info.run_name for run in made
                    if run.info.status == "FINISHED" and run.info.run_id not in named],
    }  # fmt: skip
