"""Hooks: who is told when a scheduled step finds something wrong. Without NUTRIDET_ALERT_WEBHOOK nobody is.

Belongs here: when to send an alert, and the links in it. Does not belong here: the message and its delivery
(`nutridet_core.alerts`), or deciding that something is wrong (`nutridet_core.evaluation.audits`).

A hook runs after its step and cannot fail it. A process that was killed sends nothing: the freshness
policy of `champion_reevaluation` then shows that it is overdue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from nutridet_assets.metadata import mlflow_link
from nutridet_assets.resources import artifacts
from nutridet_core.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    from nutridet_core.alerts import Alert

_LONGEST_REASON = 1000


@dg.success_hook
def alert_on_regression(context: dg.HookContext) -> None:
    """Tell the webhook when the champion was just found to be worse than when it was registered."""
    from nutridet_core.alerts import regression_alert
    from nutridet_core.pipeline.history import past_reevaluations

    newest = past_reevaluations(artifacts())[-1].manifest
    links = {**_links(context), "mlflow_run": str(mlflow_link(f"/runs/{newest.mlflow_run_id}").value)}
    alert = regression_alert(_model(), newest, links)
    if alert is not None:
        _send(context, alert)


@dg.failure_hook
def alert_on_failure(context: dg.HookContext) -> None:
    """Tell the webhook when the champion could not be scored at all."""
    from nutridet_core.alerts import Alert

    reason = str(context.op_exception)[:_LONGEST_REASON]
    text = f"{_model()}: the champion could not be re-evaluated. {reason}"
    _send(context, Alert("reevaluation_failed", text, _model(), {"reason": reason}, _links(context)))


def _send(context: dg.HookContext, alert: Alert) -> None:
    from nutridet_core.alerts import send_alert

    webhook = Settings().alert_webhook
    if webhook is None:
        context.log.info(f"no alert {alert.event}: NUTRIDET_ALERT_WEBHOOK is not set")
    else:
        send_alert(alert, webhook, context.log.warning)


def _links(context: dg.HookContext) -> dict[str, str]:
    return {"dagster_run": f"http://{LOOPBACK}:{Settings().dagster_port}/runs/{context.run_id}"}


def _model() -> str:
    from nutridet_core.release.registry import model_name

    return model_name(Settings())
