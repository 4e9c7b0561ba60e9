"""Asset checks: what `nutridet_core.evaluation.gate` reads from the artefacts, shown by Dagster.

Belongs here: names, descriptions and results of checks. Does not belong here: carrying out an audit
(`nutridet_core.evaluation.audits`) or deciding what a release needs (`gate`, which also binds without Dagster).

Blocking checks stop what lies downstream in the same run. They are read from the artefacts on disk
and not from what a worker said about them; only an audit that stopped the worker, so that there is no
artefact, comes from its message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from nutridet_assets.metadata import plain

if TYPE_CHECKING:
    from nutridet_core.evaluation.audits import Audit

DESCRIPTIONS = {
    "boxes_valid": "Every saved box lies inside its photo and has an area.",
    "splits_disjoint": "No product and no photo is in two splits.",
    "label_audit": "The supervised tokens decode to exactly the answer and its terminator.",
    "module_audit": "LoRA sits in each tower that the experiment names, nowhere else; 4 bits only where they may be.",
    "gradient_audit": "After the first backward pass a gradient has reached LoRA in each tower named.",
    "contract_audit": "Scoring asks what training asked: same family, prompt and pixel budget.",
    "adapter_active": "Logits with the adapter differ from those without it.",
    "parse_failures": "Answers on the test photos can be read.",
    "beats_baseline": "The paired interval of the winner's gain over the zero-shot model lies above 0.",
    "merge_base": "The adapter was merged into full-precision weights, never into 4-bit ones.",
    "merge_parity": "The merged model scores like the adapter on its base.",
    "fp8_modules": "FP8 is in the language model only, by the dtypes in the file.",
    "fp8_parity": "The FP8 model is not shown to be worse than the merged one.",
    "not_regressed": "The champion is not shown to be worse than when it was registered.",
    "inputs_like_training": "Test photos are not shown to differ from training photos in size, light or tables.",
}
WARNINGS = frozenset({"inputs_like_training"})
"""Checks that warn: photos may differ while the model still finds their tables."""


def specs(asset: str, *names: str, blocking: bool = True) -> list[dg.AssetCheckSpec]:
    """Checks that an asset evaluates itself, when it is materialised."""
    return [dg.AssetCheckSpec(name, asset=asset, blocking=blocking, description=DESCRIPTIONS[name]) for name in names]


def results(asset: str, audits: Mapping[str, Sequence[Audit]]) -> Iterator[dg.AssetCheckResult]:
    """One result per audit name over all subjects (experiments, or the one artefact).

    Args:
        audits: by subject; the summary names the subjects that failed.
    """
    names = dict.fromkeys(audit.name for found in audits.values() for audit in found)
    for name in names:
        of_name = {subject: audit for subject, found in audits.items() for audit in found if audit.name == name}
        failed = {subject: audit for subject, audit in of_name.items() if not audit.passed}
        yield dg.AssetCheckResult(
            asset_key=asset,
            check_name=name,
            passed=not failed,
            severity=dg.AssetCheckSeverity.WARN if name in WARNINGS else dg.AssetCheckSeverity.ERROR,
            description=_summary(failed or of_name),
            metadata={subject: plain(audit.evidence) for subject, audit in of_name.items()},
        )


def refused(asset: str, declared: Sequence[str], message: Mapping[str, Any]) -> Iterator[dg.AssetCheckResult]:
    """Failed results for an audit that stopped a worker: those of the declared checks that its text names."""
    for name in declared:
        if f"{name}: " in message["text"]:
            yield dg.AssetCheckResult(
                asset_key=asset,
                check_name=name,
                passed=False,
                description=message["text"],
                metadata={"evidence": plain(message["failed_audits"])},
            )


def _summary(audits: Mapping[str, Audit]) -> str:
    return "; ".join(f"{subject}: {audit.summary}" for subject, audit in audits.items())
