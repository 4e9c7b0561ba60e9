"""Open Food Facts' `nutrition-table-detection`: parquet, from the Hugging Face hub or from disk.

Belongs here: that schema. Boxes are unit `(y_min, x_min, y_max, x_max)`; all categories
(nutrition-table, -small, -small-energy, -text) become the one class and are counted. The hub's
`val` is the test split here; its `training.train` is divided into training and selection.

The photos are CC BY-SA 3.0, the annotations ODbL. No revision is built in: the repository's commits
could not be seen where this was written, so the user names one (`hub@REVISION`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nutridet_core.artifacts.hub import Remote, fetch, is_commit
from nutridet_core.data.examples import Candidate, Split
from nutridet_core.data.sources.index import get_barcode, to_numbers
from nutridet_core.errors import ArtifactError, DataError, SettingsError

REPO = "openfoodfacts/nutrition-table-detection"
_COLUMNS = ("image_id", "image", "width", "height", "meta", "objects")
_FIELDS = ("image.bytes", "meta.barcode", "objects.bbox", "objects.category_name")
_BATCH_ROWS = 16
_REMEDY = f"The schema is that of {REPO}: {', '.join(_COLUMNS)}."


def read_hub(revision: str) -> Iterator[Candidate]:
    """Candidates of the hub's dataset at a commit, downloaded into the hub's own cache (`HF_HOME`).

    Raises:
        SettingsError: when `revision` is not a full commit hash.
        DataError: when the download fails.
    """
    if not is_commit(revision):
        problem = f"{revision!r} is not a commit" if revision else "the source 'hub' names no revision"
        raise SettingsError(
            f"{problem}, so two runs could see different data", field="source",
            remedy=f"Use hub@REVISION with the full 40-digit commit hash from "
            f"https://huggingface.co/datasets/{REPO}/commits/main, or hub:/path to local parquet files.",
        )  # fmt: skip
    return read_parquet(_download(remote(revision)))


def remote(revision: str) -> Remote:
    """The hub's dataset at a commit."""
    return Remote(REPO, revision, kind="dataset", patterns=("*.parquet",))


def read_parquet(path: Path) -> Iterator[Candidate]:
    """Candidates of one parquet file or of all below a folder.

    Files that are named `val*` or `test*`, or lie in a folder of that name, are the test split.

    Raises:
        DataError: at once when there is no parquet file or one lacks a column.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError("holds no parquet file", where=path, field="source", remedy=_REMEDY)
    for file in files:
        _check_schema(file)
    return (candidate for file in files for candidate in _read_file(file, _split_of(file, path)))


def _download(dataset: Remote) -> Path:
    try:
        return fetch(dataset)
    except ArtifactError as error:
        raise DataError(
            error.problem, where=dataset.name, field="revision",
            remedy=f"{error.remedy} Or use hub:/path with parquet files fetched elsewhere.",
        ) from error  # fmt: skip


def _check_schema(file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"is no readable parquet file ({error})", where=file, field="footer", remedy="Fetch it again."
        ) from error
    structs = [column for column in schema if pa.types.is_struct(column.type)]
    present = {*schema.names, *(f"{column.name}.{field.name}" for column in structs for field in column.type)}
    missing = [name for name in (*_COLUMNS, *_FIELDS) if name not in present]
    if missing:
        raise DataError("column is missing", where=file, field=missing[0], remedy=_REMEDY)


def _read_file(file: Path, split: Split | None) -> Iterator[Candidate]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=list(_COLUMNS)):
                for row in batch.to_pylist():
                    yield _to_candidate(row, split, f"{file} row {number}")
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"is damaged at row {number} or after ({error})", where=file, field="row", remedy="Fetch it again."
        ) from error


def _split_of(file: Path, root: Path) -> Split | None:
    """Test for `data/val-00000-of-00001.parquet`, and for `val/0000.parquet` as in the hub's converted branch."""
    folders = file.relative_to(root).parts[:-1]
    held_out = file.name.startswith(("val", "test")) or not {"val", "validation", "test"}.isdisjoint(folders)
    return "test" if held_out else None


def _to_candidate(row: Mapping[str, Any], split: Split | None, where: str) -> Candidate:
    name = str(row["image_id"])
    objects = row["objects"] or {}
    return Candidate(
        id=name,
        image=(row["image"] or {}).get("bytes") or b"",  # no bytes: rejected as unreadable, and counted
        boxes=tuple(to_numbers(box) for box in objects.get("bbox") or ()),
        box_format="yxyx_unit",
        barcode=get_barcode(row["meta"] or {}, name),
        split=split,
        where=f"{where} {name}",
        source="hub",
        size=(row["width"], row["height"]) if row["width"] and row["height"] else None,
        categories=tuple(str(category) for category in objects.get("category_name") or ()),
    )
