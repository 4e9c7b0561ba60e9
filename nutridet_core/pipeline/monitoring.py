"""Monitoring: the champion scored again, and held to what it scored when it was registered.

Belongs here: carrying out a re-evaluation. Does not belong here: what all of them show (`history`), or
telling anyone (`alerts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from nutridet_core.artifacts.store import Manifest, read_manifest
from nutridet_core.errors import ContractError
from nutridet_core.evaluation.audits import audit_not_regressed
from nutridet_core.evaluation.compare import Comparison, compare, compare_unpaired
from nutridet_core.evaluation.drift import audit_inputs, compare_inputs, measure
from nutridet_core.evaluation.evaluate import answer_split, load_samples, load_scores, save_scores
from nutridet_core.evaluation.scores import Sample, score
from nutridet_core.pipeline.context import Context, progress, split_batches
from nutridet_core.pipeline.history import STAMP, Reevaluation, past_reevaluations, write_history
from nutridet_core.pipeline.inputs import training_inputs
from nutridet_core.pipeline.release import answers_today, model_registry
from nutridet_core.release.registry import Release

RUN = "champion re-evaluation"
STAGE = "monitoring"


def reevaluate_champion(context: Context) -> Manifest:
    """Score the registered champion on the current test split, always anew, and compare.

    Raises:
        ArtifactError: when there is no champion, or its weights are not those that were registered.
        ContractError: when it was made under another contract than today's.
    """
    from nutridet_core.models import Source, load_model, load_processor

    registry = model_registry(context)
    version, release = registry.champion()
    registry.verify_champion(version, release)
    if not answers_today(context, release):
        raise ContractError(
            "the champion was made under another contract than today's", where=f"{registry.model} version {version}",
            field="contract",
            remedy="`nutridet rollback --to VERSION` makes one of today's contract champion.",
        )  # fmt: skip
    profile, source = context.profile, Source(str(release.merged))
    context.log(f"champion: version {version}, release {release.name}")
    model = load_model(source, profile.architecture, profile.scoring_precision, profile.contract)
    processor = load_processor(source, profile.architecture, profile.contract)
    report = progress(context, "champion on test")
    batches = split_batches(context, model, processor, "test")
    samples = answer_split(model, batches, profile, context.layout.dataset, "test", progress=report)
    return _keep(context, version, release, samples)


def _keep(context: Context, version: str, release: Release, samples: list[Sample]) -> Manifest:
    folder = context.layout.reevaluations / datetime.now(UTC).strftime(STAMP)
    known = {"release": release.name, "version": version}
    run_id = context.open_run(RUN, known, stage=STAGE)
    training, now = training_inputs(context, release.name), measure(context.layout.dataset, "test")
    audits = [
        audit_not_regressed(_against_registration(context, release, samples)),
        audit_inputs(compare_inputs(training, now)),
    ]
    manifest = Manifest(
        kind="scores",
        name=f"champion v{version}",
        contract=context.profile.contract.hash,
        data_fingerprint=context.fingerprint,
        config=known,
        facts={"audits": {audit.name: audit.to_dict() for audit in audits}, **known},
        mlflow_run_id=run_id,
    )
    with context.tracker.step(run_id):
        save_scores(folder, f"champion v{version}", "test", samples, manifest)
        found = past_reevaluations(context.layout, context.log)
        registered = load_scores(context.layout.reference_scores(release.name))
        write_history(context.layout.monitoring, found, registered, (training, now))
        _record(context, found)
        context.tracker.log_folder(run_id, context.layout.monitoring, "monitoring")
    for audit in audits:
        context.log(f"{audit.name}: {audit.summary}")
    return read_manifest(folder)


def _record(context: Context, found: Sequence[Reevaluation]) -> None:
    """Tell MLflow what it does not know yet: the newest re-evaluation, and those that were killed before this.

    Metrics last: where they are, the files are too.
    """
    for each in found:
        run_id = context.run_of(each.manifest, RUN, stage=STAGE)
        step = int(each.when.timestamp())
        if not context.tracker.has_metrics(run_id, each.metrics, step):
            context.tracker.log_folder(run_id, each.folder, f"reevaluations/{each.folder.name}")
            context.tracker.log_metrics(run_id, each.metrics, step)


def _against_registration(context: Context, release: Release, samples: list[Sample]) -> Comparison:
    """Paired where the test photos are still the same ones, else as two independent samples."""
    folder = context.layout.reference_scores(release.name)
    registered = read_manifest(folder, kind="scores")
    if registered.data_fingerprint == context.fingerprint:
        return compare("at registration", "now", load_samples(folder), samples)
    return compare_unpaired("at registration", "now", load_scores(folder), score("champion", "test", samples))
