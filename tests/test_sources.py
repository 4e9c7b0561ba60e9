"""Sources: what each one reads, and that a broken index is an error that names file and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nutridet_core.answers import LABEL
from nutridet_core.data.examples import Candidate, Example, Rejection
from nutridet_core.data.photos import Reason
from nutridet_core.data.sources import open_source, source_signature
from nutridet_core.data.sources.hub import REPO
from nutridet_core.data.validate import accept
from nutridet_core.errors import DataError, SettingsError
from tests.photo_files import (
    BOX,
    HUB_SCHEMA,
    UNIT,
    Row,
    coco_index,
    hub_table,
    rows,
    write_coco,
    write_hub,
    write_imagefolder,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WRITERS = {"hub": write_hub, "coco": write_coco, "imagefolder": write_imagefolder}


def read(source: str) -> list[Candidate]:
    return list(open_source(source))


def error_of(source: str) -> str:
    with pytest.raises(DataError) as error:
        read(source)
    assert error.value.remedy
    return str(error.value)


@pytest.mark.parametrize("kind", WRITERS)
def test_photo_box_product_and_place_are_read(tmp_path: Path, kind: str) -> None:
    listed = rows(4)
    candidates = {candidate.id: candidate for candidate in read(WRITERS[kind](tmp_path / "photos", listed))}
    assert set(candidates) == {row.name for row in listed}
    for row in listed:
        example = accept(candidates[row.name])
        assert isinstance(example, Example), example
        assert [box.as_tuple() for box in example.boxes] == [UNIT] * len(row.boxes)
        assert (example.image, example.barcode, example.source) == (row.image, row.barcode, kind)
        assert str(tmp_path) in candidates[row.name].where
        assert row.name in candidates[row.name].where


@pytest.mark.parametrize("kind", ["coco", "imagefolder"])
def test_a_demanded_split_is_passed_on(tmp_path: Path, kind: str) -> None:
    listed = rows(4)
    assert [candidate.split for candidate in read(WRITERS[kind](tmp_path, listed))] == [row.split for row in listed]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_photo_without_a_barcode_is_its_own_product(tmp_path: Path, kind: str) -> None:
    source = WRITERS[kind](tmp_path, [Row("a.png", rows(1)[0].image)])
    assert [candidate.barcode for candidate in read(source)] == ["a.png"]


# ---------------------------------------------------------------- the string


@pytest.mark.parametrize("read_string", [open_source, source_signature])
@pytest.mark.parametrize("source", ["", "coco", "coco:", "s3://bucket/photos", "folder:/photos", "generated"])
def test_a_string_that_names_no_source_is_refused(read_string: Callable[[str], object], source: str) -> None:
    with pytest.raises(SettingsError, match=r"imagefolder:/path") as error:
        read_string(source)
    assert error.value.field == "source"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_missing_folder_is_named(tmp_path: Path, kind: str) -> None:
    assert str(tmp_path / "nowhere") in error_of(f"{kind}:{tmp_path / 'nowhere'}")
    assert str(tmp_path) in error_of(f"{kind}:{tmp_path}")  # there, but holds no index


# ---------------------------------------------------------------- drawn photos


def test_drawn_photos_repeat_and_the_seed_matters() -> None:
    assert read("generated:2") == read("generated:2:0")
    assert read("generated:2")[0].image != read("generated:2:5")[0].image


def test_only_tables_of_drawn_photos_are_boxes() -> None:
    for candidate in read("generated:6"):
        assert len(candidate.boxes) == candidate.categories.count(LABEL)
        assert isinstance(accept(candidate), Example)


@pytest.mark.parametrize("source", ["generated:0", "generated:-3", "generated:many", "generated:4:", "generated:4:x"])
def test_a_count_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(SettingsError, match="generated:COUNT"):
        open_source(source)


# ---------------------------------------------------------------- hub


@pytest.mark.parametrize(
    "source", ["hub", "hub@", "hub@main", "hub@6b829c4", f"hub@{COMMIT.upper()}", f"hub@{COMMIT}0"]
)
def test_the_hub_needs_a_full_commit(source: str) -> None:
    with pytest.raises(SettingsError, match="two runs could see different data") as error:
        open_source(source)
    assert error.value.field == "source"
    assert "hub@REVISION" in str(error.value.remedy)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub client's own cache, empty and offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path / f"datasets--{REPO.replace('/', '--')}"


def test_a_commit_in_the_hubs_cache_is_read_without_a_network(hub_cache: Path) -> None:
    write_hub(hub_cache / "snapshots" / COMMIT, rows(6))
    assert [candidate.split for candidate in read(f"hub@{COMMIT}")] == [None] * 4 + ["test"] * 2


def test_a_commit_that_cannot_be_fetched_is_named(hub_cache: Path) -> None:
    assert f"{REPO}@{COMMIT} [revision]: is not whole in {hub_cache.parent}, and HF_HUB_OFFLINE" in error_of(
        f"hub@{COMMIT}"
    )


@pytest.mark.parametrize(
    "name", ["val-0.parquet", "validation.parquet", "test-0.parquet", "val/0.parquet", "test/0.parquet"]
)
def test_the_hubs_val_is_the_test_split(tmp_path: Path, name: str) -> None:
    for file in (tmp_path / "photos" / "train" / "0.parquet", tmp_path / "photos" / name):
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(hub_table(rows(1)), file)
    assert sorted(str(candidate.split) for candidate in read(f"hub:{tmp_path / 'photos'}")) == ["None", "test"]


def test_a_folder_above_the_source_decides_no_split(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    pq.write_table(hub_table(rows(1)), tmp_path / "test" / "train.parquet")
    for path in (tmp_path / "test", tmp_path / "test" / "train.parquet"):
        assert [candidate.split for candidate in read(f"hub:{path}")] == [None]


@pytest.mark.parametrize("column", HUB_SCHEMA.names)
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    pq.write_table(hub_table(rows(1)).drop_columns([column]), tmp_path / "train.parquet")
    assert f"{tmp_path / 'train.parquet'} [{column}]: column is missing" in error_of(f"hub:{tmp_path}")


@pytest.mark.parametrize(
    ("column", "field"),
    [("image", "bytes"), ("meta", "barcode"), ("objects", "bbox"), ("objects", "category_name")],
)
@pytest.mark.parametrize("flat", [False, True])
def test_a_missing_nested_column_is_named(tmp_path: Path, column: str, field: str, flat: bool) -> None:
    table = hub_table(rows(1))
    values = [None if flat else {"other": 1}]
    changed = table.set_column(table.schema.get_field_index(column), column, pa.array(values))
    pq.write_table(changed, tmp_path / "train.parquet")
    assert f"[{column}." in error_of(f"hub:{tmp_path}")


def test_what_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert f"{tmp_path / 'train.parquet'} [footer]" in error_of(f"hub:{tmp_path}")


def test_a_damaged_parquet_names_the_row(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    pq.write_table(hub_table(rows(4)), file, write_page_checksum=True)
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(200) + content[204:])
    assert f"{file} [row]: is damaged at row 0 or after" in error_of(f"hub:{tmp_path}")


def test_rows_of_the_hub_without_photo_or_objects_break_nothing(tmp_path: Path) -> None:
    row = hub_table(rows(1)).to_pylist()[0]
    odd = [row | {"image": None}, row | {"objects": None}, row | {"meta": None}, row | {"width": None}]
    odd += [row | {"objects": row["objects"] | {"bbox": [None]}}]
    pq.write_table(pa.Table.from_pylist(odd, schema=HUB_SCHEMA), tmp_path / "train.parquet")
    found = [accept(candidate) for candidate in read(f"hub:{tmp_path}")]
    reasons = [judged.reason if isinstance(judged, Rejection) else None for judged in found]
    assert reasons == [Reason.UNREADABLE, None, None, None, Reason.BOX_MALFORMED]


# ---------------------------------------------------------------- COCO


def test_boxes_of_other_categories_are_counted_and_not_used(tmp_path: Path) -> None:
    first = read(write_coco(tmp_path, rows(1)))[0]
    assert first.boxes == ((16, 8, 80, 16),)
    assert first.categories == ("nutrition-table", "barcode")


def test_one_json_among_several_can_be_named(tmp_path: Path) -> None:
    write_coco(tmp_path, rows(2))
    (tmp_path / "annotations.json").rename(tmp_path / "half.json")
    assert len(read(f"coco:{tmp_path / 'half.json'}")) == 2


def drop(row: dict[str, Any], name: str) -> None:
    del row[name]


Breakage = Callable[[dict[str, Any]], object]
BROKEN_COCO: dict[str, tuple[Breakage, str]] = {
    "no images": (lambda c: drop(c, "images"), "annotations.json [images]: field is missing"),
    "images no list": (lambda c: c.update(images={}), "[images]: is {}"),
    "no annotations": (lambda c: drop(c, "annotations"), "[annotations]: field is missing"),
    "no categories": (lambda c: drop(c, "categories"), "[categories]: field is missing"),
    "no wanted category": (lambda c: drop(c["categories"][0], "name"), "categories[0] [name]: field is missing"),
    "other categories": (
        lambda c: c["categories"][0].update(name="logo"),
        "[categories]: no category with 'nutrition' in its name",
    ),
    "no file name": (lambda c: drop(c["images"][1], "file_name"), "images[1] [file_name]: field is missing"),
    "file name a number": (lambda c: c["images"][1].update(file_name=7), "images[1] [file_name]: is 7"),
    "image no object": (lambda c: c["images"].append("a.png"), "images[2]: is no JSON object"),
    "no image id": (lambda c: drop(c["images"][1], "id"), "images[1] [id]: field is missing"),
    "one side only": (lambda c: drop(c["images"][0], "height"), "images[0] [height]: field is missing"),
    "side no number": (lambda c: c["images"][0].update(width="128"), "images[0] [width]: is '128'"),
    "unknown split": (lambda c: c["images"][0].update(split="val"), "images[0] [split]: is 'val'"),
    "repeated image id": (lambda c: c["images"][1].update(id=0), "[images[].id]: two images share an id"),
    "unknown image": (lambda c: c["annotations"][0].update(image_id=77), "[annotations[].image_id]: annotations name"),
    "unknown category": (lambda c: c["annotations"][0].update(category_id=9), "annotations[0] [category_id]: is 9"),
    "no box": (lambda c: drop(c["annotations"][0], "bbox"), "annotations[0] [bbox]: field is missing"),
}


@pytest.mark.parametrize("name", BROKEN_COCO)
def test_a_broken_coco_index_names_row_and_field(tmp_path: Path, name: str) -> None:
    breakage, expected = BROKEN_COCO[name]
    write_coco(tmp_path, rows(2))
    content = coco_index(rows(2))
    breakage(content)
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    message = error_of(f"coco:{tmp_path}")
    assert message.startswith(str(tmp_path / "annotations.json"))
    assert expected in message


@pytest.mark.parametrize("text", ['{\n "images": [}', "", "[" * 100_000, '"\ud800'])
def test_broken_json_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "annotations.json").write_text(text, errors="surrogatepass")
    assert f"{tmp_path / 'annotations.json'} [JSON]: is no JSON" in error_of(f"coco:{tmp_path}")


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text('{\n "images": [}')
    assert "line 2" in error_of(f"coco:{tmp_path}")


# ---------------------------------------------------------------- image folders


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"file_name": "a.png", ', "line 2 [JSON]: is no JSON"),
        ('["a.png"]', "line 2: is no JSON object"),
        ('{"boxes": []}', "line 2 [file_name]: field is missing"),
        ('{"file_name": "a.png"}', "line 2 [boxes]: field is missing"),
        ('{"file_name": "a.png", "boxes": "none"}', "line 2 [boxes]: is 'none'"),
        ('{"file_name": "a.png", "boxes": [], "split": "dev"}', "line 2 [split]: is 'dev'"),
        ('{"file_name": "a\\u0000.png", "boxes": []}', "line 2 [file_name]: is no path"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, expected: str) -> None:
    source = write_imagefolder(tmp_path, rows(1))
    with (tmp_path / "metadata.jsonl").open("a") as stream:
        stream.write(line + "\n")
    assert f"{tmp_path / 'metadata.jsonl'} {expected}" in error_of(source)


def test_blank_lines_are_skipped(tmp_path: Path) -> None:
    source = write_imagefolder(tmp_path, rows(1))
    index = tmp_path / "metadata.jsonl"
    index.write_text("\n" + index.read_text() + "  \n")
    assert [candidate.where.split("metadata.jsonl ")[1] for candidate in read(source)] == ["line 2 000.png"]


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ('[["16", 8, 96, 24]]', Reason.BOX_NOT_FINITE),
        ("[[true, 8, 96, 24]]", Reason.BOX_NOT_FINITE),
        ("[[null, 8, 96, 24]]", Reason.BOX_NOT_FINITE),
        ("[[NaN, 8, 96, 24]]", Reason.BOX_NOT_FINITE),
        (f"[[1{'0' * 400}, 8, 96, 24]]", Reason.BOX_NOT_FINITE),
        ("[16, 8, 96, 24]", Reason.BOX_MALFORMED),
        ('[{"x": 16}]', Reason.BOX_MALFORMED),
        ("[[[16, 8], [96, 24]]]", Reason.BOX_MALFORMED),
    ],
)
def test_a_box_that_is_none_sets_its_photo_aside(tmp_path: Path, boxes: str, reason: Reason) -> None:
    source = write_imagefolder(tmp_path, rows(1))
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "000.png", "boxes": {boxes}}}')
    (found,) = (accept(candidate) for candidate in read(source))
    assert isinstance(found, Rejection)
    assert found.reason == reason


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("kind", ["coco", "imagefolder"])
@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "{absolute}", "link.png"])
def test_a_file_name_never_leaves_its_folder(tmp_path: Path, kind: str, name: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(rows(1)[0].image)
    folder = tmp_path / "photos"
    source = WRITERS[kind](folder, rows(1))
    (folder / "link.png").symlink_to(secret)
    index = folder / ("annotations.json" if kind == "coco" else "metadata.jsonl")
    index.write_text(index.read_text().replace("000.png", name.format(absolute=secret)))
    message = error_of(source)
    assert str(index) in message
    assert "[file_name]" in message
    assert "leaves the folder" in message


def test_photos_may_lie_in_folders_below(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (found,) = read(write_imagefolder(tmp_path, [Row("sub/a.png", rows(1)[0].image, (BOX,))]))
    assert isinstance(accept(found), Example)


# ---------------------------------------------------------------- signatures


@pytest.mark.parametrize("kind", ["hub", "coco", "coco file", "imagefolder"])
def test_a_signature_follows_the_files(tmp_path: Path, kind: str) -> None:
    source = WRITERS[kind.split()[0]](tmp_path, rows(3))
    if kind == "coco file":
        source += "/annotations.json"
    before = source_signature(source)
    home = tmp_path / ".nutridet" / "mlflow.db"  # who works among the photos has it there
    home.parent.mkdir()
    home.touch()
    assert source_signature(source) == before
    photo = max(tmp_path.rglob("*.parquet" if kind == "hub" else "*.png"))
    photo.write_bytes(photo.read_bytes() + b" ")
    assert source_signature(source) != before


def test_a_commit_has_no_signature_and_drawn_photos_have_that_of_their_code() -> None:
    assert source_signature(f"hub@{COMMIT}") is None
    assert source_signature("generated:3") == source_signature("generated:4") is not None
