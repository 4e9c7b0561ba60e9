"""The gate: every blocking check of a release, read again from the manifests.

Belongs here: which audits an artefact must carry. Does not belong here: carrying them out (`audits`).
Dagster's checks show what these functions return; `release.registry` calls them itself, so the gate binds
also where no orchestrator runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nutridet_core.artifacts.layout import Layout
from nutridet_core.artifacts.store import Manifest, digest, read_manifest
from nutridet_core.data.dataset import check_boxes, check_splits
from nutridet_core.errors import AuditError
from nutridet_core.evaluation.audits import Audit, audit_parse_failures
from nutridet_core.evaluation.evaluate import load_scores

REQUIRED: dict[str, tuple[str, ...]] = {
    "adapter": ("label_audit", "module_audit", "gradient_audit"),
    "checkpoint_scores": ("contract_audit", "adapter_active"),
    "leaderboard": ("beats_baseline",),
    "merged_model": ("merge_base",),
    "fp8_model": ("fp8_modules",),
    "release_scores": ("merge_parity", "fp8_parity"),
    "champion_reevaluation": ("not_regressed", "inputs_like_training"),
}
"""Audits that a manifest of each asset must carry; a missing one counts as failed."""


def dataset_audits(folder: Path) -> list[Audit]:
    """Boxes and splits, read from the dataset as it lies there."""
    boxes, shared = check_boxes(folder), check_splits(folder)
    return [
        Audit("boxes_valid", not boxes, boxes[0] if boxes else "every box lies in its photo", {"problems": boxes[:5]}),
        Audit(
            "splits_disjoint",
            not shared,
            shared[0] if shared else "no barcode and no photo in two splits",
            {"problems": shared[:5]},
        ),
    ]


def recorded_audits(asset: str, folders: Iterable[Path]) -> list[Audit]:
    """The audits that the manifests of an asset carry, one per name: the first failed one, if any."""
    manifests = [read_manifest(folder, verify=False) for folder in folders]
    return [_worst(name, manifests) for name in REQUIRED[asset]]


def adapter_audits(layout: Layout, experiment: str) -> list[Audit]:
    """What training audited."""
    return recorded_audits("adapter", [layout.adapter(experiment)])


def checkpoint_audits(layout: Layout, experiment: str) -> list[Audit]:
    """What was audited when each checkpoint was loaded for scoring."""
    folders = sorted(path.parent for path in layout.scores(experiment, "").glob("checkpoint-*/selection/nutridet.json"))
    return recorded_audits("checkpoint_scores", folders)


def experiment_audits(layout: Layout, experiment: str) -> list[Audit]:
    """Whether the answers on test can be read."""
    return [audit_parse_failures(load_scores(layout.scores(experiment, "test")))]


def release_audits(layout: Layout, release: str, experiment: str) -> list[Audit]:
    """Everything that must hold before a release may be registered."""
    return [
        audit_same_release(layout, release, experiment),
        *dataset_audits(layout.dataset),
        *adapter_audits(layout, experiment),
        *checkpoint_audits(layout, experiment),
        *experiment_audits(layout, experiment),
        *recorded_audits("leaderboard", [layout.leaderboard]),
        *recorded_audits("merged_model", [layout.merged(release)]),
        *recorded_audits("fp8_model", [layout.fp8(release)]),
        *recorded_audits("release_scores", [layout.release_report]),
    ]


def audit_same_release(layout: Layout, release: str, experiment: str) -> Audit:
    """What was audited is what would be registered: one checkpoint, its weights, its scores, today's dataset.

    Every verb may run alone, so each folder can hold what an earlier run made of something else.
    """
    folders = _folders(layout, release, experiment)
    sealed = {name: read_manifest(folder, verify=False) for name, folder in folders.items()}
    scored = digest(load_scores(folders["scores"]).to_dict())
    bonds = [
        *_bonds(sealed, release),
        ("leaderboard", "winner", sealed["leaderboard"].facts.get("winner") == experiment),
        ("leaderboard", "scoring", sealed["leaderboard"].config.get("rows", {}).get(experiment) == scored),
    ]
    problems = [f"{name} is of another {thing}" for name, thing, holds in bonds if not holds]
    summary = "; ".join(problems) or f"every artefact is of release {release}"
    return Audit("same_release", not problems, summary, {name: found.digest for name, found in sealed.items()})


def require(audits: Sequence[Audit]) -> None:
    """Refuse when one failed.

    Raises:
        AuditError: naming all that failed.
    """
    failed = [audit for audit in audits if not audit.passed]
    if failed:
        raise AuditError(
            "; ".join(f"{audit.name}: {audit.summary}" for audit in failed),
            evidence={audit.name: audit.evidence for audit in failed},
            remedy="The gate stays shut until these pass.",
        )


def _folders(layout: Layout, release: str, experiment: str) -> dict[str, Path]:
    return {
        "dataset": layout.dataset,
        "adapter": layout.adapter(experiment),
        "scores": layout.scores(experiment, "test"),
        "leaderboard": layout.leaderboard,
        "merged": layout.merged(release),
        "fp8": layout.fp8(release),
        "parity": layout.release_report,
    }


def _bonds(sealed: dict[str, Manifest], release: str) -> list[tuple[str, str, bool]]:
    """(what, of which thing, whether it is the right one)."""
    merged, fp8, parity = sealed["merged"], sealed["fp8"], sealed["parity"].config
    checkpoint, fingerprint = merged.config.get("adapter"), sealed["dataset"].data_fingerprint
    measured = [name for name in sealed if name not in ("merged", "fp8")]  # weights may outlive a corrected test label
    return [
        *((name, "dataset", sealed[name].data_fingerprint == fingerprint) for name in measured),
        ("merged", "checkpoint", str(checkpoint).startswith(release)),
        ("scores", "checkpoint", sealed["scores"].config.get("weights") == checkpoint),
        ("fp8", "merged model", fp8.config.get("merged") == merged.digest),
        ("parity", "release", (parity.get("merged"), parity.get("fp8")) == (merged.digest, fp8.digest)),
    ]


def _worst(name: str, manifests: Sequence[Manifest]) -> Audit:
    found = [Audit(**manifest.facts.get("audits", {}).get(name, _missing(name, manifest))) for manifest in manifests]
    failed = [audit for audit in found if not audit.passed]
    return (failed or found or [Audit(**_missing(name, None))])[0]


def _missing(name: str, manifest: Manifest | None) -> dict[str, Any]:
    where = manifest.name if manifest else "any artefact"
    return {"name": name, "passed": False, "summary": f"not recorded in the manifest of {where}", "evidence": {}}
