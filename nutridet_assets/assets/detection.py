"""Detection over a collection of photos that nobody has labelled: `NUTRIDET_COLLECTION`.

One partition per part of the collection, 100,000 photos. Parts are added by listing and never change, so that photos
which come later are new partitions, and what was answered stays answered.
"""

from pathlib import Path

import dagster as dg

from nutridet_assets import metadata
from nutridet_assets.assets.declare import asset
from nutridet_assets.partitions import collection_parts
from nutridet_assets.resources import Results, Worker, artifacts
from nutridet_core.artifacts.layout import collection_name
from nutridet_core.artifacts.store import digest
from nutridet_core.collection.listing import LISTING, read_parts
from nutridet_core.settings import Settings


@asset("detection", kinds={"parquet", "s3"})
def collection_listing(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """The photos of the collection, in parts; a look at it adds partitions of `detections` for those that are new."""
    facts = yield from worker.run(context, "list_collection")
    address = Settings().collection or ""
    parts = read_parts(artifacts().collection(address) / LISTING)
    names = [f"{collection_name(address)}.{part.name}" for part in parts]
    context.instance.add_dynamic_partitions(str(collection_parts.name), names)
    yield dg.MaterializeResult(
        metadata={
            "collection": address,
            **metadata.numbers(facts),
            "photos": sum(part.photos for part in parts),
            "parts": metadata.rows(("part", "photos"), [(part.name, str(part.photos)) for part in parts]),
        },
        data_version=dg.DataVersion(digest([part.digest for part in parts])),
    )


@asset("detection", deps=["collection_listing"], partitions=collection_parts, kinds={"pytorch", "ray", "parquet"})
def detections(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """The tables found in each photo, by the champion: a parquet file per thousand photos; what is there is kept."""
    names = context.partition_keys
    facts = yield from worker.run(context, "detect_parts", names)
    folders = [Path(facts["folder"]) / name.rpartition(".")[2] / "summary" for name in names]
    for name, folder in zip(names, folders, strict=True):
        found = metadata.facts(folder)
        counts = found.pop("counts")
        shown = {**metadata.numbers(counts), **metadata.numbers(found), **metadata.picture(folder / "sheet.jpg")}
        context.add_asset_metadata({**shown, **metadata.artifact(folder)}, partition_key=name)
    yield dg.MaterializeResult(data_version=metadata.version(*folders))
