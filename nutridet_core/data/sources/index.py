"""Reading index files: fields with good error messages, and paths that stay inside their folder.

Belongs here: what the file sources share. Does not belong here: any one file format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from nutridet_core.data.examples import SPLITS, Split
from nutridet_core.errors import DataError


def to_folder(text: str) -> Path:
    """The path in a source string.

    Raises:
        DataError: when nothing lies there.
    """
    try:
        path = Path(text).expanduser().absolute()
        there = path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"is no path ({error})", where=text[:200], field="source", remedy="Check the path.") from error
    if not there:
        raise DataError("does not exist", where=path, field="source", remedy="Check the path.")
    return path


def get_field(row: object, name: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """`row[name]`, of the right type.

    Raises:
        DataError: naming file and field when it is missing or of another type.
    """
    expected = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
    if not isinstance(row, Mapping):
        raise DataError("is no JSON object", where=where, remedy="Write one object here.")
    if name not in row:
        raise DataError("field is missing", where=where, field=name, remedy=f"Add it, as {expected}.")
    value = row[name]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise DataError(f"is {value!r}", where=where, field=name, remedy=f"Write it as {expected}.")
    return value


def get_split(row: Mapping[str, Any], where: str) -> Split | None:
    """The optional field `split`."""
    value = row.get("split")
    if value is None:
        return None
    if value not in SPLITS:
        raise DataError(f"is {value!r}", where=where, field="split", remedy=f"Use one of {', '.join(SPLITS)}.")
    return cast("Split", value)


def get_barcode(row: Mapping[str, Any], fallback: str) -> str:
    """The optional field `barcode`; `fallback` where the product is unknown."""
    value = row.get("barcode")
    return fallback if value in (None, "") else str(value)


def path_inside(folder: Path, file_name: str, where: str) -> Path:
    """`folder / file_name`, symbolic links followed.

    Raises:
        DataError: when that leaves the folder.
    """
    try:
        root = folder.resolve()
        path = (root / file_name).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"is no path ({error})", where=where, field="file_name", remedy="Name a file.") from error
    if not path.is_relative_to(root):
        raise DataError(
            f"{file_name!r} leaves the folder {root}: it is {path}", where=where, field="file_name",
            remedy="Keep photos inside the folder of their index; symbolic links out of it are not followed.",
        )  # fmt: skip
    return path


def to_numbers(values: object) -> tuple[float, ...]:
    """A box as it stands in an index; what is no number becomes NaN and is rejected with its photo."""
    if not isinstance(values, list | tuple):
        return ()
    return tuple(_to_number(value) for value in values)


def _to_number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("nan")
    try:
        return float(value)
    except OverflowError:  # JSON integers have no bound
        return float("inf")
