"""The dataset artefact and its report: one outcome for every source, bad photos counted, leaks seen, reuse."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from PIL import Image

from nutridet_core.artifacts.store import Manifest, is_complete
from nutridet_core.data.dataset import (
    FEATURES,
    SET_ASIDE,
    DatasetSpec,
    check_boxes,
    check_splits,
    load_records,
    load_split,
    open_photos,
    prepare_dataset,
)
from nutridet_core.data.examples import SPLITS, Record, Split
from nutridet_core.data.photos import MAX_BYTES, Reason
from nutridet_core.errors import DataError, SettingsError
from nutridet_core.report.dataset import DISTRIBUTIONS, REPORT, SHEET, report_dataset
from tests.photo_files import (
    BOX,
    HEIGHT,
    UNIT,
    WIDTH,
    Row,
    encode,
    huge_png,
    picture,
    rows,
    undemanding,
    write_coco,
    write_hub,
    write_imagefolder,
)

REAL_PHOTOS = Path(__file__).parents[2] / "shared" / "real_photos"
WRITERS = {"hub": write_hub, "coco": write_coco, "imagefolder": write_imagefolder}
GOOD = rows(6)


def silent(_: str) -> None:
    pass


def prepare(source: str, folder: Path, **spec: Any) -> Manifest:
    return prepare_dataset(DatasetSpec(source, **spec), folder, log=silent)


def prepared(root: Path, listed: Sequence[Row], **spec: Any) -> tuple[Path, Manifest]:
    """A dataset of an image folder."""
    folder = root / "dataset"
    return folder, prepare(write_imagefolder(root / "photos", listed), folder, **spec)


def reported(root: Path, listed: Sequence[Row]) -> dict[str, Any]:
    """The facts of its report."""
    folder, _ = prepared(root, listed)
    return report_dataset(folder, root / "report", log=silent).facts


def records_of(folder: Path) -> dict[Split, list[Record]]:
    return {split: load_records(folder, split) for split in SPLITS}


# ---------------------------------------------------------------- one outcome for every source


LIKE_THE_HUBS = [row if row.split == "test" else replace(row, split=None) for row in rows(18)]


def prepare_as(kind: str, root: Path) -> Manifest:
    return prepare(WRITERS[kind](root / "photos", LIKE_THE_HUBS), root / "dataset", selection_share=0.4)


def test_every_source_ends_in_the_same_dataset(tmp_path: Path) -> None:
    manifests = [prepare_as(kind, tmp_path / kind) for kind in WRITERS]
    assert len({manifest.data_fingerprint for manifest in manifests}) == 1
    assert [manifest.facts["splits"] for manifest in manifests] == [manifests[0].facts["splits"]] * 3


@pytest.mark.parametrize("kind", WRITERS)
def test_what_a_source_said_is_what_a_dataset_holds(tmp_path: Path, kind: str) -> None:
    manifest, folder = prepare_as(kind, tmp_path), tmp_path / "dataset"
    assert manifest.facts["splits"]["test"] == 6
    assert (manifest.facts["set_aside"], check_boxes(folder), check_splits(folder)) == ({}, [], [])
    by_name = {row.name: row for row in LIKE_THE_HUBS}
    for split in SPLITS:
        assert load_split(folder, split).features == FEATURES
        for record, opened in zip(load_records(folder, split), open_photos(folder, split), strict=True):
            row = by_name[record.id]
            assert (record.source, record.barcode, record.width, record.height) == (kind, row.barcode, WIDTH, HEIGHT)
            assert [box.as_tuple() for box in record.boxes] == [UNIT] * len(row.boxes)
            assert np.asarray(opened().crop(BOX)).min() == 255  # the box lies on the pixels that it was drawn around


def test_drawn_photos_end_in_one_too(dataset: Path) -> None:
    records = records_of(dataset)
    assert sum(map(len, records.values())) == 24
    assert all(records.values())
    assert (check_boxes(dataset), check_splits(dataset)) == ([], [])


@pytest.mark.skipif(not REAL_PHOTOS.is_dir(), reason="the real photos are not beside this checkout")
def test_real_photos_are_the_test_beside_drawn_training_photos(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    manifest = prepare("generated:12", folder, test_source=f"coco:{REAL_PHOTOS}", selection_share=0.3)
    real = load_records(folder, "test")
    assert manifest.facts["set_aside"] == {}
    assert len(real) == 85
    assert sum(len(record.boxes) for record in real) == 30
    assert sum(not record.boxes for record in real) == 55
    assert {record.source for record in real} == {"coco"}
    drawn = load_records(folder, "train") + load_records(folder, "selection")
    assert {record.source for record in drawn} == {"generated"}
    assert check_splits(folder) == []


def test_a_test_source_takes_the_place_of_the_sources_own_test(tmp_path: Path) -> None:
    training = write_coco(tmp_path / "training", rows(6))
    test = write_imagefolder(tmp_path / "test", [replace(row, name=f"test-{row.name}") for row in rows(9)[6:]])
    prepare(training, tmp_path / "dataset", test_source=test)
    assert {split: len(records) for split, records in records_of(tmp_path / "dataset").items()} == {
        "train": 2,
        "selection": 4,
        "test": 3,
    }


def test_a_product_of_the_test_source_is_not_trained_on(tmp_path: Path) -> None:
    training = write_coco(tmp_path / "training", rows(6))
    photo = Row("again.png", encode(picture(99)), barcode=rows(1)[0].barcode)
    folder = tmp_path / "dataset"
    manifest = prepare(training, folder, test_source=write_imagefolder(tmp_path / "test", [photo]))
    assert manifest.facts["set_aside"] == {"barcode_in_stricter_split": 1}
    assert "000.png" not in {record.id for record in load_records(folder, "train")}


NAMELESS = [replace(row, barcode=None, split=None) for row in rows(12)]
"""Photos that nothing but their file names tells apart."""


@pytest.mark.parametrize("write_test", [write_imagefolder, write_coco])
def test_files_that_only_share_a_name_are_photos_of_their_own(
    tmp_path: Path, write_test: Callable[[Path, Sequence[Row]], str]
) -> None:
    """Every camera calls its first photo the same."""
    training = write_imagefolder(tmp_path / "training", NAMELESS)
    others = [replace(row, image=encode(picture(100 + number))) for number, row in enumerate(NAMELESS[:4])]
    folder = tmp_path / "dataset"
    manifest = prepare(training, folder, test_source=write_test(tmp_path / "test", others), selection_share=0.3)
    assert manifest.facts["set_aside"] == {}
    found = records_of(folder)
    assert [record.id for record in found["test"]] == [f"test_source/{row.name}" for row in others]
    assert {record.id for split in ("train", "selection") for record in found[split]} == {row.name for row in NAMELESS}
    assert all(record.barcode == record.id for records in found.values() for record in records)
    assert check_splits(folder) == []


def test_a_shared_name_does_not_hide_a_shared_photo_or_product(tmp_path: Path) -> None:
    same_photo = NAMELESS[0]
    same_product = replace(NAMELESS[1], image=encode(picture(101)), barcode="4000001")
    training = write_imagefolder(tmp_path / "training", [NAMELESS[0], replace(same_product, image=encode(picture(102))),
                                                         *NAMELESS[2:]])  # fmt: skip
    test = write_imagefolder(tmp_path / "test", [same_photo, same_product])
    manifest = prepare(training, tmp_path / "dataset", test_source=test, selection_share=0.3)
    assert manifest.facts["set_aside"] == {"barcode_in_stricter_split": 1, "duplicate_pixels": 1}
    assert check_splits(tmp_path / "dataset") == []


# ---------------------------------------------------------------- bad photos


DRAWN = encode(picture(50))
BAD: dict[Reason, Row] = {
    Reason.UNREADABLE: Row("unreadable.png", b"<html>404</html>"),
    Reason.TRUNCATED: Row("truncated.png", GOOD[0].image[:900]),
    Reason.TOO_MANY_PIXELS: Row("too_many_pixels.png", huge_png(60_000, 60_000)),
    Reason.EXTREME_ASPECT: Row("extreme_aspect.png", encode(Image.new("RGB", (402, 2)))),
    Reason.BOX_OUTSIDE: Row("box_outside.png", DRAWN, ((16, 8, 140, 24),)),
    Reason.BOX_ZERO_AREA: Row("box_zero_area.png", DRAWN, (BOX, (16, 8, 96, 8))),
    Reason.BOX_SWAPPED: Row("box_swapped.png", DRAWN, ((96, 8, 16, 24),)),
    Reason.BOX_NOT_FINITE: Row("box_not_finite.png", DRAWN, ((16, 8, float("nan"), 24),)),
    Reason.BOX_MALFORMED: Row("box_malformed.png", DRAWN, ((16, 8, 96),)),
    Reason.DUPLICATE_PIXELS: Row("duplicate_pixels.png", GOOD[2].image, split="train"),
    Reason.BARCODE_IN_STRICTER_SPLIT: Row(
        "barcode_in_stricter_split.png", DRAWN, barcode=GOOD[2].barcode, split="train"
    ),
}


def test_bad_photos_are_set_aside_and_named(tmp_path: Path) -> None:
    _, clean = prepared(tmp_path, GOOD)
    _, manifest = prepared(tmp_path, [*GOOD, *BAD.values()])
    assert manifest.data_fingerprint == clean.data_fingerprint
    assert manifest.facts["set_aside"] == dict.fromkeys(sorted(reason.value for reason in BAD), 1)
    aside = json.loads((tmp_path / "dataset" / SET_ASIDE).read_text())["photos"]
    assert {entry["id"]: entry["reason"] for entry in aside} == {row.name: reason.value for reason, row in BAD.items()}
    for entry in aside:
        assert str(tmp_path / "photos" / "metadata.jsonl") in entry["where"]
        assert entry["id"] in entry["where"]
        assert entry["detail"]


def test_too_many_bytes_are_counted(tmp_path: Path) -> None:
    source = write_imagefolder(tmp_path / "photos", [*GOOD, Row("bad.png", DRAWN)])
    os.truncate(tmp_path / "photos" / "bad.png", MAX_BYTES + 1)  # sparse
    assert prepare(source, tmp_path / "dataset").facts["set_aside"] == {"too_many_bytes": 1}


def test_a_wrong_size_in_the_index_is_counted(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "photos", rows(6))
    index = tmp_path / "photos" / "annotations.json"
    index.write_text(index.read_text().replace(f'"width": {WIDTH}', '"width": 777', 1))
    assert prepare(source, tmp_path / "dataset").facts["set_aside"] == {"size_mismatch": 1}


def test_a_repeated_id_is_counted(tmp_path: Path) -> None:
    listed = [replace(row, name="a.png") if number in (0, 2) else row for number, row in enumerate(rows(9))]
    manifest = prepare(write_hub(tmp_path / "photos", listed), tmp_path / "dataset", selection_share=0.4)
    assert manifest.facts["set_aside"] == {"duplicate_id": 1}
    assert "a.png" in {record.id for record in load_records(tmp_path / "dataset", "test")}


def test_a_broken_index_leaves_no_dataset(tmp_path: Path) -> None:
    source = write_imagefolder(tmp_path / "photos", rows(70))  # the first batch is written by then
    with (tmp_path / "photos" / "metadata.jsonl").open("a") as stream:
        stream.write("{")
    with pytest.raises(DataError, match=r"metadata\.jsonl line 71 \[JSON\]"):
        prepare(source, tmp_path / "dataset")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("split", SPLITS)
def test_an_empty_split_is_named_with_what_was_set_aside(tmp_path: Path, split: Split) -> None:
    listed = [replace(row, image=b"torn") if row.split == split else row for row in rows(6)]
    with pytest.raises(DataError, match="unreadable") as error:
        prepared(tmp_path, listed, selection_share=0.0, test_share=0.0)
    assert error.value.field == split


def test_shares_are_judged_before_any_photo_is_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="leave no training data"):
        prepare(f"coco:{tmp_path / 'nowhere'}", tmp_path / "dataset", test_share=1.0)


# ---------------------------------------------------------------- checks see what is planted


def plant(folder: Path, split: Split, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Add a changed copy of the first row of train to a saved split."""
    row = load_split(folder, "train")[0]
    copy = Dataset.from_list([{**row, **change(row)}], features=FEATURES)
    together = concatenate_datasets([load_split(folder, split), copy])
    together.save_to_disk(str(folder / "planted"))
    (folder / split).rename(folder / "old")
    (folder / "planted").rename(folder / split)


