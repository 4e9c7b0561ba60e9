"""Schedules: what runs by the clock, and when it is overdue. They are off until someone turns them on.

Belongs here: times. Does not belong here: what runs (`jobs`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import dagster as dg
from dagster._utils.schedules import schedule_execution_time_iterator  # no public API tells a cron's ticks

from nutridet_assets.jobs import reevaluate
from nutridet_core.settings import Settings

_GRACE = timedelta(hours=6)
"""A re-evaluation may wait for the GPU behind a training."""
_TICKS = 100

reevaluation = dg.ScheduleDefinition(
    name="reevaluation",
    job=reevaluate,
    cron_schedule=Settings().reevaluation_cron,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Scores the champion again; set the time in NUTRIDET_REEVALUATION_CRON.",
)


def overdue(cron: str) -> dg.FreshnessPolicy:
    """Warns when a tick was missed, and fails when a second one was.

    Not Dagster's policy by cron: it looks at the last tick's window only, so that it would notice a missed
    tick one interval late, and call every schedule with uneven gaps stale after the longer ones.
    """
    longest = _longest_gap(cron)
    return dg.FreshnessPolicy.time_window(fail_window=2 * longest + _GRACE, warn_window=longest + _GRACE)


def _longest_gap(cron: str) -> timedelta:
    """Between two ticks, of the next hundred: a night, a weekend, or a month of 31 days."""
    ticks = islice(schedule_execution_time_iterator(datetime.now(UTC).timestamp(), cron, "UTC"), _TICKS)
    return max(after - before for before, after in pairwise(ticks))
