"""The assets of a collection: listed into partitions, backfilled in one run, with what people look at."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from nutridet_assets.assets.detection import collection_listing, detections
from nutridet_assets.partitions import collection_parts
from nutridet_assets.resources import Worker
from nutridet_core.collection import listing
from tests.collections_of_photos import context, request, write_photos
from tests.gateway_server import running_app
from tests.openai_server import TEXT, Server, completion


def test_parts_of_a_collection_are_partitions_that_stay_when_it_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_photos(tmp_path / "shop photos", range(25))
    (photos / "00007.jpg").write_bytes(b"no photo")
    monkeypatch.setenv("NUTRIDET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NUTRIDET_COLLECTION", str(photos))
    monkeypatch.setenv("NUTRIDET_DETECTION_ENGINE", "openai")
    monkeypatch.setenv("NUTRIDET_DETECTION_LOCAL", "true")
    resources = {"worker": Worker()}
    with (
        running_app(Server(completion(TEXT, [-0.1])).app) as url,
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
    ):
        monkeypatch.setenv("NUTRIDET_DETECTION_URL", url)
        dg.materialize([collection_listing], instance=instance, resources=resources)
        (first,) = instance.get_dynamic_partitions(str(collection_parts.name))
        assert first.startswith("shop-photos-") and first.endswith(".00000")
        made = dg.materialize(
            [collection_listing, detections], selection=[detections], partition_key=first, instance=instance,
            resources=resources,
        )  # fmt: skip
        assert made.success
        event = instance.get_latest_materialization_event(dg.AssetKey("detections"))
        assert event is not None and event.asset_materialization is not None
        shown = {name: entry.value for name, entry in event.asset_materialization.metadata.items()}
        assert (shown["photos"], shown["with_box"], shown["no_answer"], shown["problem: unreadable"]) == (25, 24, 1, 1)
        assert "data:image/jpeg;base64," in shown["sheet picture"]
        assert shown["photos_per_worker_hour"] > 0
        write_photos(photos, range(100, 103))
        dg.materialize([collection_listing], instance=instance, resources=resources)
        assert instance.get_dynamic_partitions(str(collection_parts.name)) == [first, first[:-1] + "1"]


def test_a_large_listing_is_cut_into_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nutridet_core.collection.detection import list_photos

    monkeypatch.setattr(listing, "SHARDS_IN_PART", 2)
    photos = write_photos(tmp_path / "photos", range(45))
    found = list_photos(context(tmp_path), request(photos, tmp_path / "out"))
    assert [part.shards for part in found.parts] == [(10, 10), (10, 10), (5,)]