@pytest.mark.parametrize("split", ["selection", "test"])
def test_a_barcode_in_two_saved_splits_is_seen(tmp_path: Path, split: Split) -> None:
    folder, _ = prepared(tmp_path, rows(6))
    plant(folder, split, lambda row: {"id": "planted", "pixels_sha256": "other"})
    assert check_splits(folder) == [f"barcode 40000000 in train (000.png), {split} (planted)"]
    assert not is_complete(folder)


def test_a_photo_in_two_saved_splits_is_seen(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path, rows(6))
    plant(folder, "test", lambda row: {"id": "planted", "barcode": "other"})
    (line,) = check_splits(folder)
    assert line.startswith("photo ")
    assert line.endswith("in train (000.png), test (planted)")


@pytest.mark.parametrize("box", [[0.5, 0.1, 0.2, 0.9], [0.1, 0.1, 1.2, 0.9], [0.1, 0.1, 0.1, 0.9], [0.1, 0.1, 0.9]])
def test_a_bad_saved_box_is_seen(tmp_path: Path, box: list[float]) -> None:
    folder, _ = prepared(tmp_path, rows(6))
    plant(folder, "test", lambda row: {"id": "planted", "boxes": [box]})
    (line,) = check_boxes(folder)
    assert line.startswith("test/planted: ")


