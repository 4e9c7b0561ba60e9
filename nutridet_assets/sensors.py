"""Sensors: what runs because something changed. They are off until someone turns them on.

Belongs here: noticing. Does not belong here: what runs (`jobs`).
"""

from __future__ import annotations

import dagster as dg

from nutridet_assets.jobs import pipeline
from nutridet_assets.partitions import every_experiment
from nutridet_core.settings import Settings


@dg.sensor(job=pipeline, minimum_interval_seconds=300, default_status=dg.DefaultSensorStatus.STOPPED)
def new_photos(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Runs the pipeline when the photo source has changed; the first look only remembers what is there."""
    now, before = source_signature(Settings()), context.cursor
    context.update_cursor(now)
    if before is None:
        return dg.SkipReason("remembered the source as it is now")
    if before == now:
        return dg.SkipReason("the source has not changed")
    return dg.RunRequest(run_key=now, tags=every_experiment())


def source_signature(settings: Settings) -> str:
    """Changes when the source is another one, at another revision, or a folder whose files changed."""
    from nutridet_core.data.sources import source_signature as signature_of
    from nutridet_core.store import digest

    sources = [settings.source or settings.active_profile.source, settings.test_source]
    return digest([[source, signature_of(source)] for source in sources if source])
