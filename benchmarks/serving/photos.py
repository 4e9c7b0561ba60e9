"""Photos to ask about: drawn ones as they are, and large ones of which no two are alike.

    python -m benchmarks.serving.photos FOLDER [--count 240]

Belongs here: files and bytes. Does not belong here: requests (`load`). The photos are drawn where the
generator's fonts are installed; the GPU machine only reads the folder.
"""

from __future__ import annotations

import argparse
import io
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image, ImageChops

from nutridet_core.answers import LABEL
from nutridet_core.boxes import Box

SEED = 2718
"""Neither tuned on nor scored elsewhere."""
SIDE = 1344
"""Pixels; the contract makes 672 of them, which are 576 image tokens."""


@dataclass(frozen=True)
class DrawnPhoto:
    """A JPEG and where its tables are."""

    content: bytes
    tables: tuple[Box, ...]


def main() -> None:
    """Draw the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=240)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        tables = list(pool.map(partial(_draw, given.folder), range(given.count), chunksize=8))
    (given.folder / "tables.json").write_text(json.dumps(tables))


def _draw(folder: Path, index: int) -> list[tuple[float, float, float, float]]:
    from nutridet_core.data.generated import draw_product_photo

    drawing = draw_product_photo(SEED, index)
    drawing.image.save(_path(folder, index), "JPEG", quality=85)
    return [box.as_tuple() for label, box in drawing.objects if label == LABEL]


def read(folder: Path) -> list[DrawnPhoto]:
    """The photos of a folder."""
    tables = json.loads((folder / "tables.json").read_text())
    return [
        DrawnPhoto(_path(folder, index).read_bytes(), tuple(Box(*box) for box in boxes))
        for index, boxes in enumerate(tables)
    ]


def enlarge(photos: list[DrawnPhoto], count: int) -> list[bytes]:
    """JPEGs of 1344 x 1344 px, made from the photos in turn; a repeated one is shifted by some pixels."""
    work = [(photos[index % len(photos)].content, 7 * (index // len(photos))) for index in range(count)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        return list(pool.map(_large, work, chunksize=16))


def _large(work: tuple[bytes, int]) -> bytes:
    content, shift = work
    image = Image.open(io.BytesIO(content)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return encode(ImageChops.offset(image, shift, 3 * shift), "JPEG", quality=90)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:04d}.jpg"


if __name__ == "__main__":
    main()
