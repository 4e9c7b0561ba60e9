"""Materialise a job from a terminal: every step in turn, with progress, and what came of it.

    python -m nutridet_assets.materialize [JOB]

Belongs here: what a newcomer sees. Does not belong here: what a job holds (`jobs`). The run is an
ordinary one: Dagster's UI shows it, with its checks and metadata.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence

import dagster as dg

from nutridet_assets.definitions import defs
from nutridet_assets.home import prepare_home
from nutridet_assets.resources import artifacts
from nutridet_core.artifacts.store import MANIFEST, read_manifest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 0 when every step and every blocking check passed."""
    parser = argparse.ArgumentParser(prog="python -m nutridet_assets.materialize", description="Materialise a job.")
    parser.add_argument("job", nargs="?", default="pipeline", help="pipeline, release or reevaluate")
    name = parser.parse_args(arguments).job
    prepare_home()
    began = time.monotonic()
    job = dg.Definitions.merge(defs, dg.Definitions(loggers={"console": dg.logger(plain_lines)})).resolve_job_def(name)
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process({"loggers": {"console": {}}}, instance=instance, raise_on_error=False)
    _show_checks(result.get_asset_check_evaluations())
    _show_leaderboard()
    print(f"\n{name} {'succeeded' if result.success else 'FAILED'} after {time.monotonic() - began:.0f} s")
    return 0 if result.success else 1


def plain_lines(_: dg.InitLoggerContext) -> logging.Logger:
    """Progress of the steps; Dagster's own events stay in its event log."""
    logger = logging.Logger("nutridet", logging.INFO)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Line())
    logger.addHandler(handler)
    return logger


class _Line(logging.Formatter):
    """`[  42 s] adapter: message`."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.time()

    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        step, message = meta.get("step_key") or "run", meta.get("orig_message") or record.getMessage()
        return f"[{record.created - self.began:4.0f} s] {step}: {message}"


def _show_checks(checks: Sequence[dg.AssetCheckEvaluation]) -> None:
    failed = [check for check in checks if not check.passed]
    print(f"\nchecks: {len(checks) - len(failed)} of {len(checks)} passed")
    for check in failed:
        print(f"  FAILED {check.asset_key.to_user_string()}/{check.check_name}: {check.description}")


def _show_leaderboard() -> None:
    folder = artifacts().leaderboard
    if (folder / MANIFEST).is_file():
        print(f"\n{read_manifest(folder, verify=False).facts['text']}")


if __name__ == "__main__":
    sys.exit(main())
