"""Resources: the worker that does the heavy steps, and where the artefacts lie.

Belongs here: one object per thing outside an asset, each a thin face of something in the core or in
`launch`. Does not belong here: what a step computes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from nutridet_assets.checks import refused
from nutridet_assets.launch import Report, launch
from nutridet_assets.launchers import active_launcher, module_of
from nutridet_assets.launchers.processes import GRACE_SECONDS
from nutridet_core.artifacts.layout import Layout
from nutridet_core.settings import Settings

GPU = "gpu"
"""Pool of all workers. `dagster.yaml` gives it one slot: two trainings on one GPU run out of memory."""

Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]


def artifacts() -> Layout:
    """The artefact folders of the active profile."""
    return Layout(Settings().artifacts)


class Worker(dg.ConfigurableResource[None]):
    """Starts one worker per heavy step, where `NUTRIDET_LAUNCHER` says."""

    command: list[str] = Field(
        default_factory=list, description="What starts a worker on this machine. Empty: as NUTRIDET_LAUNCHER says."
    )
    grace_seconds: float = Field(
        GRACE_SECONDS, ge=0, le=600, description="How long a cancelled worker may take to end before it is killed."
    )

    def run(
        self,
        context: dg.AssetExecutionContext,
        verb: str,
        names: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> Generator[dg.AssetCheckResult, None, dict[str, Any]]:
        """Do a verb in a worker and return what it reported; yields the checks that stopped it, if any did.

        Args:
            settings: `NUTRIDET_*` variables for this worker only.

        Raises:
            Failure: when the worker failed, with its reason.
        """
        launcher = active_launcher()
        command = self.command or [*launcher.command, "-m", module_of(verb)]
        elsewhere = launcher.elsewhere and not self.command
        report = launch(
            context, [*command, verb, *names], settings or {}, elsewhere=elsewhere, grace_seconds=self.grace_seconds
        )
        message = report.messages[-1] if report.messages else {}
        if "failed_audits" in message:
            declared = [key.name for key in context.selected_asset_check_keys]
            yield from refused(context.asset_key.to_user_string(), declared, message)
        if report.exit_code != 0 or "result" not in message:
            raise _failure(verb, report, message)
        return message["result"] or {}


def _failure(verb: str, report: Report, message: Mapping[str, Any]) -> dg.Failure:
    """A reason that a person can act on. Never retried: the same inputs would fail in the same way."""
    reason = message.get("text") or message.get("error")
    if reason:
        return dg.Failure(reason, allow_retries=False)
    return dg.Failure(
        f"the worker for {verb} {report.ending}. Its last lines:\n{report.tail or '(it printed nothing)'}",
        allow_retries=False,
    )
