"""Workers for tests of launchers: code started where `NUTRIDET_LAUNCHER` says, and what the run saw of it.

No postponed annotations: Dagster wants the annotation of `context` as a type.
"""

from typing import Any

import dagster as dg

from nutridet_assets.launch import Report, launch
from nutridet_assets.launchers import active_launcher

JOB = "from nutridet_assets.worker import work\nfrom nutridet_core.errors import AuditError\n"
"""Beginning of a worker's code, which defines `job` and ends with `raise SystemExit(work(job))`."""


def launched(code: str, **options: Any) -> tuple[Report, list[str]]:
    """A worker's report, and what the run's log shows of it.

    Args:
        options: of `launch`.
    """
    reports, lines = [], []

    @dg.asset
    def worked(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        log: Any = context.log
        log.info = lines.append
        reports.append(launch(context, [*active_launcher().command, "-c", code], elsewhere=True, **options))
        return dg.MaterializeResult()

    assert dg.materialize([worked], instance=dg.DagsterInstance.ephemeral()).success
    return reports[0], lines
