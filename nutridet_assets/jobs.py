"""Jobs: named selections of the graph.

Belongs here: what is materialised together. Does not belong here: when (`schedules`, `sensors`).
"""

from __future__ import annotations

import dagster as dg

from nutridet_assets.partitions import collection_parts, every_experiment, experiments

pipeline = dg.define_asset_job(
    "pipeline",
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups("detection"),
    description="Everything, from photos to a registered champion that was scored once more.",
    partitions_def=experiments,
    tags=every_experiment(),
)
train_experiment = dg.define_asset_job(
    "train_experiment",
    selection=dg.AssetSelection.groups("training"),
    description="Train experiments, choose their best checkpoints and score these on test.",
    partitions_def=experiments,
)
release = dg.define_asset_job(
    "release",
    selection=dg.AssetSelection.groups("comparison", "release"),
    description="Compare what is trained, then merge, quantise, measure and register the winner.",
)
reevaluate = dg.define_asset_job(
    "reevaluate",
    selection=dg.AssetSelection.assets("champion_reevaluation"),
    description="Score the champion again.",
)
reevaluate_on_new_photos = dg.define_asset_job(
    "reevaluate_on_new_photos",
    selection=dg.AssetSelection.assets("nutrition_dataset", "champion_reevaluation"),
    description="Load the photos again and score the champion on them; nothing is trained.",
)
list_collection = dg.define_asset_job(
    "list_collection",
    selection=dg.AssetSelection.assets("collection_listing"),
    description="Look for new photos in the collection, NUTRIDET_COLLECTION.",
)
detect = dg.define_asset_job(
    "detect",
    selection=dg.AssetSelection.assets("detections"),
    description="Find the tables in parts of the collection.",
    partitions_def=collection_parts,
)
