"""The dataset artefact: every source ends here, validated, split by product, fingerprinted, as Arrow.

Belongs here: writing that artefact and reading it back. Does not belong here: judging photos
(`validate`), assigning splits (`split`), pictures of it (`report.dataset`).

Photos stream through one Arrow file on disk. Held in memory are each photo's name, product, hash and place in its
source, half a kilobyte, since duplicates are found among all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
from datasets import Dataset, Image
from PIL import Image as Pillow

from nutridet_core.artifacts.store import Manifest, read_manifest, reusable, seal, write_json, writing
from nutridet_core.boxes import Box
from nutridet_core.children import cores
from nutridet_core.data.examples import SPLITS, Candidate, Example, Record, Rejection, Split
from nutridet_core.data.fingerprint import digest_rows
from nutridet_core.data.photos import load_photo
from nutridet_core.data.save import FEATURES, arrow_stream, save_splits
from nutridet_core.data.sources import NAMED_BY_FILE, open_source, source_signature
from nutridet_core.data.split import Member, assign_splits, check_shares, find_shared
from nutridet_core.data.validate import accept
from nutridet_core.errors import DataError

SET_ASIDE = "set_aside.json"
_ROWS_AT_ONCE = 64

Log = Callable[[str], None]


@dataclass(frozen=True)
class DatasetSpec:
    """What a dataset is made from."""

    source: str
    """See `data.sources`."""
    test_source: str | None = None
    """When given, its photos are the test split, and `source` feeds train and selection only."""
    seed: int = 0
    selection_share: float = 0.15
    test_share: float = 0.15
    """Shares of products, where the source does not demand a split."""

    @property
    def config(self) -> dict[str, Any]:
        """The specification, and what tells whether a local source has changed since."""
        sources = [source for source in (self.source, self.test_source) if source]
        return asdict(self) | {"signatures": [source_signature(source) for source in sources]}

    @property
    def shares(self) -> tuple[float, float]:
        """Of selection and of test, as drawn from `source`."""
        return self.selection_share, 0.0 if self.test_source else self.test_share

    def candidates(self) -> Iterator[Candidate]:
        """Everything that the sources have."""
        if self.test_source is None:
            return open_source(self.source)
        training = (_move(candidate, "test", "selection") for candidate in open_source(self.source))
        return _both(training, (_into(candidate, "test") for candidate in open_source(self.test_source)))


def prepare_dataset(spec: DatasetSpec, folder: Path, *, log: Log = print) -> Manifest:
    """Write the dataset of `spec` to `folder`, or keep the one that is there.

    Raises:
        SettingsError: when the source is none, or the shares leave nothing to train on.
        DataError: when an index is broken, or a split would be empty.
    """
    check_shares(*spec.shares)
    config = spec.config
    if kept := reusable(folder, "dataset", config):
        log(f"dataset {kept.data_fingerprint} is there already")
        return kept
    with writing(folder) as draft:
        fingerprint, facts = _write_dataset(spec, draft, log)
        log(f"dataset {fingerprint[:12]}: {facts['splits']}, set aside {facts['set_aside'] or 'none'}")
        return seal(
            draft, Manifest(kind="dataset", name=spec.source, data_fingerprint=fingerprint, config=config, facts=facts)
        )


def load_split(folder: Path, split: Split) -> Dataset:
    """The rows of a split, columns as in `FEATURES`; photos decode when they are asked for.

    Raises:
        ArtifactError: when the dataset is missing, or a file of it has changed since it was written.
    """
    _require_whole(folder, read_manifest(folder, kind="dataset", verify=False).created)
    return Dataset.load_from_disk(str(folder / split))


@lru_cache(maxsize=8)
def _require_whole(folder: Path, created: str) -> None:
    """Hash every file, once per process: a flipped bit in a photo would train and score in silence."""
    read_manifest(folder, kind="dataset")


def load_records(folder: Path, split: Split) -> list[Record]:
    """Everything about a split but its photos, in order."""
    return [_to_record(row) for row in load_split(folder, split).remove_columns("image")]


def open_photos(folder: Path, split: Split) -> list[Callable[[], Pillow.Image]]:
    """A function per photo that opens it, in the order of `load_records`."""
    return [lambda read=read: load_photo(read()) for read in photo_files(folder, split)]  # type: ignore[misc]


def photo_files(folder: Path, split: Split) -> list[Callable[[], bytes]]:
    """A function per photo that gives its file, an upright RGB JPEG or PNG, in the order of `load_records`."""
    rows = load_split(folder, split).select_columns("image").cast_column("image", Image(decode=False))
    return [lambda index=index: rows[index]["image"]["bytes"] for index in range(len(rows))]  # type: ignore[misc]


def check_boxes(folder: Path) -> list[str]:
    """What is wrong with boxes as they are saved, a line each; an empty list means that they are valid."""
    problems = []
    for split in SPLITS:
        for row in load_split(folder, split).select_columns(["id", "boxes"]):
            for values in row["boxes"]:
                try:
                    Box(*values)
                except (TypeError, ValueError) as error:
                    problems.append(f"{split}/{row['id']}: {error}")
    return problems


def check_splits(folder: Path) -> list[str]:
    """What saved splits share, a line each; an empty list means that no product and no photo is in two."""
    splits = {split: load_records(folder, split) for split in SPLITS}
    barcodes = {split: [(record.barcode, record.id) for record in records] for split, records in splits.items()}
    pixels = {split: [(record.pixels_sha256, record.id) for record in records] for split, records in splits.items()}
    return find_shared("barcode", barcodes) + find_shared("photo", pixels)


def _write_dataset(spec: DatasetSpec, draft: Path, log: Log) -> tuple[str, dict[str, Any]]:
    """Fingerprint and facts of what was written."""
    photos, labels = draft / "photos.arrow", draft / "labels.arrow"
    categories: Counter[str] = Counter()
    members, set_aside = _write_photos(_counted(spec.candidates(), categories), photos, labels, log)
    assignment = assign_splits(members, spec.seed, *spec.shares)
    del members  # before the photos are copied, which takes memory of its own
    set_aside += assignment.set_aside
    reasons = Counter(rejection.reason.value for rejection in set_aside)
    _check_filled(assignment.splits, spec, reasons)
    save_splits(photos, assignment.splits, draft)
    fingerprint = _fingerprint(labels, assignment.splits)
    photos.unlink()
    labels.unlink()
    facts = {
        "set_aside": dict(sorted(reasons.items())),
        "splits": {split: assignment.splits.count(split) for split in SPLITS},
        "categories": dict(sorted(categories.items())),
    }
    write_json(draft / SET_ASIDE, {**facts, "photos": [asdict(rejection) for rejection in set_aside]})
    return fingerprint, facts


def _write_photos(
    candidates: Iterator[Candidate], photos: Path, labels: Path, log: Log
) -> tuple[list[Member], list[Rejection]]:
    """Validate every candidate and stream the good ones to an Arrow file, and to another one without the photos."""
    members: list[Member] = []
    set_aside: list[Rejection] = []
    schema = FEATURES.arrow_schema
    with (
        ThreadPoolExecutor(cores()) as threads,  # decoding and hashing leave Python's lock to others
        arrow_stream(photos, schema) as all_columns,
        arrow_stream(labels, schema.remove(schema.get_field_index("image")).remove_metadata()) as few_columns,
    ):
        while batch := list(islice(candidates, _ROWS_AT_ONCE)):
            judged = list(zip(batch, threads.map(accept, batch), strict=True))
            accepted = [(candidate, found) for candidate, found in judged if isinstance(found, Example)]
            set_aside += [found for _, found in judged if isinstance(found, Rejection)]
            members += [Member(e.id, e.barcode, e.pixels_sha256, c.split, c.where) for c, e in accepted]
            rows = pa.Table.from_pylist([_to_row(example) for _, example in accepted], schema=schema)
            all_columns.write_table(rows)
            few_columns.write_table(rows.drop_columns("image").replace_schema_metadata())
            log(f"dataset: {len(members)} photos read, {len(set_aside)} set aside")
    return members, set_aside


def _counted(candidates: Iterator[Candidate], categories: Counter[str]) -> Iterator[Candidate]:
    """The same candidates; counts their annotations, those of photos that will be set aside included."""
    for candidate in candidates:
        categories.update(candidate.categories)
        yield candidate


def _check_filled(assigned: Sequence[Split | None], spec: DatasetSpec, reasons: Counter[str]) -> None:
    for split in SPLITS:
        if split not in assigned:
            raise DataError(
                f"no photo for the split {split!r} ({len(assigned)} valid ones, set aside: {dict(reasons) or 'none'})",
                where=(split == "test" and spec.test_source) or spec.source,
                field=split,
                remedy="Give more photos, other shares, or a test_source.",
            )


def _fingerprint(labels: Path, assigned: Sequence[Split | None]) -> str:
    """Depends on photos, boxes and splits, not on order or time."""
    rows = Dataset.from_file(str(labels))
    by_id = pa.compute.sort_indices(rows.data.column("id")).to_pylist()
    parts = ((split, rows.select([row for row in by_id if assigned[row] == split])) for split in sorted(SPLITS))
    return digest_rows(
        [split, row["id"], row["pixels_sha256"], row["boxes"]]
        for split, part in parts
        for table in part.with_format("arrow").iter(_ROWS_AT_ONCE)
        for row in table.to_pylist()
    )


def _to_row(example: Example) -> dict[str, Any]:
    return {
        "image": {"bytes": example.image, "path": None},
        "id": example.id,
        "width": example.width,
        "height": example.height,
        "boxes": [list(box.as_tuple()) for box in example.boxes],
        "barcode": example.barcode,
        "pixels_sha256": example.pixels_sha256,
        "source": example.source,
        "flags": list(example.flags),
    }


def _to_record(row: dict[str, Any]) -> Record:
    return Record(**{**row, "boxes": tuple(Box(*values) for values in row["boxes"]), "flags": tuple(row["flags"])})


def _both(training: Iterator[Candidate], test: Iterator[Candidate]) -> Iterator[Candidate]:
    """Training, then test; of two files that only share a name, that of the test source gets another one."""
    taken = set()
    for candidate in training:
        taken.add(candidate.id)
        yield candidate
    for candidate in test:
        yield _rename(candidate) if candidate.source in NAMED_BY_FILE and candidate.id in taken else candidate


def _rename(candidate: Candidate) -> Candidate:
    """The same photo as `test_source/NAME`; without a barcode, its name is its product as well."""
    name = f"test_source/{candidate.id}"
    barcode = name if candidate.barcode == candidate.id else candidate.barcode
    return Candidate(**{**vars(candidate), "id": name, "barcode": barcode})


def _into(candidate: Candidate, split: Split) -> Candidate:
    return Candidate(**{**vars(candidate), "split": split})


def _move(candidate: Candidate, from_split: Split, to_split: Split) -> Candidate:
    """A source with a test split of its own gives it up to selection when another source is the test."""
    return _into(candidate, to_split) if candidate.split == from_split else candidate
