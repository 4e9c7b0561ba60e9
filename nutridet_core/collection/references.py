"""References: the photos of a collection, in order, without their pixels.

Belongs here: which files are photos, which rows of a parquet file are, and how their bytes are got. Does not belong
here: decoding them (`data.photos`).

A folder may hold photos and parquet files side by side. A row of a parquet file holds the encoded photo itself, bare or
as `datasets` stores it (`{bytes, path}`), or the path of a file below the folder that the parquet file lies in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from nutridet_core.collection.files import File, Files, MissingError
from nutridet_core.data.photos import MAX_BYTES
from nutridet_core.errors import DataError

PHOTOS = (".jpg", ".jpeg", ".png", ".webp")
TABLES = (".parquet",)
WHOLE = -1
"""Row of a photo that is a file of its own."""
_ROWS_AT_ONCE = 16

Open = Callable[[], bytes]
"""Gives the encoded photo. Raises MissingError when it is not there any more in the version that was listed."""


@dataclass(frozen=True, order=True)
class Reference:
    """A photo of a collection."""

    uri: str
    row: int
    """In the parquet file, from 0; `WHOLE` for a file of its own."""
    size: int
    """Bytes of the file."""
    version: str

    @property
    def place(self) -> tuple[str, int]:
        """Where it is, whatever its version."""
        return self.uri, self.row


def list_references(
    files: Files, column: str, skipped: Counter[str], written: tuple[str, ...] = ()
) -> Iterator[Reference]:
    """All photos, ascending by place.

    Args:
        column: of parquet files.
        skipped: counts files that are neither photos nor parquet, by their suffix, and names that are no Unicode.
        written: how the addresses of this project's own files begin, which are left out.
    """
    for file in files.list():
        suffix = PurePosixPath(file.uri).suffix.lower()
        if file.uri.startswith(written):
            continue
        if not _is_unicode(file.uri):
            skipped["name is no Unicode"] += 1
        elif suffix in PHOTOS:
            yield Reference(file.uri, WHOLE, file.size, file.version)
        elif suffix in TABLES:
            yield from _rows(files, file, column)
        else:
            skipped[suffix or "no suffix"] += 1


def open_references(files: Files, references: Sequence[Reference], column: str) -> Iterator[tuple[Reference, Open]]:
    """A function per photo that reads it, in order. Rows of parquet files are read here, a few at a time."""
    for (uri, version), group in groupby(references, key=lambda reference: (reference.uri, reference.version)):
        same = list(group)
        if same[0].row == WHOLE:
            yield same[0], partial(files.read, uri, MAX_BYTES + 1, version)
        else:
            yield from _open_rows(files, same, column)


def _rows(files: Files, file: File, column: str) -> Iterator[Reference]:
    table = _table(files, file.uri, column)
    for row in range(table.metadata.num_rows):
        yield Reference(file.uri, row, file.size, file.version)


def _table(files: Files, uri: str, column: str) -> Any:
    """The file, after a look at its schema."""
    import pyarrow

    try:
        table = files.table(uri)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"is no parquet file ({error})", where=uri, field="input", remedy="Remove it.") from error
    if column not in table.schema_arrow.names:
        raise DataError(
            "has no such column", where=uri, field=column,
            remedy=f"Name one of {', '.join(table.schema_arrow.names)} (--column).",
        )  # fmt: skip
    return table


def _open_rows(files: Files, references: Sequence[Reference], column: str) -> Iterator[tuple[Reference, Open]]:
    """Rows of one version of a file. What was read counts if the file is the same afterwards; the rest is missing."""
    import pyarrow

    wanted = {reference.row: reference for reference in references}
    at = references[0]
    try:
        for start, values in _batches(_table(files, at.uri, column), column, min(wanted), max(wanted)):
            if not _is_current(files, at):
                break
            for row, value in enumerate(values, start):
                if row in wanted:
                    yield wanted.pop(row), _opener(files, at.uri, value.as_py())
    except (DataError, OSError, pyarrow.ArrowException):
        if _is_current(files, at):
            raise
    for reference in wanted.values():
        yield reference, _missing


def _batches(table: Any, column: str, first: int, last: int) -> Iterator[tuple[int, Any]]:
    """(first row, values) of batches that hold some of the rows `first` to `last`."""
    start = 0
    for number in range(table.num_row_groups):
        row, start = start, start + table.metadata.row_group(number).num_rows
        if start > first and row <= last:
            for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[number], columns=[column]):
                if row + len(batch) > first and row <= last:
                    yield row, batch.column(0)
                row += len(batch)


def _is_current(files: Files, reference: Reference) -> bool:
    try:
        return files.version(reference.uri) == reference.version
    except MissingError:
        return False


def _missing() -> bytes:
    raise MissingError("is not in its parquet file any more")


def _opener(files: Files, table_uri: str, value: Any) -> Open:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return lambda: value
    if isinstance(value, str):
        return lambda: files.read(_beside(table_uri, value), MAX_BYTES + 1)
    return lambda: b""


def _beside(table_uri: str, path: str) -> str:
    """A file below the folder of the parquet file, which may come from strangers."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "://" in path:
        raise MissingError("leaves the folder of its parquet file")
    return f"{table_uri.rpartition('/')[0]}/{path}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
