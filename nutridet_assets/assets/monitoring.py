"""Monitoring: the champion scored again on schedule."""

import dagster as dg

from nutridet_assets import checks, hooks, metadata
from nutridet_assets.assets.declare import asset
from nutridet_assets.resources import Results, Worker, artifacts
from nutridet_assets.schedules import overdue
from nutridet_core.settings import Settings

_SHOWN = 12


@asset(
    "monitoring",
    deps=["nutrition_dataset", "registered_model"],
    checks=["not_regressed", "inputs_like_training"],
    blocking=False,
    kinds={"pytorch", "mlflow"},
    hooks={hooks.alert_on_regression, hooks.alert_on_failure},
    freshness_policy=overdue(Settings().reevaluation_cron),
)
def champion_reevaluation(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """The registered champion scored again on today's test photos, and held to what it scored when registered."""
    yield from worker.run(context, "reevaluate_champion")
    from nutridet_core.evaluation.drift import HEADER
    from nutridet_core.evaluation.gate import recorded_audits
    from nutridet_core.pipeline.history import past_reevaluations

    layout = artifacts()
    found = past_reevaluations(layout)
    newest = found[-1]
    trend = [(f"{each.when:%Y-%m-%d %H:%M}", each.subject, each.scores.headline) for each in reversed(found[-_SHOWN:])]
    yield dg.MaterializeResult(
        metadata={
            "version": newest.manifest.facts["version"],
            "release": newest.manifest.facts["release"],
            **metadata.picture(layout.monitoring / "trend.png"),
            "history": metadata.rows(("when, UTC", "what", "on test"), trend),
            **metadata.picture(layout.monitoring / "drift.png"),
            "photos against training": metadata.rows(HEADER, [shift.cells for shift in newest.shifts]),
            **metadata.numbers(newest.changes),
            **metadata.scored(newest.folder),
        },
        data_version=metadata.version(newest.folder),
        check_results=[
            *checks.results(
                "champion_reevaluation", {"champion": recorded_audits("champion_reevaluation", [newest.folder])}
            )
        ],
    )
