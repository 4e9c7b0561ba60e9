"""Release: the best adapter merged, quantised to FP8, measured again, and registered through the gate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nutridet_core.artifacts.locks import claimed
from nutridet_core.artifacts.store import Manifest, is_complete, read_manifest, reusable, seal, write_json, writing
from nutridet_core.evaluation import gate
from nutridet_core.evaluation.audits import audit_fp8, audit_merge
from nutridet_core.evaluation.compare import compare
from nutridet_core.evaluation.evaluate import load_samples, load_scores
from nutridet_core.evaluation.scores import Scores
from nutridet_core.pipeline.comparison import best_experiment
from nutridet_core.pipeline.context import Context, score_model
from nutridet_core.pipeline.inputs import keep_training_inputs
from nutridet_core.pipeline.training import chosen_checkpoint
from nutridet_core.release.registry import CHAMPION, Registry, Release, may_replace, open_registry

POINTER = "release.json"
REPORT = "parity.json"


def merge_best(context: Context, names: Sequence[str]) -> Manifest:
    """Merge the best experiment's chosen checkpoint into pristine weights."""
    from nutridet_core.release.merge import merge

    winner = best_experiment(context, names)
    checkpoint = chosen_checkpoint(context, winner)
    release = read_manifest(checkpoint, kind="checkpoint").digest[:12]
    context.log(f"release {release}: {winner}/{checkpoint.name} into {context.profile.base_model}")
    manifest = merge(context.profile, checkpoint, context.layout.merged(release), name=f"{release}/merged")
    _point_to(context, {"release": release, "experiment": winner, "checkpoint": checkpoint.name})
    return manifest


def quantize_merged(context: Context) -> Manifest:
    """The current release in FP8."""
    from nutridet_core.release.quantize import quantize

    release = current_release(context)["release"]
    context.log(f"release {release}: to FP8")
    layout = context.layout
    return quantize(context.profile, layout.merged(release), layout.fp8(release), name=f"{release}/fp8")


def score_release(context: Context) -> Manifest:
    """Merged and FP8 weights on the full test split, against the adapter that they come from."""
    current = current_release(context)
    release, layout = current["release"], context.layout
    models = {"merged": layout.merged(release), "fp8": layout.fp8(release)}
    config = {"release": current, **{name: read_manifest(folder).digest for name, folder in models.items()},
              "data_fingerprint": context.fingerprint}  # fmt: skip
    run_id = context.open_run(f"release {release}", config, stage="release")
    with context.tracker.step(run_id):  # scores first: what a kept report rests on may have been damaged since
        scores = {name: score_weights(context, release, name, folder, run_id) for name, folder in models.items()}
        if kept := reusable(layout.release_report, "release_report", config):
            return kept
        return _write_parity(context, current, models, scores, config, run_id)


def register_release(context: Context) -> dict[str, Any]:
    """Put the current release into the registry and let it become champion where it may.

    Raises:
        AuditError: when any blocking audit of its artefacts is missing or failed.
        ArtifactError: when another process is registering it.
    """
    current = current_release(context)
    with claimed(context.layout.current_release):  # else two processes would find no version and make two
        return _register(context, current)


def _register(context: Context, current: dict[str, str]) -> dict[str, Any]:
    gate.require(gate.release_audits(context.layout, current["release"], current["experiment"]))
    release = read_release(context, current)
    release.verify()
    report = read_manifest(context.layout.release_report, kind="release_report")
    keep_training_inputs(context, release.name)
    registry = model_registry(context)
    scores = load_scores(_keep_reference(context, release))
    description = (
        f"{release.experiment}/{release.checkpoint}, test mean IoU {scores.metrics['mean_iou']}, n = {scores.n}, "
        f"photos {context.fingerprint[:7]}"
    )
    version = registry.register(release, str(report.mlflow_run_id), scores.mlflow_metrics, description)
    verdict = _challenge(context, registry, version, release)
    context.log(f"{registry.model} version {version}: {verdict}")
    return {"model": registry.model, "version": version, "verdict": verdict, **release.tags}


def _keep_reference(context: Context, release: Release) -> Path:
    """A copy of the scores at registration: later runs overwrite the original, re-evaluation needs this one."""
    reference = context.layout.reference_scores(release.name)
    if not is_complete(reference):
        with writing(reference) as draft:
            shutil.copytree(context.layout.scores(subject(release.name, "merged"), "test"), draft, dirs_exist_ok=True)
    return reference


def current_release(context: Context) -> dict[str, str]:
    """`{"release", "experiment", "checkpoint"}` of the last merge."""
    folder = context.layout.current_release
    read_manifest(folder, kind="release")
    return dict(json.loads((folder / POINTER).read_text(encoding="utf-8")))


