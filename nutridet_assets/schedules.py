"""Schedules: what runs by the clock. They are off until someone turns them on.

Belongs here: times. Does not belong here: what runs (`jobs`).
"""

from __future__ import annotations

import dagster as dg

from nutridet_assets.jobs import reevaluate
from nutridet_core.settings import Settings

reevaluation = dg.ScheduleDefinition(
    name="reevaluation",
    job=reevaluate,
    cron_schedule=Settings().reevaluation_cron,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Scores the champion again; set the time in NUTRIDET_REEVALUATION_CRON.",
)
