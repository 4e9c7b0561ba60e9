"""Monitoring: the champion scored again on schedule."""

import dagster as dg

from nutridet_assets import checks, metadata
from nutridet_assets.assets.declare import asset
from nutridet_assets.resources import Results, Worker, artifacts
from nutridet_core.store import MANIFEST

_SHOWN = 12


@asset(
    "monitoring",
    deps=["nutrition_dataset", "registered_model"],
    checks=["not_regressed"],
    blocking=False,
    kinds={"pytorch", "mlflow"},
)
def champion_reevaluation(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """The registered champion scored again on today's test photos, and held to what it scored when registered."""
    yield from worker.run(context, "reevaluate_champion")
    from nutridet_core.gate import recorded_audits

    folders = sorted(path.parent for path in artifacts().reevaluations.glob(f"*/{MANIFEST}"))
    newest, facts = folders[-1], metadata.facts(folders[-1])
    trend = [(folder.name, metadata.read_scores(folder).headline) for folder in reversed(folders[-_SHOWN:])]
    yield dg.MaterializeResult(
        metadata={
            "version": facts["version"],
            "release": facts["release"],
            "trend": metadata.rows(("when", "on test"), trend),
            **metadata.scored(newest),
        },
        data_version=metadata.version(newest),
        check_results=[
            *checks.results("champion_reevaluation", {"champion": recorded_audits("champion_reevaluation", [newest])})
        ],
    )
