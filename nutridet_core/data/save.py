"""Saving rows: Arrow files that are written and divided a few rows at a time, as `datasets` reads them.

Belongs here: columns, files. Does not belong here: which rows there are, and in which split (`dataset`).

`Dataset.save_to_disk` would hold a thousand photos in memory to guess their size, and map the whole file.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
from datasets import Dataset, Features, Image, Value
from datasets import List as ListOf

from nutridet_core.data.examples import SPLITS, Split

FEATURES = Features(
    {
        "image": Image(),
        "id": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        "boxes": ListOf(ListOf(Value("float64"))),
        "barcode": Value("string"),
        "pixels_sha256": Value("string"),
        "source": Value("string"),
        "flags": ListOf(Value("string")),
    }
)
"""One row per photo; boxes are `(x0, y0, x1, y1)` in 0..1."""
_BYTES_AT_ONCE = 4 * 2**20
"""Of a record batch; every one has to be known to whoever opens the file."""
_POOL = pa.system_memory_pool()
"""The default one keeps more of what was freed."""


@contextmanager
def arrow_stream(path: Path, schema: pa.Schema) -> Iterator[Any]:
    """A writer of record batches."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        yield writer


def save_splits(photos: Path, assigned: Sequence[Split | None], folder: Path) -> None:
    """Divide the rows of an Arrow file among a folder per split.

    Args:
        assigned: the split of each row; None leaves it out.
    """
    with ExitStack() as stack, pa.OSFile(str(photos)) as file, pa.ipc.open_stream(file, memory_pool=_POOL) as rows:
        files = {split: _new_dataset(folder / split) for split in SPLITS}
        parts = {split: _Part(stack.enter_context(arrow_stream(path, rows.schema))) for split, path in files.items()}
        row = 0
        for batch in rows:
            given = assigned[row : row + len(batch)]
            row += len(batch)
            for split, part in parts.items():
                if split in given:
                    chosen = pa.array([each == split for each in given])
                    part.add(pa.compute.filter(batch, chosen, memory_pool=_POOL))
        for part in parts.values():
            part.flush()


class _Part:
    """A split's rows on their way to its file."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self.waiting: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch) -> None:
        self.waiting.append(batch)
        if sum(each.nbytes for each in self.waiting) >= _BYTES_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            self.writer.write_table(pa.Table.from_batches(self.waiting).combine_chunks(_POOL))
            self.waiting.clear()


def _new_dataset(folder: Path) -> Path:
    """A dataset in `datasets`' own format, and its file. It has one empty row, until the file is replaced."""
    row = Dataset.from_dict({name: [None] for name in FEATURES}, features=FEATURES)
    row.select([0], new_fingerprint=uuid.uuid4().hex).save_to_disk(str(folder))
    (file,) = folder.glob("*.arrow")
    return file
