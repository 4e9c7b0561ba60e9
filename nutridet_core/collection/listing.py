"""The listing of a collection: parts that are never changed, each the photos that were new when it was written.

Belongs here: telling new photos from known ones, and keeping their references. Does not belong here: what became of
them (`shards`).

A collection that has grown gets further parts, so what was answered before stays answered. A photo that was replaced
is a new photo. One that is gone keeps its rows. A part is one parquet file whose row groups are the shards.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from nutridet_core.artifacts.store import Manifest, read_manifest, seal, writing
from nutridet_core.collection.files import Files
from nutridet_core.collection.references import Reference, list_references
from nutridet_core.errors import ArtifactError

KIND = "collection_part"
LISTING, DETECTIONS = "listing", "detections"
"""Folders of the parts, and of what was found in them, in the output folder."""
SHARDS_IN_PART = 100
"""A part is a partition of the asset `detections`: 100,000 photos, if a shard has 1,000."""
_FILE = "references.parquet"
_DIGITS = 5


@dataclass(frozen=True)
class Part:
    """A part as its manifest describes it."""

    folder: Path
    digest: str
    photos: int
    shards: tuple[int, ...]
    """Photos in each."""

    @property
    def name(self) -> str:
        """Its number, five digits."""
        return self.folder.name


@dataclass(frozen=True)
class Listing:
    """What a look at the collection has found."""

    parts: tuple[Part, ...]
    new: int
    known: int
    gone: int
    skipped: dict[str, int]
    """Files that are no photos, by what they are."""

    @property
    def text(self) -> str:
        """In one line."""
        skipped = "".join(f", {count} skipped ({what})" for what, count in self.skipped.items())
        return f"{self.new} new photos, {self.known} known, {self.gone} gone{skipped}; {len(self.parts)} part(s)"


def update(folder: Path, files: Files, *, column: str, shard: int) -> Listing:
    """Look at the collection and add parts for what is new.

    Args:
        folder: of the parts, in the output folder. What lies in that is no part of the collection.
        shard: photos in a new shard.

    Raises:
        ArtifactError: when a part is damaged, or is of another collection.
    """
    known = read_parts(folder)
    for part in known:
        _require_same(part.folder, files, column)
    counts: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    fresh = _new(list_references(files, column, skipped, _written(folder, files)), _merged(known), counts)
    added: list[Part] = []
    while references := list(islice(fresh, shard * SHARDS_IN_PART)):
        target = folder / f"{len(known) + len(added):0{_DIGITS}}"
        added.append(_write(target, references, shard, {"collection": files.uri, "column": column}))
    return Listing((*known, *added), counts["new"], counts["known"], counts["gone"], dict(skipped))


def read_parts(folder: Path) -> list[Part]:
    """Those there are, oldest first, every file hashed.

    Raises:
        ArtifactError: when one is damaged.
    """
    found = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    return [_read(path) for path in found]


def read_shard(part: Path, shard: int) -> list[Reference]:
    """The references of one shard."""
    import pyarrow.parquet

    rows = pyarrow.parquet.ParquetFile(part / _FILE).read_row_group(shard).to_pylist()
    return [Reference(**row) for row in rows]


def _read(folder: Path) -> Part:
    manifest = read_manifest(folder, kind=KIND)
    return Part(folder, manifest.digest, manifest.facts["photos"], tuple(manifest.facts["shards"]))


def _require_same(folder: Path, files: Files, column: str) -> None:
    config = read_manifest(folder, verify=False).config
    if config != {"collection": files.uri, "column": column}:
        raise ArtifactError(
            f"is a listing of {config['collection']}, column {config['column']}, not of {files.uri}, {column}",
            where=folder, remedy="Take another --out for another collection.",
        )  # fmt: skip


def _written(folder: Path, files: Files) -> tuple[str, ...]:
    """How addresses below the output folder begin; where that is the collection itself, those of our folders in it."""
    root, out = Path(files.uri).resolve(), folder.parent.resolve()
    own = [out / LISTING, out / DETECTIONS] if out == root else [out]
    return tuple(f"{Path(files.uri, each.relative_to(root))}/" for each in own if each.is_relative_to(root))


def _merged(parts: Sequence[Part]) -> Iterator[tuple[tuple[str, int], set[str]]]:
    """(place, versions) of all known photos, ascending, one row group of each part in memory."""
    merged = heapq.merge(*(_stream(part) for part in parts))
    for place, same in groupby(merged, key=lambda reference: reference.place):
        yield place, {reference.version for reference in same}


def _stream(part: Part) -> Iterator[Reference]:
    for shard in range(len(part.shards)):
        yield from read_shard(part.folder, shard)


def _new(
    found: Iterator[Reference], known: Iterator[tuple[tuple[str, int], set[str]]], counts: Counter[str]
) -> Iterator[Reference]:
    """The references that are not known. Both streams ascend."""
    current = next(known, None)
    for reference in found:
        while current is not None and current[0] < reference.place:
            counts["gone"] += 1
            current = next(known, None)
        versions: set[str] = set()
        if current is not None and current[0] == reference.place:
            versions, current = current[1], next(known, None)
        is_known = reference.version in versions
        counts["known" if is_known else "new"] += 1
        if not is_known:
            yield reference
    counts["gone"] += (current is not None) + sum(1 for _ in known)


def _write(folder: Path, references: Sequence[Reference], shard: int, config: dict[str, Any]) -> Part:
    import pyarrow
    import pyarrow.parquet

    shards = [references[start : start + shard] for start in range(0, len(references), shard)]
    schema = pyarrow.schema([("uri", "string"), ("row", "int64"), ("size", "int64"), ("version", "string")])
    facts = {"photos": len(references), "shards": [len(each) for each in shards]}
    with writing(folder) as draft:
        with pyarrow.parquet.ParquetWriter(draft / _FILE, schema) as writer:
            for each in shards:
                table = pyarrow.Table.from_pylist([vars(reference) for reference in each], schema)
                writer.write_table(table, row_group_size=len(each))
        seal(draft, Manifest(kind=KIND, name=folder.name, config=config, facts=facts))
    return _read(folder)
