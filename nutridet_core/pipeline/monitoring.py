"""Monitoring: the champion scored again, and held to what it scored when it was registered."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from nutridet_core.audits import audit_not_regressed
from nutridet_core.compare import Comparison, compare, compare_unpaired
from nutridet_core.errors import ArtifactError
from nutridet_core.evaluate import answer_split, load_samples, load_scores, save_scores
from nutridet_core.pipeline.context import Context, progress
from nutridet_core.pipeline.release import model_registry
from nutridet_core.registry import CHAMPION, Release
from nutridet_core.scores import Sample, Scores, score
from nutridet_core.store import MANIFEST, Manifest, read_manifest

_RUN = "champion re-evaluation"
_STAMP = "%Y%m%dT%H%M%S.%fZ"


def reevaluate_champion(context: Context) -> Manifest:
    """Score the registered champion on the current test split, always anew, and compare.

    Raises:
        ArtifactError: when there is no champion, or its weights are not those that were registered.
    """
    from nutridet_core.models import Source, load_model, load_processor

    registry = model_registry(context)
    holder = registry.holder(CHAMPION)
    if holder is None:
        raise ArtifactError("no champion", where=registry.model, remedy="Materialise registered_model first.")
    version, release = holder
    registry.verify_champion(version, release)
    profile, source = context.profile, Source(str(release.merged))
    context.log(f"champion: version {version}, release {release.name}")
    model = load_model(source, profile.architecture, profile.scoring_precision, profile.contract)
    processor = load_processor(source, profile.architecture, profile.contract)
    report = progress(context, "champion on test")
    samples = answer_split(model, processor, profile, context.layout.dataset, "test", progress=report)
    return _keep(context, version, release, samples)


def past_reevaluations(context: Context) -> list[tuple[datetime, Scores]]:
    """(when, scores) of every re-evaluation, oldest first."""
    return [(_when(folder), load_scores(folder)) for folder in _folders(context)]


def _keep(context: Context, version: str, release: Release, samples: list[Sample]) -> Manifest:
    now = datetime.now(UTC)
    folder = context.layout.reevaluations / now.strftime(_STAMP)
    run_id = context.open_run(_RUN, {"release": release.name, "version": version}, stage="monitoring")
    audit = audit_not_regressed(_against_registration(context, release, samples))
    manifest = Manifest(
        kind="scores",
        name=f"champion v{version}",
        contract=context.profile.contract.hash,
        data_fingerprint=context.fingerprint,
        config={"release": release.name, "version": version},
        facts={"audits": {audit.name: audit.to_dict()}, "version": version, "release": release.name},
        mlflow_run_id=run_id,
    )
    with context.tracker.step(run_id):
        save_scores(folder, f"champion v{version}", "test", samples, manifest)
        _record(context)
    context.log(audit.summary)
    return read_manifest(folder)


def _record(context: Context) -> None:
    """Log to MLflow what it does not know yet: the newest re-evaluation, and those that were killed before this."""
    for folder in _folders(context):
        run_id = context.run_of(read_manifest(folder, kind="scores", verify=False), _RUN, stage="monitoring")
        metrics, step = load_scores(folder).mlflow_metrics, int(_when(folder).timestamp())
        if not context.tracker.has_metrics(run_id, metrics, step):
            context.tracker.log_metrics(run_id, metrics, step)


def _against_registration(context: Context, release: Release, samples: list[Sample]) -> Comparison:
    """Paired where the test photos are still the same ones, else as two independent samples."""
    folder = context.layout.reference_scores(release.name)
    registered = read_manifest(folder, kind="scores")
    if registered.data_fingerprint == context.fingerprint:
        return compare("at registration", "now", load_samples(folder), samples)
    return compare_unpaired("at registration", "now", load_scores(folder), score("champion", "test", samples))


def _folders(context: Context) -> list[Path]:
    """Of all re-evaluations, oldest first."""
    return sorted(path.parent for path in context.layout.reevaluations.glob(f"*/{MANIFEST}"))


def _when(folder: Path) -> datetime:
    return datetime.strptime(folder.name, _STAMP).replace(tzinfo=UTC)
