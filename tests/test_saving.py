"""Rows that are saved without being held in memory: the same files and hashes as if they were."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset

from nutridet_core.artifacts.store import digest
from nutridet_core.data.examples import SPLITS, Split
from nutridet_core.data.fingerprint import digest_rows
from nutridet_core.data.save import FEATURES, arrow_stream, save_splits
from nutridet_core.data.sources import source_signature

ROWS, PHOTO_BYTES = 400, 150_000
ASSIGNED: list[Split | None] = [(*SPLITS, None)[row % 4] for row in range(ROWS)]


def write_rows(file: Path, photo: bytes) -> Path:
    """Rows that only differ by their ids."""
    same = {"image": {"bytes": photo, "path": None}, "width": 4, "height": 3, "barcode": "400"}
    same |= {"pixels_sha256": "0", "source": "", "flags": []}
    with arrow_stream(file, FEATURES.arrow_schema) as writer:
        for start in range(0, ROWS, 10):
            rows = [
                {
                    "image": {"bytes": photo, "path": None},
                    "id": str(row),
                    "boxes": [[0.0, 0.0, 0.5, (row + 1) / ROWS]],
                    **same,
                }
                for row in range(start, start + 10)
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema))
    return file


def test_each_split_has_its_rows_in_order(tmp_path: Path) -> None:
    save_splits(write_rows(tmp_path / "photos.arrow", b"photo"), ASSIGNED, tmp_path)
    for split in SPLITS:
        saved = Dataset.load_from_disk(str(tmp_path / split))
        assert saved.features == FEATURES
        expected = [row for row, given in enumerate(ASSIGNED) if given == split]
        assert list(saved["id"]) == [str(row) for row in expected]
        assert list(saved["boxes"]) == [[[0.0, 0.0, 0.5, (row + 1) / ROWS]] for row in expected]


def test_few_photos_are_in_memory_while_they_are_divided(tmp_path: Path) -> None:
    photos = write_rows(tmp_path / "photos.arrow", os.urandom(PHOTO_BYTES))
    save_splits(photos, ASSIGNED, tmp_path)
    assert pa.system_memory_pool().max_memory() < ROWS * PHOTO_BYTES / 2


@pytest.mark.parametrize("rows", [[], [["a", 1]], [["ü", None, [0.1, 1e-9]], {"b": 1, "a": (2,)}, "c"]])
def test_streamed_rows_have_the_hash_of_their_list(rows: list[object]) -> None:
    assert digest_rows(iter(rows)) == digest(rows)


def test_a_folders_signature_is_that_of_its_sorted_paths(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for name in ("b.jpg", "a.b/1.jpg", "a/2.jpg", "a/b/3.jpg", "a-b/4.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    elsewhere.mkdir()
    (elsewhere / "5.jpg").touch()
    (folder / "linked").symlink_to(elsewhere)
    (folder / "6.jpg").symlink_to(elsewhere / "5.jpg")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    expected = [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    assert source_signature(f"imagefolder:{folder}") == digest(expected)