def read_release(context: Context, current: dict[str, str]) -> Release:
    """The release with its folders and their digests."""
    merged, fp8 = context.layout.merged(current["release"]), context.layout.fp8(current["release"])
    return Release(
        name=current["release"],
        experiment=current["experiment"],
        checkpoint=current["checkpoint"],
        merged=merged,
        fp8=fp8,
        merged_digest=read_manifest(merged, kind="model").digest,
        fp8_digest=read_manifest(fp8, kind="model").digest,
    )


def model_registry(context: Context) -> Registry:
    """The registered model of the active profile."""
    return open_registry(context.settings)


def subject(release: str, weights: str) -> str:
    """Name under which a release's merged or FP8 weights are scored."""
    return f"release-{release}/{weights}"


def score_weights(context: Context, release: str, weights: str, folder: Path, run_id: str) -> Scores:
    """Score a folder of full weights on the test split."""
    from nutridet_core.models import Source, load_model, load_processor

    profile, source = context.profile, Source(str(folder))

    def load() -> tuple[Any, Any]:
        precision = "bf16" if weights == "fp8" else profile.scoring_precision  # FP8 layers compute in bf16
        model = load_model(source, profile.architecture, precision, profile.contract)
        return model, load_processor(source, profile.architecture, profile.contract)

    return score_model(
        context,
        subject(release, weights),
        "test",
        weights=read_manifest(folder, kind="model", verify=False).digest,
        load=load,
        run_id=run_id,
    )


def weight_bytes(folder: Path) -> int:
    """Size of a model's weights on disk, in bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _point_to(context: Context, current: dict[str, str]) -> None:
    if reusable(context.layout.current_release, "release", current):
        return
    with writing(context.layout.current_release) as draft:
        write_json(draft / POINTER, current)
        seal(
            draft,
            Manifest(kind="release", name=current["release"], config=current, contract=context.profile.contract.hash),
        )


def _write_parity(
    context: Context,
    current: dict[str, str],
    models: dict[str, Path],
    scores: dict[str, Scores],
    config: dict[str, Any],
    run_id: str,
) -> Manifest:
    adapter = load_samples(context.layout.scores(current["experiment"], "test"))
    merged, fp8 = (load_samples(context.layout.scores(subject(current["release"], name), "test")) for name in models)
    audits = [
        audit_merge(compare(current["experiment"], "merged", adapter, merged)),
        audit_fp8(compare("merged", "fp8", merged, fp8)),
    ]
    sizes = {name: weight_bytes(folder) for name, folder in models.items()}
    facts = {"bytes": sizes, "seconds_per_photo": {name: result.seconds_per_photo for name, result in scores.items()}}
    context.tracker.log_metrics(run_id, {f"{name}.bytes": float(size) for name, size in sizes.items()})
    with writing(context.layout.release_report) as draft:
        write_json(draft / REPORT, {**facts, "scores": {name: result.to_dict() for name, result in scores.items()}})
        manifest = Manifest(
            kind="release_report",
            name=current["release"],
            contract=context.profile.contract.hash,
            data_fingerprint=context.fingerprint,
            config=config,
            facts={**facts, "audits": {audit.name: audit.to_dict() for audit in audits}},
            mlflow_run_id=run_id,
        )
        return seal(draft, manifest)


def answers_today(context: Context, release: Release) -> bool:
    """Whether a release was made under today's contract."""
    return read_manifest(release.merged, verify=False).contract == context.profile.contract.hash


def _challenge(context: Context, registry: Registry, version: str, release: Release) -> str:
    """Promote when there is no champion yet, or when it is not worse than the champion on today's test photos."""
    holder = registry.holder(CHAMPION)
    if holder is None:
        registry.promote(version, "first champion", over=None)
        return "first champion"
    champion_version, champion = holder
    if champion_version == version:
        return "is champion already"
    if reason := registry.withdrawn(version):
        return f"stays challenger: {reason}; `nutridet rollback --to {version}` makes it champion again"
    registry.verify_champion(champion_version, champion)
    if not answers_today(context, champion):
        return (
            "stays challenger: the champion was asked in another way, under another contract, and cannot be compared; "
            f"`nutridet rollback --to {version}` makes this one champion"
        )
    run_id = context.open_run(f"champion {champion.name}", champion.tags, stage="release")
    with context.tracker.step(run_id):
        score_weights(context, champion.name, "merged", champion.merged, run_id)
    before, after = (
        load_samples(context.layout.scores(subject(name, "merged"), "test")) for name in (champion.name, release.name)
    )
    comparison = compare(f"champion v{champion_version}", f"v{version}", before, after)
    if may_replace(comparison):
        registry.promote(version, comparison.text, over=champion_version)
        return f"new champion: {comparison.text}"
    return f"stays challenger: {comparison.text}"
