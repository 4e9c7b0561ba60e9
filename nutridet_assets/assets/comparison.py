"""Comparison: all subjects on the same test photos."""

import json

import dagster as dg

from nutridet_assets import checks, metadata
from nutridet_assets.assets.declare import asset
from nutridet_assets.partitions import experiments, finished_experiments
from nutridet_assets.resources import Results, Worker, artifacts


@asset(
    "comparison",
    deps=["baseline_scores", "peer_scores", "best_checkpoint", "experiment_scores"],
    checks=["beats_baseline"],
    kinds={"html", "matplotlib", "mlflow"},
)
def leaderboard(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """All scored experiments against the baseline, the peer and trivial answers: intervals, paired tests, overlays."""
    layout = artifacts()
    names = finished_experiments(layout)
    left_out = sorted(set(experiments.get_partition_keys()) - set(names))
    if left_out:
        context.log.warning(f"not scored yet, so not compared: {', '.join(left_out)}")
    yield from worker.run(context, "build_leaderboard", names)
    from nutridet_core.artifacts.store import read_manifest
    from nutridet_core.evaluation.gate import recorded_audits

    folder = layout.leaderboard
    run = read_manifest(folder, verify=False).mlflow_run_id
    board = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    yield dg.MaterializeResult(
        metadata={
            "finding": board["headline"],
            "reservations": metadata.plain(board["reservations"]),
            "winner": board["winner"],
            "leaderboard": metadata.leaderboard(board["rows"]),
            "left out": ", ".join(left_out) or "none",
            "report": metadata.mlflow_link(f"/experiments/-/runs/{run}/artifacts/leaderboard/report.html"),
            "report file": dg.MetadataValue.path(str(folder / "report.html")),
            **metadata.picture(folder / "leaderboard.png"),
            **metadata.picture(folder / "overlays.png"),
            **metadata.picture(folder / "curves.png"),
            **metadata.artifact(folder),
        },
        data_version=metadata.version(folder),
        check_results=[*checks.results("leaderboard", {"winner": recorded_audits("leaderboard", [folder])})],
    )
