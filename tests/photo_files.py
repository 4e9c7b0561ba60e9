"""Photos and indexes on disk, for tests: the files that users of each source would have."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from nutridet_core.data.examples import SPLITS, Split

WIDTH, HEIGHT = 128, 64
BOX = (16, 8, 96, 24)
"""Corner pixels, x first: wide, high up and left, so that no mix-up of axes gives the same box."""
UNIT = (0.125, 0.125, 0.75, 0.375)
"""The same in 0..1, exact in float32."""


@dataclass(frozen=True)
class Row:
    """A photo as an index lists it."""

    name: str
    image: bytes
    boxes: tuple[tuple[float, ...], ...] = (BOX,)
    barcode: str | None = None
    split: Split | None = None


def picture(seed: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """A dark picture of its own for every seed, white inside `BOX`."""
    pixels = np.random.default_rng(seed).integers(0, 100, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.paste((255, 255, 255), BOX)
    return image


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A header and no pixels: whoever decodes it finds it cut off, whoever reads its size does not have to."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def rows(count: int = 12) -> list[Row]:
    """Photos with one box each, every fourth a negative, and every split demanded."""
    return [
        Row(
            name=f"{number:03d}.png",
            image=encode(picture(number)),
            boxes=() if number % 4 == 3 else (BOX,),
            barcode=f"40{number:06d}",
            split=SPLITS[number % 3],
        )
        for number in range(count)
    ]


def undemanding(listed: Sequence[Row]) -> list[Row]:
    """The same photos, no split demanded."""
    return [replace(row, split=None) for row in listed]


def write_imagefolder(folder: Path, listed: Sequence[Row]) -> str:
    """The source string."""
    _write_images(folder, listed)
    lines = [
        json.dumps({"file_name": row.name, "boxes": row.boxes, "barcode": row.barcode, "split": row.split})
        for row in listed
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return f"imagefolder:{folder}"


def coco_index(listed: Sequence[Row]) -> dict[str, Any]:
    """With a second category, whose boxes are not wanted."""
    annotations = [
        {"image_id": number, "category_id": 1, "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
        for number, row in enumerate(listed)
        for box in row.boxes
    ]
    return {
        "categories": [{"id": 1, "name": "nutrition-table"}, {"id": 2, "name": "barcode"}],
        "images": [
            {"id": number, "file_name": row.name, "width": WIDTH, "height": HEIGHT}
            | {"barcode": row.barcode, "split": row.split}
            for number, row in enumerate(listed)
        ],
        "annotations": [*annotations, {"image_id": 0, "category_id": 2, "bbox": [1, 1, 9, 9]}],
    }


def write_coco(folder: Path, listed: Sequence[Row]) -> str:
    """The source string."""
    _write_images(folder, listed)
    (folder / "annotations.json").write_text(json.dumps(coco_index(listed)))
    return f"coco:{folder}"


HUB_SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "width": pa.int64(),
        "height": pa.int64(),
        "meta": pa.struct({"barcode": pa.string(), "off_image_id": pa.string(), "image_url": pa.string()}),
        "objects": pa.struct(
            {
                "bbox": pa.list_(pa.list_(pa.float32())),
                "category_id": pa.list_(pa.int64()),
                "category_name": pa.list_(pa.string()),
            }
        ),
    }
)


def hub_table(listed: Sequence[Row]) -> pa.Table:
    """Boxes as the hub has them: unit, y first."""
    return pa.Table.from_pylist([_hub_row(row) for row in listed], schema=HUB_SCHEMA)


def write_hub(folder: Path, listed: Sequence[Row]) -> str:
    """The source string. The hub demands the split by file name, and only that of the test."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    test = [row for row in listed if row.split == "test"]
    training = [row for row in listed if row.split != "test"]
    for name, part in (("val", test), ("train", training)):
        pq.write_table(hub_table(part), folder / "data" / f"{name}-00000-of-00001.parquet")
    return f"hub:{folder}"


def _hub_row(row: Row) -> dict[str, Any]:
    return {
        "image_id": row.name,
        "image": {"bytes": row.image, "path": f"{row.name}.jpg"},
        "width": WIDTH,
        "height": HEIGHT,
        "meta": {"barcode": row.barcode, "off_image_id": "1", "image_url": "https://images.example/1.jpg"},
        "objects": {
            "bbox": [[box[1] / HEIGHT, box[0] / WIDTH, box[3] / HEIGHT, box[2] / WIDTH] for box in row.boxes],
            "category_id": [0 for _ in row.boxes],
            "category_name": ["nutrition-table-small" for _ in row.boxes],
        },
    }


def _write_images(folder: Path, listed: Sequence[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row in listed:
        (folder / row.name).write_bytes(row.image)
