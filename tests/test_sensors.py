"""Sensors: what moved is noticed once, also when it moves back, and the first look only remembers."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from nutridet_assets import sensors
from nutridet_core.pipeline.release import model_registry, register_release
from nutridet_core.release.registry import CHAMPION, Registry
from tests.release_samples import make_champion, open_home, write_release


@pytest.fixture(scope="module")
def two_versions(release_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A home whose champion is version 2."""
    context = open_home(Path(shutil.copytree(release_home, tmp_path_factory.mktemp("two") / "home")))
    register_release(context)
    write_release(context, "other weights")
    register_release(context)
    return model_registry(context)


@pytest.fixture
def registry(two_versions: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("NUTRIDET_HOME", str(Path(two_versions.tracker.uri.removeprefix("sqlite:///")).parent))
    make_champion(two_versions, "2")
    return two_versions


def look(sensor: dg.SensorDefinition, cursor: str | None) -> tuple[list[dg.RunRequest], str | None, str | None]:
    """What it asks for, what it remembers, and why it asks for nothing."""
    found = sensor.evaluate_tick(dg.build_sensor_context(cursor=cursor))
    return list(found.run_requests or ()), found.cursor, found.skip_message


def test_the_first_look_at_the_champion_only_remembers(registry: Registry) -> None:
    assert look(sensors.moved_champion, None) == ([], "2", "remembered the champion as it is now")
    assert look(sensors.moved_champion, "2") == ([], "2", "the champion has not changed")


def test_a_moved_champion_is_scored_and_so_is_one_that_moves_back(registry: Registry) -> None:
    cursor: str | None = "2"
    for version in ("1", "2", "1"):
        make_champion(registry, version)
        (request,), cursor, _ = look(sensors.moved_champion, cursor)
        assert request.run_key is None, "Dagster would take the second visit of a version for the first"
        assert cursor == version
    assert sensors.moved_champion.job_name == "reevaluate"


def test_an_alias_that_is_gone_asks_for_nothing_and_its_return_does(registry: Registry) -> None:
    registry.tracker.client.delete_registered_model_alias(registry.model, CHAMPION)
    requests, cursor, said = look(sensors.moved_champion, "2")
    assert (requests, said) == ([], "there is no champion")
    make_champion(registry, "1")
    assert len(look(sensors.moved_champion, cursor)[0]) == 1


def test_a_home_without_mlflow_stays_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUTRIDET_HOME", str(tmp_path))
    assert look(sensors.moved_champion, None)[2] == "there is no champion"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sensor", "job"),
    [(sensors.new_photos, "pipeline"), (sensors.new_photos_for_champion, "reevaluate_on_new_photos")],
)
def test_new_photos_are_noticed_once(
    sensor: dg.SensorDefinition, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUTRIDET_HOME", str(tmp_path))
    monkeypatch.setenv("NUTRIDET_SOURCE", "generated:10")
    requests, cursor, _ = look(sensor, None)
    assert (requests, look(sensor, cursor)[0]) == ([], [])
    monkeypatch.setenv("NUTRIDET_SOURCE", "generated:11")
    requests, cursor, _ = look(sensor, cursor)
    assert len(requests) == 1
    assert look(sensor, cursor)[0] == []
    assert sensor.job_name == job
    assert sensor.description