# ---------------------------------------------------------------- fingerprint and reuse


def test_row_order_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    twins = [Row("twin.png", GOOD[0].image, split="train"), Row("000.png", encode(picture(70)), split="train")]
    listed = [*rows(9), *twins]
    _, manifest = prepared(tmp_path / "one", listed)
    _, turned = prepared(tmp_path / "two", [listed[n] for n in np.random.default_rng(0).permutation(len(listed))])
    assert turned.data_fingerprint == manifest.data_fingerprint
    assert turned.facts == manifest.facts


@pytest.mark.parametrize(
    "change",
    [
        lambda row: replace(row, image=encode(picture(60))),
        lambda row: replace(row, boxes=((16, 8, 96, 25),)),
        lambda row: replace(row, boxes=()),
        lambda row: replace(row, name="other.png"),
        lambda row: replace(row, split="selection"),
    ],
    ids=["pixels", "a box moved", "a box gone", "id", "split"],
)
def test_the_fingerprint_follows_pixels_boxes_ids_and_splits(tmp_path: Path, change: Callable[[Row], Row]) -> None:
    listed = rows(6)
    _, manifest = prepared(tmp_path / "one", listed)
    _, changed = prepared(tmp_path / "two", [change(listed[0]), *listed[1:]])
    assert changed.data_fingerprint != manifest.data_fingerprint


