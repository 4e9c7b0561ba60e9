"""Collections: listed in order, cut into shards, each photo answered once, whatever lies there and whatever fails."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nutridet_core import cli
from nutridet_core.artifacts.layout import collection_name
from nutridet_core.artifacts.locks import claimed
from nutridet_core.boxes import Box
from nutridet_core.collection import replica
from nutridet_core.collection.detection import (
    Request,
    answer_collection,
    detect,
    detect_parts,
    list_collection,
    list_photos,
)
from nutridet_core.collection.files import Folder, MissingError, open_files
from nutridet_core.collection.listing import LISTING
from nutridet_core.collection.ray_pool import share
from nutridet_core.collection.references import list_references, open_references
from nutridet_core.collection.shards import ROWS
from nutridet_core.data.dataset import open_photos
from nutridet_core.errors import ArtifactError, DataError, MachineError, SettingsError
from nutridet_core.pipeline.context import Context
from nutridet_core.serving.vllm import free_port
from nutridet_core.settings import Settings
from tests.collections_of_photos import context, jpeg, places, request, rows, write_photos, write_table
from tests.gateway_server import running_app
from tests.openai_server import TEXT, Server, completion


def test_every_photo_has_one_row_with_its_boxes(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", range(25))
    found = answer_collection(context(tmp_path), request(photos, tmp_path / "out"))
    assert places(tmp_path / "out") == {(f"{number:05}.jpg", None): 1 for number in range(25)}
    assert [manifest.facts["counts"]["photos"] for manifest in found.parts] == [25]
    row = rows(tmp_path / "out")[3]
    assert (row["width"], row["height"], row["score"], row["problem"]) == (40, 30, 0.9, None)
    (unit,), (px,) = row["boxes_unit"], row["boxes_px"]
    assert unit == {"x0": 0.273, "y0": 0.304, "x1": 0.713, "y1": 0.679}
    assert px == {"x0": 10.92, "y0": 9.12, "x1": 28.52, "y1": 20.37}
    assert row["text"] == TEXT and row["failed"] is False
    assert len(list((tmp_path / "out").rglob(ROWS))) == 3, "shards of ten"


def test_a_listing_is_in_order_whatever_the_names_of_folders(tmp_path: Path) -> None:
    """Two listings are compared as streams: a folder `a` beside `a-b` is where naive walks go wrong."""
    for name in ("a/x.jpg", "a-b/x.jpg", "a.jpg", "A/y.png", "a/é.webp", "a/b/c.jpeg"):
        write_photos((tmp_path / name).parent, [])
        (tmp_path / name).write_bytes(jpeg(1))
    listed = [file.uri for file in Folder(str(tmp_path)).list()]
    assert listed == sorted(listed) and len(listed) == 6


def test_only_what_is_new_is_answered_when_a_collection_grows(tmp_path: Path) -> None:
    photos, out, lines = write_photos(tmp_path / "photos", range(0, 40, 2)), tmp_path / "out", list[str]()
    answer_collection(context(tmp_path, lines), request(photos, out))
    before = {file: file.stat().st_mtime_ns for file in out.rglob(ROWS)}
    write_photos(photos, range(1, 40, 2))  # between the old ones
    (photos / "00004.jpg").write_bytes(jpeg(4000))  # replaced
    (photos / "00006.jpg").unlink()  # gone
    listing = list_photos(context(tmp_path, lines), request(photos, out))
    assert (listing.new, listing.known, listing.gone) == (21, 18, 1)
    assert [part.photos for part in listing.parts] == [20, 21]
    detect(context(tmp_path, lines), request(photos, out))
    assert {file: file.stat().st_mtime_ns for file in out.rglob(ROWS) if file in before} == before
    twice = {place for place, count in places(out).items() if count > 1}
    assert twice == {("00004.jpg", None)}, "a photo that was replaced is a new photo"
    versions = [row["version"] for row in rows(out) if row["uri"].endswith("00004.jpg")]
    assert len(set(versions)) == 2
    again = list_photos(context(tmp_path, lines), request(photos, out))
    assert (again.new, again.gone, len(again.parts)) == (0, 1, 2)


def test_photos_that_cannot_be_used_are_counted_and_stop_nothing(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", range(12))
    (photos / "00003.jpg").write_bytes(b"no photo")
    (photos / "00005.jpg").write_bytes(jpeg(5)[:-20])
    (photos / "00007.jpg").write_bytes(b"")
    (photos / "notes.txt").write_text("not a photo")
    (photos / "gone.jpg").symlink_to(tmp_path / "nowhere")
    listing = list_photos(context(tmp_path), request(photos, tmp_path / "out"))
    assert listing.skipped == {".txt": 1}
    (photos / "00008.jpg").unlink()
    found = detect(context(tmp_path), request(photos, tmp_path / "out"))
    problems = {Path(row["uri"]).name: row["problem"] for row in rows(tmp_path / "out") if row["problem"]}
    assert problems == {
        "00003.jpg": "unreadable", "00005.jpg": "truncated", "00007.jpg": "unreadable", "00008.jpg": "missing",
    }  # fmt: skip
    assert "12 photos: 8 with a table, 0 without, 0 unreadable answers, 4 without an answer" in found.text
    assert "1 missing, 1 truncated, 2 unreadable" in found.text


@pytest.mark.parametrize("kind", ["bytes", "struct", "path"])
def test_rows_of_parquet_files_are_photos(tmp_path: Path, kind: str) -> None:
    values: list[Any] = [jpeg(number) for number in range(23)]
    if kind == "struct":
        values = [{"bytes": value, "path": None} for value in values]
    if kind == "path":
        write_photos(tmp_path / "tables" / "below", range(22))
        values = [f"below/{number:05}.jpg" for number in range(22)] + ["../outside.jpg"]
        (tmp_path / "outside.jpg").write_bytes(jpeg(1))
    table = write_table(tmp_path / "tables" / "photos.parquet", values)
    answer_collection(context(tmp_path), request(table, tmp_path / "out", shard=5))
    found = rows(tmp_path / "out")
    assert [row["row"] for row in found] == list(range(23))
    assert [row["problem"] for row in found] == [None] * 22 + ["missing" if kind == "path" else None]


@pytest.mark.parametrize("change", ["removed", "rewritten", "shorter", "no_parquet", "other_column"])
def test_a_parquet_file_that_changed_after_it_was_listed_is_missing_photos(tmp_path: Path, change: str) -> None:
    """As a removed photo is: one row each, the others have answers, and none is answered from the new content."""
    photos = write_photos(tmp_path / "photos", range(3))
    table, out = write_table(photos / "00001.parquet", [jpeg(number) for number in range(25)]), tmp_path / "out"
    list_photos(context(tmp_path), request(photos, out))
    if change == "removed":
        table.unlink()
    elif change == "no_parquet":
        table.write_bytes(b"not any more")
    else:
        numbers = range(8) if change == "shorter" else range(100, 125)
        write_table(table, [jpeg(number) for number in numbers], "photo" if change == "other_column" else "image")
    found = detect(context(tmp_path), request(photos, out))
    assert [(Path(row["uri"]).name, row["row"], row["problem"]) for row in rows(out)] == [
        ("00000.jpg", None, None),
        ("00001.jpg", None, None),
        *(("00001.parquet", number, "missing") for number in range(25)),
        ("00002.jpg", None, None),
    ]
    assert "28 photos: 3 with a table" in found.text and "25 missing" in found.text


def test_rows_are_answered_until_their_parquet_file_changes(tmp_path: Path) -> None:
    """It is rewritten while it is read, before the second group of rows and after the first."""
    table = write_table(tmp_path / "photos.parquet", [jpeg(number) for number in range(14)])
    files = open_files(str(table))
    opened = open_references(files, list(list_references(files, "image", Counter())), "image")
    got = [next(opened) for _ in range(7)]
    os.utime(table, ns=(0, 0))
    got += opened
    assert [reference.row for reference, _ in got] == list(range(14))
    assert [read() for _, read in got[:7]] == [jpeg(number) for number in range(7)]
    for _, read in got[7:]:
        with pytest.raises(MissingError):
            read()


def test_a_parquet_file_that_cannot_be_read_any_more_is_an_error(tmp_path: Path) -> None:
    """It is the one that was listed, so that its photos are not gone: a disk fails, or its bytes were exchanged."""
    table = write_table(tmp_path / "photos.parquet", [jpeg(number) for number in range(14)])
    list_photos(context(tmp_path), request(table, tmp_path / "out"))
    before = table.stat()
    table.write_bytes(b"x" * before.st_size)
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match="is no parquet file"):
        detect(context(tmp_path), request(table, tmp_path / "out"))


def test_a_photo_that_was_replaced_after_it_was_listed_is_missing_until_it_is_listed_again(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos", range(3)), tmp_path / "out"
    list_photos(context(tmp_path), request(photos, out))
    (photos / "00001.jpg").write_bytes(jpeg(1000))
    detect(context(tmp_path), request(photos, out))
    assert [row["problem"] for row in rows(out)] == [None, "missing", None]
    answer_collection(context(tmp_path), request(photos, out))
    assert [row["problem"] for row in rows(out)] == [None, "missing", None, None]


def test_what_a_run_has_written_is_no_part_of_its_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_photos(tmp_path / "photos", range(3))
    write_photos(photos / "found too", range(3, 5))
    write_photos(photos / "found" / "by hand", range(5, 7))
    monkeypatch.chdir(photos)
    lines: list[str] = []
    for number in range(2):
        answer_collection(context(tmp_path, lines), request(".", Path("found")))
        assert places(photos / "found") == {(f"{photo:05}.jpg", None): 1 for photo in range(5)}
        assert lines.pop(0).endswith(
            "5 new photos, 0 known, 0 gone; 1 part(s)" if number == 0 else "0 new photos, 5 known, 0 gone; 1 part(s)"
        )
        lines.clear()


@pytest.mark.parametrize("collection", ["photos", "photos/../photos", "link"])
def test_a_collection_may_be_its_own_output_folder(tmp_path: Path, collection: str) -> None:
    photos = write_photos(tmp_path / "photos", range(3))
    (tmp_path / "link").symlink_to(photos)
    for _ in range(2):
        answer_collection(context(tmp_path), request(tmp_path / collection, photos))
        assert places(photos) == {(f"{photo:05}.jpg", None): 1 for photo in range(3)}


def test_partitions_of_another_collection_are_refused(tmp_path: Path) -> None:
    """They have the same numbers: its photos would be taken for theirs."""
    first, second = (write_photos(tmp_path / name, range(3)) for name in ("first", "second"))
    ask = {"home": tmp_path, "detection_engine": "openai", "detection_local": True}
    with running_app(Server(completion(TEXT)).app) as url:
        contexts = [Context(Settings(**ask, detection_url=url, collection=str(each))) for each in (first, second)]
        for each in contexts:
            list_collection(each)
        own, foreign = (f"{collection_name(str(each))}.00000" for each in (second, first))
        with pytest.raises(SettingsError, match=rf"^{foreign} \[NUTRIDET_COLLECTION\]: .*{second}.*Set it to"):
            detect_parts(contexts[1], [own, foreign])
        assert not list(tmp_path.rglob(ROWS))
        assert detect_parts(contexts[1], [own])["photos"] == 3


def test_a_parquet_file_without_the_column_is_an_error_that_names_it(tmp_path: Path) -> None:
    table = write_table(tmp_path / "photos.parquet", [jpeg(1)], column="photo")
    with pytest.raises(DataError, match=r"no such column.*Name one of photo \(--column\)"):
        answer_collection(context(tmp_path), request(table, tmp_path / "out"))
    answer_collection(context(tmp_path), request(table, tmp_path / "out", column="photo"))
    assert len(rows(tmp_path / "out")) == 1


def test_a_bucket_is_read_through_its_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto's server speaks S3's protocol over HTTP: photos and a parquet file under a prefix, and nothing beside it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port())
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in _bucket_settings(f"http://{host}:{port}").items():
            monkeypatch.setenv(name, value)
        bucket = boto3.resource("s3").create_bucket(Bucket="shop")
        for number in range(12):
            bucket.put_object(Key=f"photos/{number % 3}/pack {number} #1?.jpg", Body=jpeg(number))
        bucket.put_object(Key="photos/notes.txt", Body=b"no photo")
        bucket.put_object(Key="elsewhere/1.jpg", Body=jpeg(99))
        table = write_table(tmp_path / "more.parquet", [jpeg(number) for number in range(20, 25)])
        other = write_table(tmp_path / "other.parquet", [jpeg(number) for number in range(30, 35)])
        for name in ("less", "more", "other"):
            bucket.put_object(Key=f"photos/{name}.parquet", Body=table.read_bytes())
        ask = request("s3://shop/photos/", tmp_path / "out", shard=5)
        list_photos(context(tmp_path), ask)
        bucket.Object("photos/2/pack 2 #1?.jpg").delete()
        bucket.Object("photos/less.parquet").delete()
        bucket.put_object(Key="photos/other.parquet", Body=other.read_bytes())
        bucket.put_object(Key="photos/0/pack 0 #1?.jpg", Body=jpeg(2000))
        detect(context(tmp_path), ask)
        found = rows(tmp_path / "out")
        assert len({(row["uri"], row["row"]) for row in found}) == len(found) == 27
        assert [row["uri"].removeprefix("s3://shop/photos/") for row in found if row["problem"] == "missing"] == [
            "0/pack 0 #1?.jpg", "2/pack 2 #1?.jpg", *["less.parquet"] * 5, *["other.parquet"] * 5
        ]  # fmt: skip
        assert sum(row["problem"] is None for row in found) == 15
        bucket.put_object(Key="photos/1/pack 1 #1?.jpg", Body=jpeg(1000))
        assert list_photos(context(tmp_path), ask).new == 7
        with pytest.raises(DataError, match="cannot be read"):
            list_photos(context(tmp_path), request("s3://no-such-bucket/x", tmp_path / "other"))
    finally:
        server.stop()


def test_what_is_there_is_kept_and_what_is_damaged_is_answered_again(tmp_path: Path) -> None:
    photos, out, lines = write_photos(tmp_path / "photos", range(30)), tmp_path / "out", list[str]()
    answer_collection(context(tmp_path, lines), request(photos, out))
    damaged, *_ = sorted(out.rglob(ROWS))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    lines.clear()
    answer_collection(context(tmp_path, lines), request(photos, out))
    assert any(line.startswith("2 of 3 shards are there already") for line in lines)
    assert set(places(out).values()) == {1} and len(places(out)) == 30


def test_another_model_has_rows_of_its_own(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos", range(3)), tmp_path / "out"
    answer_collection(context(tmp_path), request(photos, out))
    with running_app(Server(completion("no nutrition table", [-0.1])).app) as url:
        found = answer_collection(context(tmp_path), request(photos, out, engine="openai", url=url))
    assert sorted(path.name for path in (out / "detections").iterdir()) == ["fake", "weights"]
    assert "3 photos: 0 with a table, 3 without" in found.text


def test_answers_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", range(3))
    with running_app(Server(completion("perhaps here", [-0.1])).app) as url:
        found = answer_collection(context(tmp_path), request(photos, tmp_path / "out", engine="openai", url=url))
    assert "0 with a table, 0 without, 3 unreadable answers" in found.text


def test_an_engine_that_fails_on_everything_stops_the_run_and_writes_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its failures must not stand in the output as if the photos had been looked at."""
    monkeypatch.setattr(replica, "_PAUSES", (0.0,))
    photos, out = write_photos(tmp_path / "photos", range(3)), tmp_path / "out"
    with (
        running_app(Server({"error": "out of memory"}, status=500).app) as url,
        pytest.raises(MachineError, match="the engine failed on all 3 photos"),
    ):
        answer_collection(context(tmp_path), request(photos, out, engine="openai", url=url))
    assert not list(out.rglob(ROWS))


