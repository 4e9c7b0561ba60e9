"""Image folders: `metadata.jsonl` beside the photos, one JSON object per line.

Belongs here: reading that file. Its one format:

    {"file_name": "a.jpg", "boxes": [[x0, y0, x1, y1]], "barcode": "400…", "split": "train"}

`boxes` are corners in pixels of the upright photo, empty for a negative. `barcode` and `split`
(train, selection or test) are optional; a photo without a barcode is a product of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from nutridet_core.data.examples import Candidate
from nutridet_core.data.sources.index import get_barcode, get_field, get_split, path_inside, to_numbers
from nutridet_core.errors import DataError

INDEX = "metadata.jsonl"


def read_imagefolder(folder: Path) -> Iterator[Candidate]:
    """Candidates of a folder, in the order of its index.

    Raises:
        DataError: at once when there is no index; while reading, naming the line, when a line is
            broken, lacks a field, or names a file outside the folder.
    """
    index = folder / INDEX
    if not index.is_file():
        raise DataError("does not exist", where=index, field=INDEX, remedy="Write one JSON object per photo into it.")
    return _read_lines(folder, index)


def _read_lines(folder: Path, index: Path) -> Iterator[Candidate]:
    with index.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield _to_candidate(folder, line, f"{index} line {number}")


def _to_candidate(folder: Path, line: bytes, where: str) -> Candidate:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"is no JSON ({error})", where=where, field="JSON", remedy="Write one object per line."
        ) from error
    file_name = get_field(row, "file_name", str, where)
    boxes = get_field(row, "boxes", list, where)
    return Candidate(
        id=file_name,
        image=path_inside(folder, file_name, where),
        boxes=tuple(to_numbers(box) for box in boxes),
        box_format="xyxy_px",
        barcode=get_barcode(row, file_name),
        split=get_split(row, where),
        where=f"{where} {file_name}",
        source="imagefolder",
        categories=("nutrition-table",) * len(boxes),
    )