def test_an_unchanged_dataset_is_reused(tmp_path: Path) -> None:
    folder, manifest = prepared(tmp_path, rows(6))
    written = (folder / SET_ASIDE).stat()
    said: list[str] = []
    again = prepare_dataset(DatasetSpec(f"imagefolder:{tmp_path / 'photos'}"), folder, log=said.append)
    assert again == manifest
    assert (folder / SET_ASIDE).stat() == written
    assert "is there already" in said[-1]


@pytest.mark.parametrize("change", ["a photo", "the index", "seed", "damage"])
def test_a_change_is_noticed(tmp_path: Path, change: str) -> None:
    listed = rows(6)
    folder, manifest = prepared(tmp_path, listed)
    match change:
        case "a photo":
            (tmp_path / "photos" / "000.png").write_bytes(encode(picture(61)))
        case "the index":
            write_imagefolder(tmp_path / "photos", [replace(listed[0], boxes=()), *listed[1:]])
        case "damage":
            next((folder / "test").glob("*.arrow")).write_bytes(b"torn")
    again = prepare(f"imagefolder:{tmp_path / 'photos'}", folder, seed=1 if change == "seed" else 0)
    assert is_complete(folder)
    assert (again.config == manifest.config) == (change == "damage")
    assert (again.data_fingerprint == manifest.data_fingerprint) == (change in ("seed", "damage"))


