"""COCO folders: `annotations.json` beside the photos.

Belongs here: reading COCO detection JSON. Each image needs `id` and `file_name` (relative to the
JSON's folder); `width`, `height`, `barcode` and `split` are optional. Boxes are `[x, y, w, h]` in
pixels of the upright photo. An image without annotations is a negative. Annotations count as a
nutrition table when "nutrition" is in their category's name.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nutridet_core.data.examples import Candidate
from nutridet_core.data.sources.index import get_barcode, get_field, get_split, path_inside, to_numbers
from nutridet_core.errors import DataError

INDEX = "annotations.json"
_WANTED = "nutrition"


def read_coco(path: Path) -> Iterator[Candidate]:
    """Candidates of a COCO folder, or of one JSON file in it, in the order of `images`.

    Raises:
        DataError: at once, when the JSON is broken, lacks a field, or a file name leaves the folder.
    """
    index = path / INDEX if path.is_dir() else path
    content = _read_json(index)
    names = _read_categories(content, index)
    annotations = _read_annotations(content, names, index)
    images = get_field(content, "images", list, str(index))
    candidates = [
        _to_candidate(row, index, f"{index} images[{number}]", names, annotations) for number, row in enumerate(images)
    ]
    _check_references({row["id"] for row in images}, len(images), annotations, index)
    return iter(candidates)


def _read_json(index: Path) -> Any:
    try:
        return json.loads(index.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", where=index, field=INDEX, remedy="A COCO folder holds this file."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is no JSON ({error})", where=index, field="JSON", remedy="Export it again.") from error


def _read_categories(content: object, index: Path) -> dict[int, str]:
    """Name of every category by its id."""
    names: dict[int, str] = {}
    for number, row in enumerate(get_field(content, "categories", list, str(index))):
        where = f"{index} categories[{number}]"
        names[get_field(row, "id", int, where)] = get_field(row, "name", str, where)
    if not any(_is_wanted(name) for name in names.values()):
        raise DataError(
            f"no category with {_WANTED!r} in its name, only {sorted(names.values())}", where=index, field="categories",
            remedy="Rename the category whose boxes should be found.",
        )  # fmt: skip
    return names


def _read_annotations(
    content: object, names: Mapping[int, str], index: Path
) -> dict[int | str, list[tuple[int, tuple[float, ...]]]]:
    """`(category, box)` pairs by image id."""
    found: dict[int | str, list[tuple[int, tuple[float, ...]]]] = defaultdict(list)
    for number, row in enumerate(get_field(content, "annotations", list, str(index))):
        where = f"{index} annotations[{number}]"
        category = get_field(row, "category_id", int, where)
        if category not in names:
            raise DataError(
                f"is {category}, which no category has", where=where, field="category_id", remedy="Add the category."
            )
        box = to_numbers(get_field(row, "bbox", object, where))
        found[get_field(row, "image_id", (int, str), where)].append((category, box))
    return found


def _to_candidate(
    row: object,
    index: Path,
    where: str,
    names: Mapping[int, str],
    annotations: Mapping[int | str, list[tuple[int, tuple[float, ...]]]],
) -> Candidate:
    file_name = get_field(row, "file_name", str, where)
    found = annotations.get(get_field(row, "id", (int, str), where), [])
    assert isinstance(row, Mapping)
    return Candidate(
        id=file_name,
        image=path_inside(index.parent, file_name, where),
        boxes=tuple(box for category, box in found if _is_wanted(names[category])),
        box_format="xywh_px",
        barcode=get_barcode(row, file_name),
        split=get_split(row, where),
        where=f"{where} {file_name}",
        source="coco",
        size=_claimed_size(row, where),
        categories=tuple(names[category] for category, _ in found),
    )


def _claimed_size(row: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    if "width" not in row and "height" not in row:
        return None
    return get_field(row, "width", int, where), get_field(row, "height", int, where)


def _check_references(ids: set[int | str], count: int, annotations: Mapping[int | str, object], index: Path) -> None:
    if len(ids) != count:
        raise DataError(
            "two images share an id", where=index, field="images[].id", remedy="Give every image its own id."
        )
    unknown = sorted(str(image_id) for image_id in annotations if image_id not in ids)
    if unknown:
        raise DataError(
            f"annotations name images that are not listed: {', '.join(unknown[:5])}",
            where=index, field="annotations[].image_id", remedy="List the images or drop the annotations.",
        )  # fmt: skip


def _is_wanted(name: str) -> bool:
    return _WANTED in name.lower()
