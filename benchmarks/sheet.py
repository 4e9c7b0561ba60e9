"""A sheet of drawn photos with their tables in green, for comparison with real ones.

    python -m benchmarks.sheet [--real FOLDER] [--out FOLDER]

Writes `drawn_photos.jpg` and, with a COCO folder of labelled photos, `real_photos.jpg` in the same manner.
The second is for looking at, side by side: real photos are no part of the project.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw

from benchmarks.tuned import Labelled, draw, read_real

COLUMNS, ROWS, SIDE = 8, 5, 200
_SEED = 4242
_GREEN = (0, 220, 0)


def sheet(photos: Iterable[Labelled]) -> Image.Image:
    """Thumbnails in rows."""
    whole = Image.new("RGB", (COLUMNS * SIDE, ROWS * SIDE))
    for number, photo in enumerate(islice(photos, COLUMNS * ROWS)):
        image = photo.image.copy()
        for table in photo.tables:
            ImageDraw.Draw(image).rectangle(table.to_px(*image.size), outline=_GREEN, width=max(2, image.width // 120))
        image.thumbnail((SIDE - 4, SIDE - 4))
        whole.paste(image, (number % COLUMNS * SIDE, number // COLUMNS * SIDE))
    return whole


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, help="COCO folder of real photos")
    parser.add_argument("--out", type=Path, default=Path("build"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    sheet(draw(_SEED, COLUMNS * ROWS)).save(given.out / "drawn_photos.jpg", quality=85)
    if given.real:
        real = read_real(given.real)
        mixed = [photo for photo in real if photo.tables][:16] + [photo for photo in real if not photo.tables]
        sheet(mixed).save(given.out / "real_photos.jpg", quality=85)


if __name__ == "__main__":
    main()
