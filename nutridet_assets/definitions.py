"""Definitions: the code location that Dagster loads.

Belongs here: merging. Does not belong here: logic, or anything that is slow to import.
"""

from __future__ import annotations

import dagster as dg

from nutridet_assets import jobs, schedules, sensors
from nutridet_assets.assets import baseline, comparison, dataset, detection, monitoring, release, training
from nutridet_assets.resources import Worker

defs = dg.Definitions(
    assets=dg.load_assets_from_modules([dataset, baseline, training, comparison, release, monitoring, detection]),
    jobs=[
        jobs.pipeline,
        jobs.train_experiment,
        jobs.release,
        jobs.reevaluate,
        jobs.reevaluate_on_new_photos,
        jobs.list_collection,
        jobs.detect,
    ],
    schedules=[schedules.reevaluation],
    sensors=[sensors.new_photos, sensors.new_photos_for_champion, sensors.moved_champion],
    resources={"worker": Worker.configure_at_launch()},
    executor=dg.in_process_executor,  # the work is done in workers, one at a time; a process per step would add seconds
)
