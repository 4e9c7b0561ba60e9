"""What `make demo` took and gave: seconds of each step, and every row of its leaderboard.

    python -m benchmarks.demo [NAME]

Reads the last run of the job `pipeline` under `NUTRIDET_HOME` and writes `benchmarks/results/NAME.json`
(`demo` when no name is given). Measures nothing itself: the times are Dagster's own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.measures import header, processor_name
from nutridet_assets.home import prepare_home
from nutridet_assets.resources import artifacts
from nutridet_core.artifacts.store import write_json
from nutridet_core.settings import Settings

RESULTS = Path(__file__).parent / "results"
SHOWN = ("mean_iou", "f1_50", "ap", "parse_failure_rate", "false_detection_rate")


def main(name: str) -> None:
    """Write the result file and print it."""
    prepare_home()
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_run_records(dg.RunsFilter(job_name="pipeline"), limit=1)
        steps = {step.step_key: step for step in instance.get_run_step_stats(run.dagster_run.run_id)}
    board = json.loads((artifacts().leaderboard / "leaderboard.json").read_text(encoding="utf-8"))
    seconds = {key: round(step.end_time - step.start_time, 1) for key, step in steps.items()}
    result = {
        **header(_command(name), processor_name()),
        "source": Settings().source or Settings().active_profile.source,
        "test_source": (Settings().test_source or "").partition(":")[0] or None,  # not where it lies on this machine
        "status": run.dagster_run.status.value,
        "n": board["rows"][0]["scores"]["photos"],
        "metrics": {
            "seconds": round(run.end_time - run.start_time, 1),
            "seconds_by_step": seconds,
            **{row["name"]: _shown(row["scores"]["metrics"]) for row in board["rows"]},
        },
    }
    write_json(RESULTS / f"{name}.json", result)
    print(json.dumps(result["metrics"], indent=1))


def _command(name: str) -> str:
    """With which the figures come again; the photos lie elsewhere on other machines."""
    source = Settings().test_source
    given = f"NUTRIDET_TEST_SOURCE={source.partition(':')[0]}:REAL_PHOTOS " if source else ""
    return f"{given}make demo && .venv/bin/python -m benchmarks.demo {name}"


def _shown(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: metrics[name] for name in SHOWN}


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo")
