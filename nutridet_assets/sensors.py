"""Sensors: what runs because something changed. They are off until someone turns them on.

Belongs here: noticing. Does not belong here: what runs (`jobs`).

The first look only remembers what is there. Runs have no key: a source or an alias may go back to what it
was before, and Dagster would take the second visit for the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from nutridet_assets.jobs import pipeline, reevaluate, reevaluate_on_new_photos
from nutridet_assets.partitions import every_experiment
from nutridet_core.settings import Settings

_NOBODY = "nobody"

Look = Callable[[dg.SensorEvaluationContext], dg.RunRequest | dg.SkipReason]


def _off(job: Any, *, seconds: int) -> Callable[[Look], dg.SensorDefinition]:
    """A sensor that is off until someone turns it on, described by its docstring."""

    def declare(look: Look) -> dg.SensorDefinition:
        return dg.sensor(
            job=job,
            minimum_interval_seconds=seconds,
            default_status=dg.DefaultSensorStatus.STOPPED,
            description=look.__doc__,
        )(look)

    return declare


@_off(pipeline, seconds=300)
def new_photos(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Runs the whole pipeline when the photo source has changed."""
    return _when_changed(context, source_signature(Settings()), "the source", every_experiment())


@_off(reevaluate_on_new_photos, seconds=300)
def new_photos_for_champion(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Scores the champion on the photos of a source that has changed, without training: instead of `new_photos`."""
    return _when_changed(context, source_signature(Settings()), "the source")


@_off(reevaluate, seconds=60)
def moved_champion(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Scores the champion when another version was given its alias: by a release, a rollback, or by hand in MLflow."""
    version = champion_version(Settings())
    if version == _NOBODY:
        context.update_cursor(version)
        return dg.SkipReason("there is no champion")
    return _when_changed(context, version, "the champion")


def champion_version(settings: Settings) -> str:
    """The version that is champion, or that nobody is."""
    from nutridet_core.release.registry import CHAMPION, open_registry

    if settings.tracking_uri is None and not (settings.home / "mlflow.db").is_file():
        return _NOBODY  # looking would make the database, while a worker may be making it too
    holder = open_registry(settings).holder(CHAMPION)
    return holder[0] if holder else _NOBODY


def source_signature(settings: Settings) -> str:
    """Changes when the source is another one, at another revision, or a folder whose files changed."""
    from nutridet_core.artifacts.store import digest
    from nutridet_core.data.sources import source_signature as signature_of

    sources = [settings.source or settings.active_profile.source, settings.test_source]
    return digest([[source, signature_of(source)] for source in sources if source])


def _when_changed(
    context: dg.SensorEvaluationContext, now: str, what: str, tags: Mapping[str, str] | None = None
) -> dg.RunRequest | dg.SkipReason:
    before = context.cursor
    context.update_cursor(now)
    if before is None:
        return dg.SkipReason(f"remembered {what} as it is now")
    return dg.SkipReason(f"{what} has not changed") if before == now else dg.RunRequest(tags=tags)
