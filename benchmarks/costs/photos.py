"""Photos to measure with: drawn ones in image folders, and very many small ones.

Belongs here: writing sources. Does not belong here: preparing datasets from them.

The many are no fit for judging a model: drawings of 160 x 120 px, each saved again and again with a patch of noise of
its own, since drawing 100,000 real ones would take an hour of two cores.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nutridet_core.boxes import Box
from nutridet_core.data.examples import Split
from nutridet_core.data.sources import open_source

POOL = 1000
_SEED = 1717
_SMALL, _PATCH = (160, 120), 8
_DRAWINGS = 100


@dataclass(frozen=True)
class Drawn:
    """A drawn photo on disk."""

    file: Path
    size: tuple[int, int]
    boxes: tuple[tuple[float, ...], ...]
    """Corners in 0..1."""

    @property
    def row(self) -> dict[str, object]:
        """Of an image folder's index."""
        boxes = [Box(*box).to_px(*self.size) for box in self.boxes]
        return {"file_name": self.file.name, "boxes": boxes}


def draw_pool(folder: Path, count: int = POOL) -> list[Drawn]:
    """Drawn photos, those that are there already included."""
    index = folder / "pool.json"
    if not index.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for candidate in open_source(f"generated:{count}:{_SEED}"):
            assert isinstance(candidate.image, bytes)
            (folder / f"{candidate.id}.jpg").write_bytes(candidate.image)
            rows.append([f"{candidate.id}.jpg", candidate.size, candidate.boxes])
        index.write_text(json.dumps(rows))
    return [
        Drawn(folder / name, tuple(size), tuple(tuple(box) for box in boxes))
        for name, size, boxes in json.loads(index.read_text())
    ]


def with_tables(pool: Sequence[Drawn], tables: int) -> list[Drawn]:
    """Those with exactly so many."""
    return [photo for photo in pool if len(photo.boxes) == tables]


def write_source(folder: Path, splits: Mapping[Split | None, Sequence[Drawn]]) -> str:
    """An image folder that demands these splits, or none; the source string."""
    folder.mkdir(parents=True)
    lines = []
    for split, photos in splits.items():
        for photo in photos:
            os.link(photo.file, folder / photo.file.name)
            lines.append(json.dumps(photo.row | {"split": split}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return f"imagefolder:{folder}"


def write_many(folder: Path, count: int, pool: Sequence[Drawn]) -> None:
    """`count` small photos, no two with the same pixels."""
    small = [Image.open(photo.file).convert("RGB").resize(_SMALL) for photo in pool[:_DRAWINGS]]
    for number in range(count):
        target = folder / _name(number)
        if number % 1000 == 0:
            target.parent.mkdir(parents=True, exist_ok=True)
        image = small[number % len(small)].copy()
        noise = np.random.default_rng(number).integers(0, 256, (_PATCH, _PATCH, 3), dtype=np.uint8)
        image.paste(Image.fromarray(noise), (0, 0))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=85)
        target.write_bytes(stream.getvalue())


def link_many(many: Path, folder: Path, count: int) -> str:
    """An image folder of the first `count` of them; the source string."""
    box = [[_SMALL[0] // 4, _SMALL[1] // 4, 3 * _SMALL[0] // 4, 3 * _SMALL[1] // 4]]
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w") as index:
        for name in map(_name, range(count)):
            (folder / name).parent.mkdir(exist_ok=True)
            os.link(many / name, folder / name)
            index.write(json.dumps({"file_name": name, "boxes": box}) + "\n")
    return f"imagefolder:{folder}"


def _name(number: int) -> str:
    return f"{number // 1000:03}/{number:06}.jpg"
