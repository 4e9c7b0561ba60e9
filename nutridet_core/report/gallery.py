"""Which photos are worth showing, and their tiles: worst, median and best of one subject.

Belongs here: the choice and the captions. Does not belong here: drawing boxes (`overlay`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nutridet_core.evaluation.scores import Sample
from nutridet_core.overlay import add_strip, contact_sheet, mark_boxes
from nutridet_core.report.outcomes import Outcome, outcome

PER_GROUP = 6
_TILE_SIDE = 420  # px: two beside each other on a phone's screen are still sharp


@dataclass(frozen=True)
class Tile:
    """One photo with its boxes, and what to say about it."""

    sample: Sample
    image: Image.Image
    caption: str


@dataclass(frozen=True)
class Group:
    """Photos that are shown together."""

    title: str
    tiles: tuple[Tile, ...]


def make_gallery(samples: Sequence[Sample], open_photo: Callable[[str], Image.Image]) -> list[Group]:
    """Groups that share no photo, empty ones left out. Opens at most `4 * PER_GROUP` photos.

    Args:
        open_photo: gives the EXIF-transposed photo of a sample's id.
    """
    return [
        Group(title, tuple(_tile(sample, open_photo(sample.id)) for sample in chosen))
        for title, chosen in choose(samples).items()
        if chosen
    ]


def gallery_sheet(gallery: Sequence[Group]) -> Image.Image:
    """All tiles on one sheet with captions and legends, a new row for each group."""
    return contact_sheet(
        [contact_sheet([_with_strip(tile) for tile in group.tiles], PER_GROUP) for group in gallery], 1
    )


def choose(samples: Sequence[Sample], size: int = PER_GROUP) -> dict[str, list[Sample]]:
    """At most `size` samples a group: by mean IoU of the photos with a table, and boxes where there is none."""
    ranked = sorted((sample for sample in samples if sample.truth), key=lambda sample: (photo_iou(sample), sample.id))
    each = min(size, max(1, len(ranked) // 3))
    end = max(each, len(ranked) - each)
    middle = ranked[each:end]
    start = max(0, (len(middle) - each) // 2)
    alarms = [sample for sample in samples if outcome(sample) is Outcome.FALSE_ALARM]
    return {
        "Worst": ranked[:each],
        "Median": middle[start : start + each],
        "Best": ranked[end:][::-1],
        "Boxes where there is no table": sorted(alarms, key=lambda sample: (-sample.confidence, sample.id))[:size],
    }


def photo_iou(sample: Sample) -> float:
    """Mean over the tables of a photo; NaN without one."""
    return float(np.mean(sample.ious)) if sample.truth else float("nan")


def _tile(sample: Sample, photo: Image.Image) -> Tile:
    image = mark_boxes(photo, sample.truth, sample.predicted, max_side=_TILE_SIDE)
    return Tile(sample, image, _caption(sample))


def _caption(sample: Sample) -> str:
    if not sample.truth:
        return "no table here"
    result = outcome(sample)
    return f"IoU {photo_iou(sample):.2f}" + ("" if result is Outcome.RIGHT else f", {result.value}")


def _with_strip(tile: Tile) -> Image.Image:
    return add_strip(tile.image, tile.sample.truth, tile.sample.predicted, caption=tile.caption)
