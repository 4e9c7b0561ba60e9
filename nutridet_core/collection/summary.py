"""The summary of a part: what came of its photos, how fast, and a few of them to look at.

Belongs here: adding up shards, and the sheet. Does not belong here: drawing (`overlay`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from nutridet_core.artifacts.store import Manifest, reusable, seal, writing
from nutridet_core.boxes import Box
from nutridet_core.collection.files import MissingError
from nutridet_core.collection.listing import Part
from nutridet_core.collection.references import WHOLE, Reference, open_references
from nutridet_core.collection.replica import Job
from nutridet_core.collection.shards import read_rows, total
from nutridet_core.data.photos import load_photo
from nutridet_core.errors import ArtifactError
from nutridet_core.overlay import contact_sheet, draw_boxes

KIND = "detections_summary"
FOLDER, SHEET = "summary", "sheet.jpg"
_SHOWN, _COLUMNS, _TILE = 12, 4, 320  # px


def summarise(job: Job, part: Part) -> Manifest:
    """Add up a part that is answered in full.

    Raises:
        ArtifactError: when a shard is missing.
    """
    shards = [job.target.kept(part, number) for number in range(len(part.shards))]
    whole = [manifest for manifest in shards if manifest is not None]
    folder = job.target.folder / part.name / FOLDER
    if len(whole) < len(shards):
        raise ArtifactError(
            f"{len(shards) - len(whole)} shards are missing", where=folder.parent, remedy="Run it again."
        )
    config = {"shards": [manifest.digest for manifest in whole]}
    if kept := reusable(folder, KIND, config):
        return kept
    with writing(folder) as draft:
        tiles = list(_tiles(job, part))
        if tiles:
            contact_sheet(tiles, _COLUMNS).save(draft / SHEET, quality=80)
        manifest = Manifest(
            kind=KIND, name=part.name, contract=job.target.contract, data_fingerprint=part.digest,
            config=config, facts=_facts(whole),
        )  # fmt: skip
        return seal(draft, manifest)


def _facts(shards: list[Manifest]) -> dict[str, Any]:
    counts = total(shards)
    seconds = sum(manifest.facts["seconds"] for manifest in shards)
    return {
        "counts": dict(counts),
        "shards": len(shards),
        "worker_seconds": round(seconds, 1),
        "photos_per_worker_hour": round(counts["photos"] / seconds * 3600, 1) if seconds else None,
    }


def _tiles(job: Job, part: Part) -> Iterator[Image.Image]:
    """Photos from all over the part, with what was found in each."""
    wanted = {number * part.photos // _SHOWN for number in range(_SHOWN)}
    for number, row in enumerate(read_rows(job.target.folder / part.name)):
        if number in wanted and not row["problem"]:
            photo = _open(job, row)
            if photo is not None:
                boxes = [Box(**box) for box in row["boxes_unit"]]
                yield draw_boxes(photo, [], boxes, caption=_caption(row), max_side=_TILE)


def _open(job: Job, row: Mapping[str, Any]) -> Image.Image | None:
    """The photo of a row, unless it has gone since."""
    at = WHOLE if row["row"] is None else row["row"]
    ((_, read),) = open_references(job.files, [Reference(row["uri"], at, 0, row["version"])], job.column)
    try:
        return load_photo(read(), where=row["uri"])
    except MissingError:
        return None


def _caption(row: Mapping[str, Any]) -> str:
    if row["failed"]:
        return "unreadable answer"
    return "" if row["score"] is None else f"score {row['score']:.2f}"