def test_an_engine_that_goes_away_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, out = write_photos(tmp_path / "photos", range(3)), tmp_path / "out"
    with running_app(Server(completion(TEXT)).app) as url:
        job = replica.Replica(_job(tmp_path, photos, url))
    monkeypatch.setattr(replica, "_PAUSES", (0.0,))
    (part,) = list_photos(context(tmp_path), request(photos, out)).parts
    with pytest.raises(MachineError, match="the engine does not answer"):
        job.score(replica.Shard(part, 0))


def test_two_drivers_do_not_write_into_one_folder(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos", range(3)), tmp_path / "out"
    list_photos(context(tmp_path), request(photos, out))
    with claimed(out / LISTING), pytest.raises(ArtifactError, match="another process is writing here"):
        detect(context(tmp_path), request(photos, out))


def test_a_folder_of_another_collection_is_refused(tmp_path: Path) -> None:
    first, second = (write_photos(tmp_path / name, range(3)) for name in ("first", "second"))
    list_photos(context(tmp_path), request(first, tmp_path / "out"))
    with pytest.raises(ArtifactError, match="Take another --out"):
        list_photos(context(tmp_path), request(second, tmp_path / "out"))


@pytest.mark.parametrize(
    ("address", "words"), [("/no/such/folder", "does not exist"), ("https://example.org/x", "is no folder or bucket")]
)
def test_an_address_that_is_none_is_told(address: str, words: str) -> None:
    with pytest.raises((DataError, SettingsError), match=words):
        open_files(address)


@pytest.mark.parametrize(
    ("nodes", "wanted", "shards", "expected"),
    [
        ([{"CPU": 2.0}], None, 9, (2, 1.0, 0.0)),
        ([{"CPU": 16.0}], 2, 9, (2, 8.0, 0.0)),
        ([{"CPU": 2.0}], 4, 9, (4, 0.5, 0.0)),
        ([{"CPU": 1.0}, {"CPU": 1.0}], 1, 9, (1, 1.0, 0.0)),
        ([{"CPU": 1.0}, {"CPU": 1.0}], 3, 9, (3, 0.5, 0.0)),
        ([{"CPU": 8.0}, {"CPU": 2.0}, {}], 3, 9, (3, 2.0, 0.0)),
        ([{"CPU": 64.0, "GPU": 8.0}], None, 100, (8, 8.0, 1.0)),
        ([{"CPU": 32.0, "GPU": 4.0}, {"CPU": 96.0}], None, 100, (4, 8.0, 1.0)),
        ([{"CPU": 64.0, "GPU": 8.0}], None, 3, (3, 21.0, 1.0)),
    ],
)
def test_a_cluster_is_divided_among_replicas(
    nodes: list[dict[str, float]], wanted: int | None, shards: int, expected: tuple[int, float, float]
) -> None:
    """What no node has in one piece, Ray would wait for without end."""
    resources = share(nodes, wanted, shards)
    assert (resources.replicas, resources.cpus, resources.gpus) == expected


def test_the_embedded_model_answers_as_it_does_one_by_one(
    dataset: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nutridet_core.pipeline.prediction import load_answering
    from nutridet_core.predict import predict

    folder = tmp_path / "photos"
    folder.mkdir()
    for number, open_photo in enumerate(open_photos(dataset, "test")[:3]):
        open_photo().resize((224, 168)).save(folder / f"{number}.png")
    monkeypatch.setenv("NUTRIDET_HOME", str(home))
    result = CliRunner().invoke(cli.app, ["predict", "--input", str(folder), "--out", str(tmp_path / "out"), "--local"])
    assert result.exit_code == 0, result.output
    assert "3 photos: " in result.output
    here = context(home)
    model, processor = load_answering(here, None)
    opened = [open_files(str(folder)).read(str(path), 10**7) for path in sorted(folder.iterdir())]
    expected = predict(model, processor, here.profile.contract, [_opener(data) for data in opened],
                       batch_size=3, max_new_tokens=here.profile.max_new_tokens)  # fmt: skip
    found = rows(tmp_path / "out")
    assert [row["text"] for row in found] == [prediction.answer.text for prediction in expected]
    assert [Box(**box) for row in found for box in row["boxes_unit"]] == [
        box for prediction in expected for box in prediction.answer.boxes
    ]
    assert {len(row["model"]) for row in found} == {64}


def test_what_predict_cannot_do_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUTRIDET_HOME", str(tmp_path))
    photos = write_photos(tmp_path / "photos", range(1))
    for arguments, words in (
        ([], "no photo is named"),
        (["--input", str(photos), "--engine", "magic"], "no engine 'magic'"),
        (["--input", str(photos), str(photos / "00000.jpg")], "not both"),
    ):
        result = CliRunner().invoke(cli.app, ["predict", "--out", str(tmp_path / "out"), *arguments])
        assert result.exit_code == 1 and words in result.output, result.output


def _opener(data: bytes) -> Any:
    from nutridet_core.data.photos import load_photo

    return lambda: load_photo(data)


def _job(home: Path, photos: Path, url: str) -> replica.Job:
    from nutridet_core.collection.detection import _job

    ask: Request = request(photos, home / "out", engine="openai", url=url)
    return _job(context(home), ask, open_files(str(photos)))


def _bucket_settings(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "for-moto",
        "AWS_SECRET_ACCESS_KEY": "for-moto",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture(autouse=True)
def _no_cluster() -> Iterator[None]:
    """A cluster that somebody has named must not be used."""
    before = os.environ.pop("RAY_ADDRESS", None)
    yield
    if before is not None:
        os.environ["RAY_ADDRESS"] = before