def test_more_photos_move_none_of_those_there_were(tmp_path: Path) -> None:
    listed = undemanding(rows(40))
    shares = {"selection_share": 0.3, "test_share": 0.3}
    before, _ = prepared(tmp_path / "few", listed[20:], **shares)
    after, _ = prepared(tmp_path / "many", listed, **shares)
    for split in SPLITS:
        names = {record.id for record in load_records(before, split)}
        assert names <= {record.id for record in load_records(after, split)}


# ---------------------------------------------------------------- report


def test_the_report_counts_and_shows_what_there_is(tmp_path: Path) -> None:
    listed = rows(12)
    listed[3] = replace(listed[3], barcode=listed[0].barcode)
    listed[4] = replace(listed[4], boxes=((16, 8, 18, 9),))
    facts = reported(tmp_path, [*listed, *BAD.values()])
    assert (facts["photos"], facts["boxes"], facts["negatives"]) == (12, 9, 3)
    assert facts["set_aside"] == dict.fromkeys(sorted(reason.value for reason in BAD), 1)
    assert facts["splits"]["train"] == {"photos": 4, "boxes": 3, "negatives": 1, "products": 3}
    assert facts["flagged"] == {"004.png": ["tiny_box"]}
    in_bad_photos = sum(len(row.boxes) for row in BAD.values())
    assert facts["categories"] == {"nutrition-table": 9 + in_bad_photos}
    assert set(facts["priors"]) == {"selection", "test"}
    assert "n = 4" in facts["priors"]["test"]["prior-median"]
    assert json.loads((tmp_path / "report" / REPORT).read_text()) == facts
    for name in (SHEET, DISTRIBUTIONS):
        with Image.open(tmp_path / "report" / name) as drawn:
            assert min(drawn.size) > 50


def test_training_photos_without_any_box_are_an_error(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path, [replace(row, boxes=()) for row in rows(6)])
    with pytest.raises(DataError, match=r"\[train\]: no box in the training photos"):
        report_dataset(folder, tmp_path / "report", log=silent)
    assert not (tmp_path / "report").exists()


def test_the_report_is_reused_and_follows_what_was_set_aside(tmp_path: Path) -> None:
    listed = [replace(row, boxes=()) if row.split != "train" else row for row in rows(6)]  # nothing to find: fast
    report = tmp_path / "report"
    assert reported(tmp_path, listed)["splits"]["test"]["negatives"] == 2
    written = (report / REPORT).stat()
    report_dataset(tmp_path / "dataset", report, log=silent)
    assert (report / REPORT).stat() == written
    assert reported(tmp_path, [*listed, BAD[Reason.UNREADABLE]])["set_aside"] == {"unreadable": 1}
