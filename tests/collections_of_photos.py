"""Collections for tests: folders and parquet files of tiny photos, and what lies in an output."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from nutridet_core.collection.detection import Request
from nutridet_core.collection.shards import read_rows
from nutridet_core.pipeline.context import Context
from nutridet_core.settings import Settings


def jpeg(number: int, size: tuple[int, int] = (40, 30)) -> bytes:
    """A photo whose bytes are its own."""
    stream = io.BytesIO()
    Image.new("RGB", size, (number % 256, number // 256 % 256, 90)).save(stream, "JPEG", comment=str(number))
    return stream.getvalue()


def write_photos(folder: Path, numbers: Sequence[int]) -> Path:
    """Photos `NNNNN.jpg`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number:05}.jpg").write_bytes(jpeg(number))
    return folder


def write_table(file: Path, values: Sequence[Any], column: str = "image", rows_in_group: int = 7) -> Path:
    """A parquet file of several row groups."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({column: list(values)}), file, row_group_size=rows_in_group)
    return file


def context(home: Path, lines: list[str] | None = None) -> Context:
    """With an empty home; what it logs goes into `lines`."""
    return Context(Settings(home=home), log=print if lines is None else lines.append)


def request(collection: object, out: Path, **changes: Any) -> Request:
    """A request that needs no model and no Ray, unless changed."""
    return replace(Request(str(collection), out, engine="fake", shard=10, local=True), **changes)


def rows(out: Path) -> list[dict[str, Any]]:
    """All rows of an output."""
    return list(read_rows(out / "detections"))


def places(out: Path) -> Counter[tuple[str, int | None]]:
    """How often each photo has a row, by the name of its file."""
    return Counter((Path(row["uri"]).name, row["row"]) for row in rows(out))
