"""Partitions: one per experiment of `Settings().all_experiments`, and one per part of the collection.

Belongs here: the partitions, and which of them a run covers. Does not belong here: what an
experiment is (`nutridet_core.experiments`).
"""

from __future__ import annotations

import warnings

import dagster as dg

from nutridet_core.artifacts.layout import Layout
from nutridet_core.artifacts.store import MANIFEST
from nutridet_core.settings import Settings

warnings.filterwarnings("ignore", category=dg.BetaWarning, message=".*backfill_policy.*")
warnings.filterwarnings("ignore", category=dg.PreviewWarning, message=".*expected_writer_count.*")  # Dagster's own use

experiments = dg.StaticPartitionsDefinition(list(Settings().all_experiments))
collection_parts = dg.DynamicPartitionsDefinition(name="collection_parts")
"""Filled by the asset `collection_listing`, `COLLECTION.PART`."""
one_run = dg.BackfillPolicy.single_run()
"""One worker process handles all partitions of a run: importing torch costs 10 to 20 s a process."""


def every_experiment() -> dict[str, str]:
    """Tags of a run that covers all partitions; unpartitioned assets in the same run ignore them."""
    names = experiments.get_partition_keys()
    return {"dagster/asset_partition_range_start": names[0], "dagster/asset_partition_range_end": names[-1]}


def finished_experiments(layout: Layout) -> list[str]:
    """Experiments that were scored on test; all when there is none, so that the core says what is missing."""
    names = list(Settings().all_experiments)
    return [name for name in names if (layout.scores(name, "test") / MANIFEST).is_file()] or names
